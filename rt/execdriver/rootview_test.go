package execdriver

import (
	"os"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// The process's first thread outlives every goroutine, and what it has mounted in a namespace of its own would be seen
// as the process's mounts for ever. So many are at work at once that every thread is taken.
func TestFirstThreadStaysWhereItIs(t *testing.T) {
	const many = 64
	for range 20 {
		var all sync.WaitGroup
		all.Add(many)
		done := make(chan int, many)
		for range many {
			go func() {
				tid := 0
				f, err := onOwnThread("/", func() (int, error) {
					tid = unix.Gettid()
					all.Done()
					all.Wait()
					return unix.Open("/", unix.O_PATH|unix.O_CLOEXEC, 0)
				})
				if err == nil {
					f.Close()
				}
				done <- tid
			}()
		}
		for range many {
			require.NotEqual(t, os.Getpid(), <-done)
		}
	}
}
