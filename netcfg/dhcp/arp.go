package dhcp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// rivals tells of others on the link that have an address: by ARP (RFC 826), as RFC 5227 says. Its socket's filter lets in
// nothing else, so that a busy link wakes nobody.
type rivals struct {
	socket *os.File
	index  int
	mac    net.HardwareAddr
}

const arpSize = 28 // bytes of an ARP packet of Ethernet and IPv4

// filterARP lets packets in whose sender claims the address and is not mac; no address: none. What only asks for it is no
// claim: switches ask so whether a device is still there, at the wrong moment too.
func filterARP(addr netip.Addr, mac net.HardwareAddr) []unix.SockFilter {
	const ld, ldh, jeq, ret = 0x20, 0x28, 0x15, 0x06
	if !addr.IsValid() {
		return []unix.SockFilter{{Code: ret, K: 0}}
	}
	return []unix.SockFilter{
		{Code: ldh, K: 2}, // protocol's type
		{Code: jeq, K: unix.ETH_P_IP, Jf: 7},
		{Code: ld, K: 14}, // sender's IP address
		{Code: jeq, K: binary.BigEndian.Uint32(addr.AsSlice()), Jf: 5},
		{Code: ld, K: 8}, // sender's hardware address
		{Code: jeq, K: binary.BigEndian.Uint32(mac), Jf: 2},
		{Code: ldh, K: 12},
		{Code: jeq, K: uint32(binary.BigEndian.Uint16(mac[4:])), Jt: 1},
		{Code: ret, K: 0xffff},
		{Code: ret, K: 0},
	}
}

func listenARP(name string, index int, mac net.HardwareAddr) (*rivals, error) {
	f, err := listenPacket(name, index, unix.ETH_P_ARP, filterARP(netip.Addr{}, mac))
	if err != nil {
		return nil, err
	}
	return &rivals{f, index, mac}, nil
}

// listenPacket opens a socket below IP (packet(7)) for one link and protocol.
func listenPacket(name string, index int, protocol uint16, filter []unix.SockFilter) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open packet socket: %w", err)
	}
	err = attach(fd, filter)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(protocol), Ifindex: index})
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("listen on %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), "packet socket of "+name), nil
}

func attach(fd int, f []unix.SockFilter) error {
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(f)), Filter: &f[0]})
}

// broadcast sends a packet's payload to all on the link.
func broadcast(f *os.File, index int, protocol uint16, payload []byte) error {
	sc, err := f.SyscallConn()
	if err != nil {
		return err
	}
	to := &unix.SockaddrLinklayer{Protocol: htons(protocol), Ifindex: index, Halen: 6, Addr: [8]byte{255, 255, 255, 255, 255, 255}}
	var sent error
	err = sc.Write(func(fd uintptr) bool {
		sent = unix.Sendto(int(fd), payload, 0, to)
		return sent != unix.EAGAIN
	})
	return errors.Join(err, sent)
}

// send asks who has the address, and listens to those who claim it from then on; or says that it is ours.
func (r *rivals) send(a ask, addr netip.Addr) error {
	if a == askProbe {
		sc, err := r.socket.SyscallConn()
		if err != nil {
			return err
		}
		var attached error
		if err = sc.Control(func(fd uintptr) { attached = attach(int(fd), filterARP(addr, r.mac)) }); err == nil {
			err = attached
		}
		if err != nil {
			return fmt.Errorf("listen for %s: %w", addr, err)
		}
	}
	return broadcast(r.socket, r.index, unix.ETH_P_ARP, arp(a, addr, r.mac))
}

// arp is a request about the address: a probe names no sender, an announcement the same as sender and target (RFC 5227, 1.1).
func arp(a ask, addr netip.Addr, mac net.HardwareAddr) []byte {
	b := make([]byte, arpSize)
	copy(b, []byte{0, 1, 8, 0, 6, 4, 0, 1})
	copy(b[8:14], mac)
	if a == askAnnounce {
		copy(b[14:18], addr.AsSlice())
	}
	copy(b[24:28], addr.AsSlice())
	return b
}

// Rivals looks for others on a link that have an address of IPv4 of this machine's, until ctx ends: now and whenever they speak
// up; and while somebody has it, again and again, with pauses of ten seconds to a minute. found is told who has it, and nil when
// nobody has it any more. The address is neither defended nor given up (RFC 5227, 2.4, c): it is the owner's will.
func Rivals(ctx context.Context, link string, index int, mac net.HardwareAddr, addr netip.Addr, found func(who net.HardwareAddr)) error {
	r, err := listenARP(link, index, mac)
	if err != nil {
		return err
	}
	ended := context.AfterFunc(ctx, func() { r.socket.Close() })
	defer func() { ended(); r.socket.Close() }()
	claimed, lost, stop := make(chan net.HardwareAddr), make(chan error, 1), make(chan struct{})
	defer close(stop)
	go receive(arpSize, r.recv, claimed, lost, stop)
	var known net.HardwareAddr
	pause := firstPause / 2
	for left := probeCount; ; { // probes, or 0: nobody has it
		var timer <-chan time.Time
		switch {
		case left > 0:
			if err := r.send(askProbe, addr); err != nil {
				return err
			}
			timer = time.After(time.Second)
		case known != nil:
			timer = time.After(pause)
		}
		select {
		case who := <-claimed:
			if known == nil {
				found(who)
			}
			if known = who; left > 0 {
				left, pause = 0, min(2*pause, lastPause)
			}
		case <-timer:
			switch {
			case left > 1:
				left--
			case left == 1:
				if left, pause = 0, firstPause/2; known != nil {
					known = nil
					found(nil)
				}
			default:
				left = probeCount
			}
		case err := <-lost:
			return err
		}
	}
}

// recv waits for the next one that claims the address. Other links of this machine are none: where two of them are on one
// network the kernel answers on both for each of its addresses.
func (r *rivals) recv(buf []byte) (net.HardwareAddr, error) {
	for {
		n, err := r.socket.Read(buf)
		if errors.Is(err, unix.ENETDOWN) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if n < arpSize {
			continue
		}
		who := net.HardwareAddr(slices.Clone(buf[8:14]))
		own, err := net.Interfaces()
		if err == nil && slices.ContainsFunc(own, func(i net.Interface) bool { return slices.Equal(i.HardwareAddr, who) }) {
			continue
		}
		return who, nil
	}
}
