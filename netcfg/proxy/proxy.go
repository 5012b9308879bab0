// Package proxy carries what comes to published ports to containers where the kernel cannot: without nf_tables or NAT. All
// ports are watched by one epoll(7), itself watched by Go's poller: a port costs a descriptor, no process, thread or goroutine.
// A TCP connection has two goroutines, which move its bytes by splice(2); UDP has none, and a socket for each client. Containers
// see the host as the caller. It imports nothing else of coble.
package proxy

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Port is a port of the host's that leads to a container.
type Port struct {
	Proto string         // tcp or udp
	At    netip.AddrPort // an unspecified address: each of that family's
	Link  int            // index of the only link that it is reached through; 0: any
	Share bool           // there are others of its kind, at another address or link
	To    netip.AddrPort
}

func (p Port) String() string { return fmt.Sprintf("%s/%s", p.At, p.Proto) }

// Proxy is the ports of one engine. Its methods may be called from any goroutine.
type Proxy struct {
	mu      sync.Mutex
	poll    *os.File           // of epfd; nil before the first port and after Close; guarded by mu
	epfd    int                // guarded by mu
	buf     []byte             // for a datagram; guarded by mu
	ports   map[Port]*listener // guarded by mu
	sockets map[int]socket     // by descriptor, of listeners and UDP clients; guarded by mu
	flows   int                // UDP clients of all ports; guarded by mu
}

// socket is something to wait for. Its ready is called with the Proxy's mu held.
type socket interface{ ready(p *Proxy) }

// listener is one port's socket.
type listener struct {
	Port
	fd                 int
	flows              map[client]*flow // of UDP
	connections, bytes atomic.Uint64    // of UDP: callers, and what they and the container said
}

// New makes one without any ports.
func New() *Proxy { return &Proxy{ports: map[Port]*listener{}, sockets: map[int]socket{}} }

// Set makes the ports be these: the others are closed, and those that stay keep their connections. Of those that cannot be
// bound the error tells; the others are there.
func (p *Proxy) Set(ports []Port) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	wanted := map[Port]bool{}
	for _, w := range ports {
		wanted[w] = true
	}
	for w, l := range p.ports {
		if !wanted[w] {
			p.close(l)
		}
	}
	var errs error
	for w := range wanted {
		if p.ports[w] == nil {
			errs = errors.Join(errs, p.open(w))
		}
	}
	return errs
}

// Count tells how many connections, or callers of UDP, came to these ports since they were opened, and how many bytes went
// through them both ways: of a connection that goes on, up to the last MiB each way.
func (p *Proxy) Count(ports []Port) (connections, bytes uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, w := range ports {
		if l := p.ports[w]; l != nil {
			connections += l.connections.Load()
			bytes += l.bytes.Load()
		}
	}
	return connections, bytes
}

// Close closes all ports. TCP connections go on.
func (p *Proxy) Close() error {
	err := p.Set(nil)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.poll != nil {
		err = errors.Join(err, p.poll.Close())
		p.poll = nil
	}
	return err
}

// open binds a port. Called with mu held.
func (p *Proxy) open(w Port) (err error) {
	if p.poll == nil {
		if err := p.start(); err != nil {
			return err
		}
	}
	l := &listener{Port: w, flows: map[client]*flow{}}
	kind := unix.SOCK_STREAM
	if w.Proto == "udp" {
		kind = unix.SOCK_DGRAM
	}
	if l.fd, err = unix.Socket(family(w.At.Addr()), kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0); err != nil {
		return fmt.Errorf("open socket for port %s: %w", w, err)
	}
	if err = l.bind(kind); err == nil {
		err = p.watch(l.fd, l)
	}
	if err != nil {
		unix.Close(l.fd)
		return fmt.Errorf("bind port %s: %w", w, err)
	}
	p.ports[w] = l
	return nil
}

func family(a netip.Addr) int {
	if a.Is6() {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

// backlog is how many connections wait at most to be accepted (listen(2); the kernel has a limit of its own).
const backlog = 4096

func (l *listener) bind(kind int) error {
	set := func(level, option, value int) error { return unix.SetsockoptInt(l.fd, level, option, value) }
	var errs error
	if l.At.Addr().Is6() {
		errs = errors.Join(set(unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1), set(unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, 1), set(unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1))
	} else {
		errs = errors.Join(set(unix.IPPROTO_IP, unix.IP_FREEBIND, 1), set(unix.IPPROTO_IP, unix.IP_PKTINFO, 1)) // ip(7): an address may come later
	}
	if kind == unix.SOCK_STREAM {
		errs = errors.Join(errs, set(unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
	}
	if l.Link != 0 {
		errs = errors.Join(errs, set(unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX, l.Link))
	}
	if l.Share { // ip(7): what is bound to a link and what is not would be in each other's way
		errs = errors.Join(errs, set(unix.SOL_SOCKET, unix.SO_REUSEPORT, 1))
	}
	if errs != nil {
		return errs
	}
	if err := unix.Bind(l.fd, sockaddr(l.At)); err != nil {
		return err
	}
	if kind == unix.SOCK_STREAM {
		return unix.Listen(l.fd, backlog)
	}
	return nil
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is6() {
		return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
	}
	return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
}

// close gives a port up. Called with mu held.
func (p *Proxy) close(l *listener) {
	for _, f := range l.flows {
		p.drop(f)
	}
	p.forget(l.fd)
	delete(p.ports, l.Port)
}

// watch and forget a descriptor, which forget closes. Called with mu held.
func (p *Proxy) watch(fd int, s socket) error {
	p.sockets[fd] = s
	return unix.EpollCtl(p.epfd, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)})
}

func (p *Proxy) forget(fd int) {
	delete(p.sockets, fd)
	unix.Close(fd) // which takes it out of the epoll
}

// start begins to wait. Called with mu held.
func (p *Proxy) start() error {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return fmt.Errorf("make epoll for published ports: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // so that Go's poller takes it
		unix.Close(fd)
		return fmt.Errorf("make epoll for published ports: %w", err)
	}
	p.epfd, p.poll, p.buf = fd, os.NewFile(uintptr(fd), "epoll"), make([]byte, 1<<16)
	raw, err := p.poll.SyscallConn()
	if err != nil {
		return fmt.Errorf("make epoll for published ports: %w", err)
	}
	go p.loop(p.poll, raw)
	return nil
}

// sweepEvery is how often UDP clients that have gone quiet are looked for.
const sweepEvery = 10 * time.Second
