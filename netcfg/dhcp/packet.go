package dhcp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// conn4 sends and receives below IP, as a link without an address must (packet(7)). Its other socket holds port 68: what
// a server sends to our own address would be answered with an ICMP error otherwise, and by it we ask for more time.
type conn4 struct {
	raw   *os.File
	udp   *net.UDPConn
	index int
}

// filter4 lets IPv4 packets in that hold the beginning of a UDP datagram to port 68 (kernel documentation,
// networking/filter). Without it a busy link's whole traffic would come this way.
func filter4() []unix.SockFilter {
	const ldb, ldh, ldx, ldhx, jeq, jset, ret = 0x30, 0x28, 0xb1, 0x48, 0x15, 0x45, 0x06
	return []unix.SockFilter{
		{Code: ldb, K: 9}, // protocol
		{Code: jeq, K: unix.IPPROTO_UDP, Jf: 6},
		{Code: ldh, K: 6}, // fragment's offset
		{Code: jset, K: 0x1fff, Jt: 4},
		{Code: ldx, K: 0}, // length of the IP header
		{Code: ldhx, K: 2},
		{Code: jeq, K: 68, Jf: 1},
		{Code: ret, K: 0xffff},
		{Code: ret, K: 0},
	}
}

func htons(v uint16) uint16 { return binary.NativeEndian.Uint16([]byte{byte(v >> 8), byte(v)}) }

func open4(name string, index int) (*conn4, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open packet socket: %w", err)
	}
	raw := os.NewFile(uintptr(fd), "packet socket of "+name)
	f := filter4()
	err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(f)), Filter: &f[0]})
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_IP), Ifindex: index})
	}
	if err != nil {
		raw.Close()
		return nil, fmt.Errorf("listen on %s: %w", name, err)
	}
	udp, err := listenUDP("udp4", "0.0.0.0:68", name)
	if err != nil {
		raw.Close()
		return nil, err
	}
	go drain(udp)
	return &conn4{raw, udp, index}, nil
}

// drain throws away what the packet socket has got too.
func drain(c *net.UDPConn) {
	for buf := make([]byte, 1); ; {
		if _, _, err := c.ReadFromUDPAddrPort(buf); err != nil {
			return
		}
	}
}

func (c *conn4) close() { c.raw.Close(); c.udp.Close() }

func (c *conn4) send(o *out) error {
	if o.to == askRenew {
		server, _ := netip.AddrFromSlice(o.lease.server)
		_, err := c.udp.WriteToUDPAddrPort(o.payload, netip.AddrPortFrom(server, 67))
		return err
	}
	from := netip.IPv4Unspecified()
	if o.to == askRebind {
		from = o.lease.Address.Addr()
	}
	sc, err := c.raw.SyscallConn()
	if err != nil {
		return err
	}
	to := &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_IP), Ifindex: c.index, Halen: 6, Addr: [8]byte{255, 255, 255, 255, 255, 255}}
	var sent error
	err = sc.Write(func(fd uintptr) bool {
		sent = unix.Sendto(int(fd), broadcast4(from, o.payload), 0, to)
		return sent != unix.EAGAIN
	})
	if err != nil {
		return err
	}
	return sent
}

// recv waits for the next datagram's payload. Checksums are not looked at: on virtual links they are not there yet, and
// on others the frame has one.
func (c *conn4) recv(buf []byte) ([]byte, error) {
	for {
		n, err := c.raw.Read(buf)
		if errors.Is(err, unix.ENETDOWN) { // said once; when the link is up again, so is the socket
			continue
		}
		if err != nil {
			return nil, err
		}
		if p, ok := payload4(buf[:n]); ok {
			return p, nil
		}
	}
}

// payload4 is what a UDP datagram in an IPv4 packet from a server's port 67 holds.
func payload4(b []byte) ([]byte, bool) {
	if len(b) < 20 || b[0]>>4 != 4 {
		return nil, false
	}
	head := int(b[0]&15) * 4
	total := int(binary.BigEndian.Uint16(b[2:]))
	if head < 20 || total > len(b) || total < head+8 || b[9] != unix.IPPROTO_UDP {
		return nil, false
	}
	u := b[head:total]
	n := int(binary.BigEndian.Uint16(u[4:]))
	if binary.BigEndian.Uint16(u) != 67 || n < 8 || n > len(u) {
		return nil, false
	}
	return u[8:n], true
}

// broadcast4 wraps a message for everybody: IPv4 and UDP headers, without the latter's checksum, which is optional.
func broadcast4(from netip.Addr, payload []byte) []byte {
	b := make([]byte, 28, 28+len(payload))
	b[0], b[8], b[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(b[2:], uint16(28+len(payload)))
	copy(b[12:16], from.AsSlice())
	copy(b[16:20], []byte{255, 255, 255, 255})
	sum := uint32(0)
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	sum = sum&0xffff + sum>>16
	binary.BigEndian.PutUint16(b[10:], ^uint16(sum+sum>>16))
	binary.BigEndian.PutUint16(b[20:], 68)
	binary.BigEndian.PutUint16(b[22:], 67)
	binary.BigEndian.PutUint16(b[24:], uint16(8+len(payload)))
	return append(b, payload...)
}
