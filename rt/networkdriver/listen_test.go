package networkdriver

import (
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/coble-os/coble/configs"
	"github.com/coble-os/coble/netcfg"
	"github.com/coble-os/coble/netcfg/nstest"
)

// TestPlaces: a container's own listen counts before the file's, and that before the uplinks, which are those of the file and
// whichever has a default route.
func TestPlaces(t *testing.T) {
	nstest.Own(t)
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "wan1", MTU: 1500}, PeerName: "peer"}
	require.NoError(t, netlink.LinkAdd(veth))
	require.NoError(t, netlink.LinkSetUp(veth))
	a, err := netlink.ParseAddr("192.0.2.1/24")
	require.NoError(t, err)
	require.NoError(t, netlink.AddrAdd(veth, a))
	require.NoError(t, netlink.RouteAdd(&netlink.Route{LinkIndex: veth.Attrs().Index, Gw: []byte{192, 0, 2, 2}}))

	at := func(names, uplinks, own []string) netcfg.Listen {
		l, err := (&places{names: names, uplinks: uplinks, known: map[string]netcfg.Listen{}}).of(own)
		require.NoError(t, err)
		return l
	}
	require.Equal(t, netcfg.Listen{}, at(nil, nil, nil))
	require.Equal(t, netcfg.Listen{Except: true, Links: []string{"wan0", "wan1"}}, at(nil, []string{"wan0"}, nil))
	require.Equal(t, netcfg.Listen{Links: []string{"lan"}}, at([]string{"lan"}, []string{"wan0"}, nil))
	require.Equal(t, netcfg.Listen{Links: []string{"own"}}, at([]string{"lan"}, []string{"wan0"}, []string{"own"}))

	conf := configs.Config{Uplink: map[string]configs.Link{"wan0": {DHCP: true}, "lan0": {Address: "10.0.0.1/24"}}}
	var o Config
	o.Follow(conf, false)
	require.Empty(t, o.Uplinks, "elsewhere ports are published everywhere, as with Docker")
	o.Follow(conf, true)
	require.Equal(t, []string{"wan0"}, o.Uplinks)
}
