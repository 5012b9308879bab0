package netcfg

import (
	"fmt"
	"net"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestHolder: whoever has a port is named, if that is in the way of who wants it.
func TestHolder(t *testing.T) {
	name, err := os.ReadFile("/proc/self/comm")
	require.NoError(t, err)
	self := fmt.Sprintf("%s (pid %d)", name[:len(name)-1], os.Getpid())
	for _, row := range []struct {
		network, at string
		held, free  []string // by addresses that are wanted
	}{
		{"tcp4", "127.0.0.1", []string{"", "0.0.0.0", "127.0.0.1"}, []string{"127.0.0.2", "::1"}},
		{"tcp4", "0.0.0.0", []string{"", "0.0.0.0", "127.0.0.1", "192.0.2.1"}, nil},
		{"tcp6", "::1", []string{"", "::", "::1"}, []string{"2001:db8::1", "127.0.0.1"}},
		{"tcp", "", []string{"", "0.0.0.0", "127.0.0.1", "::1"}, nil},
		{"udp4", "127.0.0.1", []string{"", "127.0.0.1"}, []string{"127.0.0.2"}},
		{"udp6", "::1", []string{"", "::1"}, []string{"::2"}},
	} {
		var port int
		if proto := row.network[:3]; proto == "tcp" {
			l, err := net.Listen(row.network, net.JoinHostPort(row.at, "0"))
			require.NoError(t, err)
			defer l.Close()
			port = l.Addr().(*net.TCPAddr).Port
		} else {
			c, err := net.ListenPacket(row.network, net.JoinHostPort(row.at, "0"))
			require.NoError(t, err)
			defer c.Close()
			port = c.LocalAddr().(*net.UDPAddr).Port
		}
		for _, ip := range row.held {
			require.Equal(t, self, Holder(row.network[:3], ip, uint16(port)), "%s %s for %s", row.network, row.at, ip)
		}
		for _, ip := range row.free {
			require.Empty(t, Holder(row.network[:3], ip, uint16(port)), "%s %s for %s", row.network, row.at, ip)
		}
		other := map[string]string{"tcp": "udp", "udp": "tcp"}[row.network[:3]]
		require.Empty(t, Holder(other, "", uint16(port)))
	}
}
