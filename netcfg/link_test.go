package netcfg

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/coble-os/coble/netcfg/nstest"
)

// addresses6 are the IPv6 addresses of a link of this thread's namespace.
func addresses6(name string) (list []string, err error) {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return nil, err
	}
	addrs, err := netlink.AddrList(l, netlink.FAMILY_V6)
	for _, a := range addrs {
		list = append(list, a.IPNet.String())
	}
	return list, err
}

// TestNoAddressUnasked: a link has IPv6 where the network has it, and not on the bridge's side: what the kernel sends for an
// address of its own making would be flooded to all links of the bridge.
func TestNoAddressUnasked(t *testing.T) {
	nstest.Own(t)
	h, n := testHost()
	n.V6, n.Gateway6 = netip.MustParsePrefix("fd00:99::/64"), netip.MustParseAddr("fd00:99::1")
	for hostIf, addr := range map[string]string{"tv1": "10.99.0.2/24", "tv2": "fd00:99::2/64"} {
		pid := container(t, h, n, hostIf, addr)
		var list []string
		require.NoError(t, nstest.Visit(pid, func() (err error) {
			list, err = addresses6("eth0")
			return err
		}))
		if hostIf == "tv1" {
			require.Empty(t, list)
		} else {
			require.Len(t, list, 2)
			require.Contains(t, list, addr)
		}
		list, err := addresses6(hostIf)
		require.NoError(t, err)
		require.Empty(t, list, "on the bridge's side, for %s", addr)
		l, err := netlink.LinkByName(hostIf)
		require.NoError(t, err)
		require.Equal(t, 1, l.Attrs().NumTxQueues)
	}
}

// TestTooSmallForV6: a link below 1,280 bytes has nothing of IPv6 (RFC 8200, 5), as none has where the kernel has none.
func TestTooSmallForV6(t *testing.T) {
	nstest.Own(t)
	h, n := testHost()
	n.MTU = 1000
	container(t, h, n, "tv1", "10.99.0.2/24")
	_, err := dial("10.99.0.2:80")
	require.NoError(t, err)
}
