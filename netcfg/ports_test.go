package netcfg

import (
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/google/nftables"
	"github.com/stretchr/testify/require"

	"github.com/coble-os/coble/netcfg/nstest"
)

// TestManyPorts: more than one message has room for are published, the first and the last like any other.
func TestManyPorts(t *testing.T) {
	nstest.Own(t)
	h, n := testHost()
	container(t, h, n, "tv1", "10.99.0.2/24")
	c := Config{Networks: []Network{n}, Links: map[string]Link{"tv1": {}}}
	const first, count = 10000, 5000
	for i := range uint16(count) {
		c.Ports = append(c.Ports, port("", first+i, "10.99.0.2:80"), port("127.0.0.1", first+count+i, "10.99.0.2:80"))
	}
	require.NoError(t, h.Set(c))
	conn, err := nftables.New()
	require.NoError(t, err)
	for _, name := range []string{"ports", "ports-of-address"} {
		all, err := conn.GetSetElements(&nftables.Set{Table: &nftables.Table{Name: h.name, Family: nftables.TableFamilyIPv4}, Name: name})
		require.NoError(t, err)
		require.Len(t, all, count, name)
	}
	for _, p := range []int{first, first + count - 1, first + count, first + 2*count - 1} {
		_, err := dial(fmt.Sprint("127.0.0.1:", p))
		require.NoError(t, err, p)
	}
}

// TestInUse: a port is somebody's whose socket would be in the way of another one.
func TestInUse(t *testing.T) {
	nstest.Own(t)
	const port = 7000
	for at, want := range map[string]map[string]bool{
		"127.0.0.1": {"": true, "127.0.0.1": true, "127.0.0.2": false, "::1": false},
		"0.0.0.0":   {"": true, "0.0.0.0": true, "127.0.0.2": true, "::1": false},
		"::":        {"": true, "127.0.0.1": true, "::": true, "::1": true},
		"::1":       {"": false, "::": true, "::1": true},
	} {
		here, family := net.JoinHostPort(at, fmt.Sprint(port)), ""
		if netip.MustParseAddr(at).Is4() {
			family = "4" // without, 0.0.0.0 is :: too
		}
		for _, proto := range []string{"tcp", "udp"} {
			other := map[string]string{"tcp": "udp", "udp": "tcp"}[proto]
			var c interface{ Close() error }
			var err error
			if proto == "tcp" {
				c, err = net.Listen(proto+family, here)
			} else {
				c, err = net.ListenPacket(proto+family, here)
			}
			require.NoError(t, err)
			for ip, used := range want {
				require.Equal(t, used, InUse(proto, ip, port), "%s at %s, for %q", proto, at, ip)
				require.False(t, InUse(other, ip, port), "%s at %s, for %s", proto, at, other)
			}
			c.Close()
			require.False(t, InUse(proto, "", port))
		}
	}
	// The server closes first, and its end of the connection waits (TIME_WAIT).
	l, err := net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:7000")))
	require.NoError(t, err)
	c, err := net.Dial("tcp4", l.Addr().String())
	require.NoError(t, err)
	served, err := l.Accept()
	require.NoError(t, err)
	served.Close()
	c.Read(make([]byte, 1))
	c.Close()
	l.Close()
	require.False(t, InUse("tcp", "127.0.0.1", port))
}
