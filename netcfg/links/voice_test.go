package links

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/coble-os/coble/netcfg/nstest"
)

// The name is said on the links that want it, with their addresses, and taken back at the end.
func TestAnnounced(t *testing.T) {
	p := nstest.NewPeer(t)
	p.Veth(t, "lan0", "srv0", "10.3.0.2/24")
	var c *net.UDPConn
	p.Do(func() {
		ifi, err := net.InterfaceByName("srv0")
		require.NoError(t, err)
		c, err = net.ListenMulticastUDP("udp4", ifi, &net.UDPAddr{IP: net.IPv4(224, 0, 0, 251), Port: 5353})
		require.NoError(t, err)
	})
	t.Cleanup(func() { c.Close() })
	hears := func(what string, words ...string) {
		t.Helper()
		c.SetReadDeadline(time.Now().Add(time.Minute))
		for buf := make([]byte, 9000); ; {
			n, _, err := c.ReadFromUDP(buf)
			require.NoError(t, err, what)
			all := true
			for _, w := range words {
				all = all && strings.Contains(string(buf[:n]), w)
			}
			if all {
				return
			}
		}
	}
	lan := Link{Name: "lan0", Addresses: pre("10.3.0.1/24"), Announce: true}
	k := keep(t, t.TempDir(), lan)
	hears("announcement", "\x84\x00", "\x07gateway\x05local", "\x00\x00\x00\x78\x00\x04\x0a\x03\x00\x01")
	lan.Addresses = pre("10.3.0.7/24")
	k.Set(Config{[]Link{lan}})
	hears("another address", "\x84\x00", "\x00\x00\x00\x78\x00\x04\x0a\x03\x00\x07")
	k.Close()
	hears("goodbye", "\x84\x00", "\x00\x00\x00\x00\x00\x04\x0a\x03\x00\x07")
}
