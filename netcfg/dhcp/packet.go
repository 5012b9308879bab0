package dhcp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// conn4 sends and receives below IP, as a link without an address must (packet(7)). Its other socket holds port 68: what
// a server sends to our own address would be answered with an ICMP error otherwise, and by it we ask for more time.
type conn4 struct {
	raw    *os.File
	udp    *net.UDPConn
	index  int
	others *rivals
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

func open4(name string, index int, mac net.HardwareAddr) (c *conn4, err error) {
	c = &conn4{index: index}
	if c.raw, err = listenPacket(name, index, unix.ETH_P_IP, filter4()); err != nil {
		return nil, err
	}
	if c.others, err = listenARP(name, index, mac); err != nil {
		c.raw.Close()
		return nil, err
	}
	if c.udp, err = listenUDP("udp4", "0.0.0.0:68", name); err != nil {
		c.raw.Close()
		c.others.socket.Close()
		return nil, err
	}
	go drain(c.udp)
	return c, nil
}

// drain throws away what the packet socket has got too.
func drain(c *net.UDPConn) {
	for buf := make([]byte, 1); ; {
		if _, _, err := c.ReadFromUDPAddrPort(buf); err != nil {
			return
		}
	}
}

func (c *conn4) close() { c.raw.Close(); c.udp.Close(); c.others.socket.Close() }

func (c *conn4) rivals() *rivals { return c.others }

func (c *conn4) send(o *out) error {
	switch o.to {
	case askRenew:
		server, _ := netip.AddrFromSlice(o.lease.server)
		_, err := c.udp.WriteToUDPAddrPort(o.payload, netip.AddrPortFrom(server, 67))
		return err
	case askProbe, askAnnounce:
		return c.others.send(o.to, o.lease.Address.Addr())
	}
	from := netip.IPv4Unspecified()
	if o.to == askRebind {
		from = o.lease.Address.Addr()
	}
	return broadcast(c.raw, c.index, unix.ETH_P_IP, broadcast4(from, o.payload))
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
			return bytes.Clone(p), nil
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
