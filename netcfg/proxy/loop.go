package proxy

import (
	"errors"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// loop hands what is ready to its socket until poll is closed.
func (p *Proxy) loop(poll *os.File, raw syscall.RawConn) {
	events := make([]unix.EpollEvent, 64)
	swept := time.Now()
	for {
		if err := poll.SetReadDeadline(time.Now().Add(sweepEvery)); err != nil {
			return
		}
		n := 0
		var failed error
		err := raw.Read(func(fd uintptr) bool {
			n, failed = unix.EpollWait(int(fd), events, 0)
			return n != 0
		})
		if errors.Is(failed, unix.EINTR) {
			continue
		}
		if failed != nil || err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
		p.mu.Lock()
		for _, e := range events[:max(n, 0)] {
			if s := p.sockets[int(e.Fd)]; s != nil {
				s.ready(p)
			}
		}
		if now := time.Now(); now.Sub(swept) >= sweepEvery {
			swept = now
			p.sweep(now)
		}
		p.mu.Unlock()
	}
}
