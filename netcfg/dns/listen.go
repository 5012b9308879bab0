package dns

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Address is where a container finds its server, at port 53.
var Address = netip.AddrFrom4([4]byte{127, 0, 0, 11})

// Listen opens the server's sockets in the network namespace of a process. They have ports of their own, to which a rule in
// that namespace leads: so the container can have a DNS server itself. Where the kernel cannot do that, port 53 is taken. That for UDP
// may be a copy of an earlier server's there, or nil: what was asked meanwhile waits in it. It stays the caller's.
func Listen(pid int, earlier *os.File) (net.PacketConn, net.Listener, error) {
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return nil, nil, fmt.Errorf("open network namespace: %w", err)
	}
	defer ns.Close()
	port := 0
	var udp net.PacketConn
	if earlier != nil {
		if udp, err = net.FilePacketConn(earlier); err != nil {
			return nil, nil, fmt.Errorf("take over a name server's socket: %w", err)
		}
		if udp.LocalAddr().(*net.UDPAddr).Port == 53 {
			port = 53
		}
	}
	udp, tcp, err := open(ns, udp, port)
	if err != nil {
		return nil, nil, err
	}
	if port == 53 || redirect(ns, udp.LocalAddr().(*net.UDPAddr).Port, tcp.Addr().(*net.TCPAddr).Port) == nil {
		return udp, tcp, nil
	}
	udp.Close()
	tcp.Close()
	return open(ns, nil, 53)
}

// open makes the sockets, that for UDP if there is none, on a thread that visits the namespace. Both are closed if it fails.
func open(ns *os.File, udp net.PacketConn, port int) (net.PacketConn, net.Listener, error) {
	u, t, err := visit(ns, udp == nil, port)
	defer func() { u.Close(); t.Close() }()
	if err != nil {
		err = fmt.Errorf("open name server at %s: %w", Address, err)
	}
	if err == nil && udp == nil {
		udp, err = net.FilePacketConn(u)
	}
	var tcp net.Listener
	if err == nil {
		tcp, err = net.FileListener(t)
	}
	if err != nil && udp != nil {
		udp.Close()
	}
	return udp, tcp, err
}

// visit binds sockets in the namespace.
func visit(ns *os.File, both bool, port int) (udp, tcp *os.File, err error) {
	runtime.LockOSThread()
	own, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return nil, nil, err
	}
	defer own.Close()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return nil, nil, fmt.Errorf("enter network namespace: %w", err)
	}
	if both {
		udp, err = bind(unix.SOCK_DGRAM, port)
	}
	tcp, terr := bind(unix.SOCK_STREAM, port)
	if err := unix.Setns(int(own.Fd()), unix.CLONE_NEWNET); err == nil {
		runtime.UnlockOSThread() // else the thread stays locked, and dies with its goroutine
	}
	return udp, tcp, errors.Join(err, terr)
}

func bind(kind, port int) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if err = unix.Bind(fd, &unix.SockaddrInet4{Port: port, Addr: Address.As4()}); err == nil && kind == unix.SOCK_STREAM {
		err = unix.Listen(fd, 64)
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "dns"), nil
}

// redirect writes, in a table of the namespace:
//
//	chain output { type nat hook output priority dstnat; ip daddr 127.0.0.11 udp dport 53 dnat to 127.0.0.11:UDP; tcp likewise }
func redirect(ns *os.File, udp, tcp int) error {
	conn, err := nftables.New(nftables.WithNetNSFd(int(ns.Fd())))
	if err != nil {
		return err
	}
	t := &nftables.Table{Name: "coble-dns", Family: nftables.TableFamilyIPv4}
	conn.AddTable(t)
	conn.DelTable(t)
	conn.AddTable(t)
	c := conn.AddChain(&nftables.Chain{Table: t, Name: "output", Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityNATDest})
	for proto, port := range map[byte]int{unix.IPPROTO_UDP: udp, unix.IPPROTO_TCP: tcp} {
		conn.AddRule(&nftables.Rule{Table: t, Chain: c, Exprs: []expr.Any{
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: Address.AsSlice()},
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{proto}},
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(53)},
			&expr.Immediate{Register: 1, Data: Address.AsSlice()},
			&expr.Immediate{Register: 2, Data: binaryutil.BigEndian.PutUint16(uint16(port))},
			&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1, RegProtoMin: 2},
		}})
	}
	return conn.Flush()
}
