package api

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func newBytes(b []byte) io.Reader { return bytes.NewReader(bytes.Clone(b)) }

// contextOf ends when the client hangs up. After a hijack nobody else watches the connection; a client that writes is
// noticed by its reader, one that only listens by polling for the hang-up once a second.
func contextOf(r *http.Request, conn net.Conn) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.Context()))
	go func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				if hungUp(conn) {
					cancel()
					return
				}
			}
		}
	}()
	return ctx, cancel
}

// hungUp says whether the peer has closed both directions.
func hungUp(conn net.Conn) bool {
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return true
	}
	gone := false
	raw.Control(func(fd uintptr) {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		if n, err := unix.Poll(fds, 0); err == nil && n > 0 {
			gone = fds[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0
		}
	})
	return gone
}
