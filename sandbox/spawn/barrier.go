package spawn

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// barrier is the parent's side of the stops in a plan: the child writes a byte and waits for one, 1 to go on.
type barrier struct {
	mine  *os.File
	child *os.File
	err   error         // of the hook; valid after done
	done  chan struct{} // closed by serve
	busy  bool          // serve was started
}

// newBarrier adds the inputs sync (the child's end) and sync.parent (for the child to close) to in.
func newBarrier(in map[string]uintptr) (*barrier, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make barrier: %w", err)
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		unix.Close(fds[0])
		unix.Close(fds[1])
		return nil, fmt.Errorf("make barrier: %w", err)
	}
	b := &barrier{
		mine:  os.NewFile(uintptr(fds[0]), "barrier"),
		child: os.NewFile(uintptr(fds[1]), "barrier of child"),
		done:  make(chan struct{}),
	}
	in["sync"], in["sync.parent"] = uintptr(fds[1]), uintptr(fds[0])
	return b, nil
}

// serve answers n stops of the child. It ends early when the child fails (close ends the read).
func (b *barrier) serve(m *machine, n int, hook func(int) error) {
	defer close(b.done)
	buf := make([]byte, 1)
	for range n {
		if _, err := b.mine.Read(buf); err != nil {
			return
		}
		buf[0] = 1
		if hook != nil {
			if b.err = hook(int(atomic.LoadInt32(&m.tid))); b.err != nil {
				buf[0] = 0
			}
		}
		if _, err := b.mine.Write(buf); err != nil && b.err == nil {
			b.err = fmt.Errorf("release child: %w", err)
			return
		}
	}
}

// hookError closes the barrier and returns what the hook said; nil on a nil barrier.
func (b *barrier) hookError() error {
	if b == nil {
		return nil
	}
	b.close()
	return b.err
}

// close ends serve and waits for it.
func (b *barrier) close() {
	if err := b.mine.Close(); errors.Is(err, os.ErrClosed) {
		return
	}
	b.child.Close()
	if b.busy {
		<-b.done
	}
}
