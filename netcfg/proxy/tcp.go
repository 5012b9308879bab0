package proxy

import (
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// pause is how long a port that has no descriptor left for a connection is left alone.
const pause = 50 * time.Millisecond

// turns bounds what one port takes at a time, so that others get their turn too.
const turns = 64

// accept takes the connections that wait.
func (l *listener) accept(p *Proxy) {
	for range turns {
		fd, _, err := unix.Accept4(l.fd, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		switch {
		case errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.ENOMEM):
			time.Sleep(pause) // nobody could be accepted anyway
			return
		case errors.Is(err, unix.EAGAIN):
			return
		case err != nil: // of a connection that has gone (accept(2))
			continue
		}
		l.connections.Add(1)
		go carry(fd, l)
	}
}

// connectLimit bounds how long a container may take to accept.
const connectLimit = 30 * time.Second

// carry moves bytes between a caller, whose socket it closes, and the container.
func carry(fd int, l *listener) {
	f := os.NewFile(uintptr(fd), "")
	c, err := net.FileConn(f)
	f.Close()
	if err != nil {
		return
	}
	defer c.Close()
	caller, ok := c.(*net.TCPConn)
	if !ok {
		return
	}
	d := net.Dialer{Timeout: connectLimit}
	to, err := d.Dial("tcp", l.To.String())
	if err != nil {
		caller.SetLinger(0) // a reset, as a closed port gives
		return
	}
	defer to.Close()
	container := to.(*net.TCPConn)
	caller.SetKeepAlive(true)
	done := make(chan struct{})
	go func() {
		pass(caller, container, &l.bytes)
		close(done)
	}()
	pass(container, caller, &l.bytes)
	<-done
}

// counted is after how many bytes of one direction the count is brought up to date.
const counted = 1 << 20

// pass copies until from has no more, and tells both: the other direction goes on.
func pass(to, from *net.TCPConn, count *atomic.Uint64) {
	n, err := int64(counted), error(nil)
	for err == nil && n == counted {
		n, err = io.Copy(to, io.LimitReader(from, counted)) // which splices too
		count.Add(uint64(n))
	}
	from.CloseRead()
	if errors.Is(err, unix.ECONNRESET) { // so is the other's end, when its other direction has ended
		to.SetLinger(0)
		to.CloseRead()
		return
	}
	to.CloseWrite()
}
