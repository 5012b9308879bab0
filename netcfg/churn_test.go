package netcfg

import (
	"fmt"
	"os"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/netcfg/nstest"
)

// TestChurn: links that come and go while the kernel's list is read are no error.
func TestChurn(t *testing.T) {
	nstest.Own(t)
	h, n := testHost()
	for i := range 200 { // a list of more than one message
		require.NoError(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: fmt.Sprintf("many%d", i)}}))
	}
	here, err := os.Open("/proc/thread-self/ns/net")
	require.NoError(t, err)
	defer here.Close()
	stop, stopped := make(chan struct{}), make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		err := unix.Setns(int(here.Fd()), unix.CLONE_NEWNET)
		for i := 0; err == nil; i++ {
			select {
			case <-stop:
				stopped <- nil
				return
			default:
			}
			b := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: fmt.Sprintf("churn%d", i%7)}}
			if err = netlink.LinkAdd(b); err == nil {
				err = netlink.LinkDel(b)
			}
		}
		stopped <- err
	}()
	for range 100 {
		require.NoError(t, h.Set(Config{Networks: []Network{n}}))
	}
	close(stop)
	require.NoError(t, <-stopped)
}
