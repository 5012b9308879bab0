package proxy

import (
	"errors"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// quiet is how long a client of UDP keeps its socket without a word from either side.
const quiet = 90 * time.Second

// maxFlows bounds the clients of all ports: callers' addresses can be made up.
const maxFlows = 4096

// client is a caller, and the address that it calls, which it expects the answers from.
type client struct {
	from netip.AddrPort
	at   netip.Addr
	zone uint32 // of a link-local caller
}

// flow is a client's socket towards the container.
type flow struct {
	l    *listener
	who  client
	fd   int
	last time.Time
}

func (l *listener) ready(p *Proxy) {
	if l.Proto == "udp" {
		l.receive(p)
	} else {
		l.accept(p)
	}
}

// receive passes datagrams on to the container.
func (l *listener) receive(p *Proxy) {
	buf, oob := p.buf, make([]byte, 128)
	for range turns {
		n, oobn, _, from, err := unix.Recvmsg(l.fd, buf, oob, unix.MSG_DONTWAIT)
		if err != nil {
			if errors.Is(err, unix.EAGAIN) {
				return
			}
			continue // an answer of ours found nobody
		}
		who := client{at: destination(oob[:oobn])}
		switch a := from.(type) {
		case *unix.SockaddrInet4:
			who.from = netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
		case *unix.SockaddrInet6:
			who.from, who.zone = netip.AddrPortFrom(netip.AddrFrom16(a.Addr), uint16(a.Port)), a.ZoneId
		}
		f := l.flows[who]
		if f == nil {
			if f = p.newFlow(l, who); f == nil {
				continue
			}
		}
		f.last = time.Now()
		l.bytes.Add(uint64(n))
		unix.Sendto(f.fd, buf[:n], unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, nil) // what finds no room is lost, as UDP may be
	}
}

// destination is the address that a datagram was sent to (ip(7), IP_PKTINFO; ipv6(7), IPV6_PKTINFO).
func destination(oob []byte) netip.Addr {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return netip.Addr{}
	}
	for _, m := range messages {
		switch {
		case m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_PKTINFO && len(m.Data) >= unix.SizeofInet4Pktinfo:
			return netip.AddrFrom4([4]byte(m.Data[4:8])) // ipi_spec_dst: the host's own, also of what was sent to all
		case m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_PKTINFO && len(m.Data) >= unix.SizeofInet6Pktinfo:
			return netip.AddrFrom16([16]byte(m.Data[:16]))
		}
	}
	return netip.Addr{}
}

// newFlow opens a client's socket, or returns nil where there is no room for one. Called with mu held.
func (p *Proxy) newFlow(l *listener, who client) *flow {
	if p.flows >= maxFlows {
		return nil
	}
	fd, err := unix.Socket(family(l.To.Addr()), unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	f := &flow{l: l, who: who, fd: fd}
	if err = unix.Connect(fd, sockaddr(l.To)); err == nil {
		err = p.watch(fd, f)
	}
	if err != nil {
		p.forget(fd)
		return nil
	}
	l.flows[who] = f
	l.connections.Add(1)
	p.flows++
	return f
}

// drop closes a client's socket. Called with mu held.
func (p *Proxy) drop(f *flow) {
	p.forget(f.fd)
	delete(f.l.flows, f.who)
	p.flows--
}

// ready passes answers back, from the address that was called.
func (f *flow) ready(p *Proxy) {
	buf := p.buf
	var oob []byte
	var to unix.Sockaddr = &unix.SockaddrInet6{Port: int(f.who.from.Port()), Addr: f.who.from.Addr().As16(), ZoneId: f.who.zone}
	switch {
	case f.who.from.Addr().Is4():
		to = sockaddr(f.who.from)
		if f.who.at.Is4() {
			oob = unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: f.who.at.As4()})
		}
	case f.who.at.Is6():
		oob = unix.PktInfo6(&unix.Inet6Pktinfo{Addr: f.who.at.As16()})
	}
	for range turns {
		n, _, err := unix.Recvfrom(f.fd, buf, unix.MSG_DONTWAIT)
		if errors.Is(err, unix.EAGAIN) {
			return
		}
		if err != nil { // nobody listens in the container
			continue
		}
		f.last = time.Now()
		f.l.bytes.Add(uint64(n))
		unix.SendmsgN(f.l.fd, buf[:n], oob, to, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	}
}

// sweep drops clients that have gone quiet. Called with mu held.
func (p *Proxy) sweep(now time.Time) {
	for _, l := range p.ports {
		for _, f := range l.flows {
			if now.Sub(f.last) > quiet {
				p.drop(f)
			}
		}
	}
}
