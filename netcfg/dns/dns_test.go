package dns

import (
	"context"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/netcfg/nstest"
)

// zone is a fixed one.
type zone struct {
	names    map[string][]string
	upstream []netip.AddrPort
}

func (z zone) Resolve(name string) (out []netip.Addr, known bool) {
	list, known := z.names[name]
	for _, a := range list {
		out = append(out, netip.MustParseAddr(a))
	}
	return out, known
}

func (z zone) Reverse(a netip.Addr) (string, bool) {
	for name, list := range z.names {
		for _, b := range list {
			if a.String() == b {
				return name + ".net", true
			}
		}
	}
	return "", false
}

func (z zone) Upstream() []netip.AddrPort { return z.upstream }

var testZone = zone{names: map[string][]string{"web": {"10.1.0.2", "10.1.0.3", "fd00::2"}, "old": {"10.1.0.4"}}}

func query(t testing.TB, name string, kind dnsmessage.Type) []byte {
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: 77, RecursionDesired: true}, Questions: []dnsmessage.Question{
		{Name: dnsmessage.MustNewName(name), Type: kind, Class: dnsmessage.ClassINET},
	}}
	b, err := m.Pack()
	require.NoError(t, err)
	return b
}

// show is a reply for people: its code and the answers.
func show(t testing.TB, reply []byte) string {
	if reply == nil {
		return "nobody"
	}
	var m dnsmessage.Message
	require.NoError(t, m.Unpack(reply))
	require.True(t, m.Response)
	require.Equal(t, uint16(77), m.ID)
	out := []string{strings.TrimPrefix(m.RCode.String(), "RCode")}
	for _, a := range m.Answers {
		switch r := a.Body.(type) {
		case *dnsmessage.AResource:
			out = append(out, netip.AddrFrom4(r.A).String())
		case *dnsmessage.AAAAResource:
			out = append(out, netip.AddrFrom16(r.AAAA).String())
		case *dnsmessage.PTRResource:
			out = append(out, r.PTR.String())
		}
	}
	return strings.Join(out, " ")
}

func TestAnswer(t *testing.T) {
	for _, c := range []struct {
		name string
		kind dnsmessage.Type
		want string
	}{
		{"web.", dnsmessage.TypeA, "Success 10.1.0.2 10.1.0.3"},
		{"WeB.", dnsmessage.TypeA, "Success 10.1.0.2 10.1.0.3"},
		{"web.", dnsmessage.TypeAAAA, "Success fd00::2"},
		{"old.", dnsmessage.TypeAAAA, "Success"},
		{"web.", dnsmessage.TypeMX, "Success"},
		{"nobody.", dnsmessage.TypeA, "nobody"},
		{"2.0.1.10.in-addr.arpa.", dnsmessage.TypePTR, "Success web.net."},
		{"9.0.1.10.in-addr.arpa.", dnsmessage.TypePTR, "nobody"},
		{"2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.", dnsmessage.TypePTR, "Success web.net."},
		{"x.in-addr.arpa.", dnsmessage.TypePTR, "nobody"},
		{"zz.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.", dnsmessage.TypePTR, "nobody"},
	} {
		reply, ok := Answer(query(t, c.name, c.kind), testZone, 0)
		require.True(t, ok)
		require.Equal(t, c.want, show(t, reply), "%s %s", c.name, c.kind)
	}
	reply, _ := Answer(query(t, "web.", dnsmessage.TypeA), testZone, 1)
	require.Equal(t, "Success 10.1.0.3 10.1.0.2", show(t, reply), "each in its turn")
	_, ok := Answer(reply, testZone, 0)
	require.False(t, ok, "an answer is no question")
	_, ok = Answer([]byte("junk"), testZone, 0)
	require.False(t, ok)
}

func FuzzAnswer(f *testing.F) {
	f.Add(query(f, "web.", dnsmessage.TypeA))
	f.Add(query(f, "2.0.1.10.in-addr.arpa.", dnsmessage.TypePTR))
	f.Add(Failure(query(f, "web.", dnsmessage.TypeA), dnsmessage.RCodeRefused))
	f.Fuzz(func(t *testing.T, b []byte) {
		reply, ok := Answer(b, testZone, 3)
		if reply != nil {
			require.True(t, ok)
			var m dnsmessage.Message
			require.NoError(t, m.Unpack(reply))
		}
		Failure(b, dnsmessage.RCodeServerFailure)
	})
}

func resolver(addr string) *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, addr)
	}}
}

// TestForward: what no container is called is asked of the resolvers, the next one where the first is silent, over UDP and
// TCP.
func TestForward(t *testing.T) {
	sockets := func() (net.PacketConn, net.Listener) {
		u, err := net.ListenPacket("udp4", "127.0.0.1:0")
		require.NoError(t, err)
		l, err := net.Listen("tcp4", u.LocalAddr().String())
		require.NoError(t, err)
		return u, l
	}
	u, l := sockets()
	outer := Serve(u, l, zone{names: map[string][]string{"example.test": {"192.0.2.7"}}})
	defer outer.Close()
	u2, l2 := sockets()
	inner := testZone
	inner.upstream = []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:1"), netip.MustParseAddrPort(u.LocalAddr().String())}
	s := Serve(u2, l2, inner)
	defer s.Close()
	at := u2.LocalAddr().String()
	addrs, err := resolver(at).LookupHost(t.Context(), "example.test")
	require.NoError(t, err)
	require.Equal(t, []string{"192.0.2.7"}, addrs)
	addrs, err = resolver(at).LookupHost(t.Context(), "old")
	require.NoError(t, err)
	require.Equal(t, []string{"10.1.0.4"}, addrs)
	c, err := net.Dial("tcp", at)
	require.NoError(t, err)
	defer c.Close()
	for _, name := range []string{"example.test.", "web."} { // two on one connection
		require.NoError(t, writeMessage(c, query(t, name, dnsmessage.TypeA)))
		reply, err := readMessage(c)
		require.NoError(t, err)
		require.Contains(t, show(t, reply), "Success ")
	}
	require.NoError(t, writeMessage(c, query(t, "nowhere.test.", dnsmessage.TypeA)))
	reply, err := readMessage(c)
	require.NoError(t, err)
	require.Equal(t, "ServerFailure", show(t, reply))
}

// namespace is one whose loopback is up.
func namespace(t *testing.T) *nstest.Peer {
	p := nstest.NewPeer(t)
	p.Do(func() { nstest.Up(t, "lo", true) })
	return p
}

// TestInNamespace: asked from inside a network namespace, at port 53, many at once; a server of the container's own at port
// 53 does not mind.
func TestInNamespace(t *testing.T) {
	p := namespace(t)
	udp, tcp, err := Listen(p.Thread, nil)
	require.NoError(t, err)
	s := Serve(udp, tcp, testZone)
	defer s.Close()
	p.Do(func() {
		own, err := net.ListenPacket("udp4", "0.0.0.0:53")
		if assert.NoError(t, err) {
			defer own.Close()
		}
	})
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			assert.NoError(t, nstest.Visit(p.Thread, func() error {
				fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
				if err != nil {
					return err
				}
				defer unix.Close(fd)
				tv := unix.NsecToTimeval(int64(10 * time.Second))
				unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv)
				assert.NoError(t, unix.Connect(fd, &unix.SockaddrInet4{Port: 53, Addr: Address.As4()}))
				_, err = unix.Write(fd, query(t, "old.", dnsmessage.TypeA))
				assert.NoError(t, err)
				buf := make([]byte, 512)
				n, err := unix.Read(fd, buf)
				if assert.NoError(t, err) {
					assert.Equal(t, "Success 10.1.0.4", show(t, buf[:n]))
				}
				return nil
			}))
		})
	}
	wg.Wait()
}

// TestTakenOver: what was asked before is answered by who takes a server's socket over, whose others are as if they were all new:
// where a rule leads to them, and where the kernel can have none.
func TestTakenOver(t *testing.T) {
	p := namespace(t)
	ns, err := os.Open(p.Path)
	require.NoError(t, err)
	defer ns.Close()
	for name, first := range map[string]func() (net.PacketConn, net.Listener, error){
		"with a rule":    func() (net.PacketConn, net.Listener, error) { return Listen(p.Thread, nil) },
		"without a rule": func() (net.PacketConn, net.Listener, error) { return open(ns, nil, 53) },
	} {
		udp, tcp, err := first()
		require.NoError(t, err, name)
		copied, err := udp.(*net.UDPConn).File()
		require.NoError(t, err)
		defer copied.Close()
		udp.Close()
		tcp.Close()
		var asker net.Conn
		p.Do(func() {
			if asker, err = net.Dial("udp4", Address.String()+":53"); err == nil {
				_, err = asker.Write(query(t, "old.", dnsmessage.TypeA))
			}
		})
		require.NoError(t, err, name)
		udp, tcp, err = Listen(p.Thread, copied)
		require.NoError(t, err, name)
		s := Serve(udp, tcp, testZone)
		asker.SetDeadline(time.Now().Add(10 * time.Second))
		buf := make([]byte, 512)
		n, err := asker.Read(buf)
		require.NoError(t, err, name)
		require.Equal(t, "Success 10.1.0.4", show(t, buf[:n]), name)
		p.Do(func() {
			var c net.Conn
			if c, err = net.Dial("tcp4", Address.String()+":53"); err == nil {
				c.Close()
			}
		})
		require.NoError(t, err, name)
		s.Close()
		asker.Close()
		copied.Close()
		p.Do(func() { // what leads there goes too
			conn, _ := nftables.New()
			conn.DelTable(&nftables.Table{Name: "coble-dns", Family: nftables.TableFamilyIPv4})
			conn.Flush()
		})
	}
}
