package mdns

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Link is where a machine's name is said.
type Link struct {
	Name  string
	Index int
	Host  string
	Log   func(format string, args ...any)
}

type heard struct {
	msg  []byte
	from netip.AddrPort
}

// Run speaks until ctx ends, and then says goodbye. What addresses sends are the link's addresses from then on.
func (l Link) Run(ctx context.Context, addresses <-chan []netip.Prefix) {
	m := &machine{host: l.Host, rand: rand.Uint32}
	in := make(chan heard)
	done := make(chan struct{})
	defer close(done)
	four, err4 := l.listen("udp4", "0.0.0.0:5353")
	six, err6 := l.listen("udp6", "[::]:5353")
	for _, err := range []error{err4, err6} {
		if err != nil {
			l.Log("mdns on %s: %v", l.Name, err)
		}
	}
	for _, c := range []*net.UDPConn{four, six} {
		if c != nil {
			defer c.Close()
			go receive(c, in, done)
		}
	}
	send := func(all []packet) {
		for _, p := range all {
			l.send(four, six, p)
		}
	}
	name := ""
	for {
		var timer <-chan time.Time
		if !m.wake.IsZero() {
			timer = time.After(time.Until(m.wake))
		}
		select {
		case <-ctx.Done():
			send(m.goodbye())
			return
		case a := <-addresses:
			send(m.set(time.Now(), a))
		case h := <-in:
			send(m.hear(time.Now(), h.msg, h.from, isOwn(h.from.Addr())))
		case <-timer:
			send(m.tick(time.Now()))
		}
		if m.state == announced && m.label() != name {
			name = m.label()
			l.Log("mdns on %s: this machine is %s.local", l.Name, name)
		}
	}
}

// isOwn says whether an address is one of this machine's.
func isOwn(a netip.Addr) bool {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	for _, o := range all {
		if n, is := o.(*net.IPNet); is && n.IP.Equal(a.AsSlice()) {
			return true
		}
	}
	return false
}

func (l Link) send(four, six *net.UDPConn, p packet) {
	index := strconv.Itoa(l.Index) // by its name package net would remember an old one
	if p.to.IsValid() {
		if c := four; p.to.Addr().Unmap().Is4() && c != nil {
			c.WriteToUDPAddrPort(p.data, netip.AddrPortFrom(p.to.Addr().Unmap(), p.to.Port()))
		} else if six != nil {
			six.WriteToUDPAddrPort(p.data, netip.AddrPortFrom(p.to.Addr().WithZone(index), p.to.Port()))
		}
		return
	}
	// A link without an address of a family can't send by it: those who have one only are not there either.
	if four != nil {
		four.WriteToUDPAddrPort(p.data, netip.AddrPortFrom(netip.AddrFrom4([4]byte{224, 0, 0, 251}), 5353))
	}
	if six != nil {
		six.WriteToUDPAddrPort(p.data, netip.AddrPortFrom(netip.AddrFrom16([16]byte{0xff, 2, 15: 0xfb}).WithZone(index), 5353))
	}
}

func receive(c *net.UDPConn, in chan<- heard, done <-chan struct{}) {
	for buf := make([]byte, 9000); ; {
		n, from, err := c.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		select {
		case in <- heard{append([]byte(nil), buf[:n]...), from}:
		case <-done:
			return
		}
	}
}

// listen opens a socket that hears one link only, and beside others of this machine that listen for mDNS too.
func (l Link) listen(network, address string) (*net.UDPConn, error) {
	lc := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		cerr := raw.Control(func(fd uintptr) { err = l.prepare(int(fd), network == "udp6") })
		if cerr != nil {
			return cerr
		}
		return err
	}}
	p, err := lc.ListenPacket(context.Background(), network, address)
	if err != nil {
		return nil, fmt.Errorf("listen by %s: %w", network, err)
	}
	return p.(*net.UDPConn), nil
}

// prepare joins the group (RFC 6762, 3), and sets the TTL that says that no router has passed a packet on (11).
func (l Link) prepare(fd int, six bool) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return err
	}
	if err := unix.BindToDevice(fd, l.Name); err != nil {
		return err
	}
	if six {
		group := &unix.IPv6Mreq{Multiaddr: [16]byte{0xff, 2, 15: 0xfb}, Interface: uint32(l.Index)}
		for opt, v := range map[int]int{unix.IPV6_V6ONLY: 1, unix.IPV6_MULTICAST_HOPS: 255, unix.IPV6_UNICAST_HOPS: 255, unix.IPV6_MULTICAST_IF: l.Index} {
			if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, opt, v); err != nil {
				return err
			}
		}
		return unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP, group)
	}
	for opt, v := range map[int]int{unix.IP_MULTICAST_TTL: 255, unix.IP_TTL: 255} {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, opt, v); err != nil {
			return err
		}
	}
	group := &unix.IPMreqn{Multiaddr: [4]byte{224, 0, 0, 251}, Ifindex: int32(l.Index)}
	if err := unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_IF, group); err != nil {
		return err
	}
	return unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP, group)
}
