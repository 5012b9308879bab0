package dhcp

import (
	"bytes"
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

// Client is for one link and one family.
type Client struct {
	Link  string // its name
	Index int
	MAC   net.HardwareAddr
	Host  string // tells servers this machine's name; empty: not
	V6    bool
	// Delegate asks for a prefix too, of PrefixLength bits or, for 0, what the server thinks right (V6 only).
	Delegate     bool
	PrefixLength int
	// Held is a lease that an earlier client got, nil for none: it is asked for again. Address, Prefix and Until are enough.
	Held *Lease
	// Taken tells of addresses that the kernel has found another host to have (V6 only; of IPv4 the client finds out). May be nil.
	Taken <-chan netip.Addr
	// Got is called by Run for each lease, renewed ones too, and with nil when one has run out or was taken back.
	Got func(*Lease)
	// Trouble hears of what keeps it from a lease; it is over with the next one. May be nil.
	Trouble func(text string)
	// Log hears of what goes wrong, that too.
	Log func(format string, args ...any)
}

type conn interface {
	send(o *out) error
	recv(buf []byte) ([]byte, error) // what comes in, in memory of its own; ends with an error after close
	rivals() *rivals                 // nil: the kernel looks for others that have the address
	close()
}

// Run asks, and keeps asking, until ctx ends. What carrier sends makes it ask whether its lease still holds: the link was
// down, and may be on another network now.
func (c Client) Run(ctx context.Context, carrier <-chan struct{}) {
	for pause := time.Second; ctx.Err() == nil; pause = min(2*pause, time.Minute) {
		conn, m, err := c.open()
		if err == nil {
			err = c.exchange(ctx, conn, m, carrier)
			c.Held = m.held
		}
		if ctx.Err() != nil {
			return
		}
		c.trouble("%v; next try in %v", err, pause)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
}

func (c Client) trouble(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	c.Log("dhcp on %s: %s", c.Link, text)
	if c.Trouble != nil {
		c.Trouble(text)
	}
}

func (c Client) open() (conn, *machine, error) {
	if c.V6 {
		u, err := listenUDP("udp6", "[::]:546", c.Link)
		codec := newCodec6(c.MAC, c.Link)
		codec.delegate, codec.hint = c.Delegate, c.PrefixLength
		return conn6{u, c.Index}, &machine{codec: codec, rand: rand.Uint32, held: c.Held}, err
	}
	conn, err := open4(c.Link, c.Index, c.MAC)
	return conn, &machine{codec: codec4{c.MAC, c.Host}, rand: rand.Uint32, held: c.Held, probes: true}, err
}

// exchange ends with an error of the socket's, or with ctx.
func (c Client) exchange(ctx context.Context, k conn, m *machine, carrier <-chan struct{}) error {
	ended := context.AfterFunc(ctx, k.close)
	defer func() { ended(); k.close() }()
	heard, claimed, lost := make(chan []byte), make(chan net.HardwareAddr), make(chan error, 2)
	stop := make(chan struct{})
	defer close(stop)
	go receive(65536, k.recv, heard, lost, stop)
	if r := k.rivals(); r != nil {
		go receive(arpSize, r.recv, claimed, lost, stop)
	}
	was := m.held
	o := m.begin(time.Now())
	for {
		if m.held != was {
			was = m.held
			c.Got(was)
		}
		if o != nil {
			err := k.send(o)
			switch {
			case m.tries != patience: // at first a link may not be ready, and later it has been said
			case err != nil:
				c.Log("dhcp on %s: send: %v", c.Link, err)
			case m.state == selecting:
				c.trouble("no server has answered yet, and asking goes on: see that there is one on this network")
			}
		}
		var timer <-chan time.Time
		if !m.wake.IsZero() {
			timer = time.After(time.Until(m.wake))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-lost:
			return fmt.Errorf("receive: %w", err)
		case b := <-heard:
			o = m.hear(b, time.Now())
		case who := <-claimed:
			if o = m.rival(time.Now()); o != nil {
				claim := fmt.Sprintf("%s is in use by %s: ", o.lease.Address.Addr(), who)
				if m.state == declined {
					c.trouble("%sgive that one another address; the server is told, and asked for a different one in %v", claim, time.Until(m.wake).Round(time.Second))
				} else {
					c.Log("dhcp on %s: %sit is told that the address is ours", c.Link, claim)
				}
			}
		case a := <-c.Taken:
			if o = m.taken(a, time.Now()); o != nil {
				was = m.held
				c.Got(was) // before the trouble, which it would end
				c.trouble("%s is in use by another host on this link, and the kernel's log (dmesg) says by which: give that one another address; the server is told, and asked for a different one in %v", a, time.Until(m.resume).Round(time.Second))
			}
		case <-carrier:
			o = m.begin(time.Now())
		case <-timer:
			o = m.tick(time.Now())
		}
	}
}

// receive passes on what comes in, in packets of size bytes at most, until there is an error or a stop.
func receive[T any](size int, recv func(buf []byte) (T, error), heard chan<- T, lost chan<- error, stop <-chan struct{}) {
	for buf := make([]byte, size); ; {
		v, err := recv(buf)
		if err != nil {
			lost <- err
			return
		}
		select {
		case heard <- v:
		case <-stop:
			return
		}
	}
}

// listenUDP opens a socket that sees one link only.
func listenUDP(network, address, link string) (*net.UDPConn, error) {
	lc := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		cerr := raw.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
			if err == nil {
				err = unix.BindToDevice(int(fd), link)
			}
			if err == nil && network == "udp6" {
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)
			}
		})
		if cerr != nil {
			return cerr
		}
		return err
	}}
	p, err := lc.ListenPacket(context.Background(), network, address)
	if err != nil {
		return nil, err
	}
	return p.(*net.UDPConn), nil
}

// conn6 speaks to all servers on the link, always: the option that lets clients send to one is seldom used and obsolete.
type conn6 struct {
	udp   *net.UDPConn
	index int
}

func (c conn6) close() { c.udp.Close() }

func (c conn6) rivals() *rivals { return nil }

func (c conn6) send(o *out) error {
	servers := netip.MustParseAddr("ff02::1:2").WithZone(strconv.Itoa(c.index)) // by its name package net would remember an old one
	_, err := c.udp.WriteToUDPAddrPort(o.payload, netip.AddrPortFrom(servers, 547))
	return err
}

func (c conn6) recv(buf []byte) ([]byte, error) {
	n, _, err := c.udp.ReadFromUDPAddrPort(buf)
	return bytes.Clone(buf[:n]), err
}
