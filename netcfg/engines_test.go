package netcfg

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/coble-os/coble/netcfg/nstest"
)

// TestTwoEngines: on a host that forwarded nothing two engines let each other's containers out and their ports in, neither
// takes the other's addresses or bridge, and a clean-up takes one's own, with forwarding when the last one goes.
func TestTwoEngines(t *testing.T) {
	nstest.Own(t)
	noBridgeNetfilter(t)
	for _, key := range forwardKeys {
		require.NoError(t, sysctl(key, "0"))
	}
	lan, wan := neighbour(t, "br-lan", "192.0.2.1/24"), neighbour(t, "wan", "198.51.100.1/24")
	one, two := New("cobletest1"), New("cobletest2")
	first, second := testNetwork("tbr1", "10.99.1.0/24"), testNetwork("tbr2", "10.99.2.0/24")
	inside1, inside2 := container(t, one, first, "tv1", "10.99.1.2/24"), container(t, two, second, "tv2", "10.99.2.2/24")
	config1 := Config{Networks: []Network{first}, Links: map[string]Link{"tv1": {Bridge: "tbr1"}}, Ports: []Port{port("", 8081, "10.99.1.2:80")}}
	config2 := Config{Networks: []Network{second}, Links: map[string]Link{"tv2": {Bridge: "tbr2"}}, Ports: []Port{port("", 8082, "10.99.2.2:80")}}
	require.NoError(t, one.Set(config1))
	require.NoError(t, two.Set(config2))
	require.NoError(t, one.Set(config1))

	require.NoError(t, reaches(t, lan, "192.0.2.1:8081"))
	require.NoError(t, reaches(t, lan, "192.0.2.1:8082"))
	atWan := ear(t, wan, "198.51.100.2:7777")
	require.True(t, hears(t, atWan, func() { say(t, inside1, netip.Addr{}, "198.51.100.2:7777") }), "the first's containers get out")
	require.True(t, hears(t, atWan, func() { say(t, inside2, netip.Addr{}, "198.51.100.2:7777") }), "and the second's")
	require.False(t, hears(t, atWan, func() { say(t, lan, netip.Addr{}, "198.51.100.2:7777") }), "the host is nobody's router")
	require.Error(t, dialFrom(t, inside1, "10.99.2.2:80"), "from one engine's network into the other's")
	require.Error(t, dialFrom(t, inside2, "10.99.1.2:80"))

	for what, n := range map[string]Network{"addresses": testNetwork("tbr3", "10.99.1.128/25"), "the bridge": testNetwork("tbr1", "10.99.3.0/24")} {
		c := config2
		c.Networks = append([]Network{n}, second)
		require.NoError(t, two.Set(c))
		require.ErrorIs(t, two.Taken(n.Bridge), ErrTaken, what)
		require.ErrorIs(t, two.Plug(n, Endpoint{HostIf: "tv9", Pid: inside2}), ErrTaken, what)
		require.NoError(t, reaches(t, lan, "192.0.2.1:8082"), "the other network does not suffer")
	}
	require.False(t, Exists("tbr3"))
	require.NoError(t, reaches(t, lan, "192.0.2.1:8081"), "nor does the first engine")

	require.NoError(t, CleanUp("cobletest1", "tbr1"))
	require.False(t, Exists("tbr1"))
	require.True(t, Exists("tbr2"))
	require.Equal(t, "10", forwarding(t))
	require.NoError(t, reaches(t, lan, "192.0.2.1:8082"))
	require.True(t, hears(t, atWan, func() { say(t, inside2, netip.Addr{}, "198.51.100.2:7777") }))
	require.False(t, hears(t, atWan, func() { say(t, lan, netip.Addr{}, "198.51.100.2:7777") }), "the second keeps the guard")
	require.NoError(t, CleanUp("cobletest2", "tbr2"))
	require.Equal(t, "00", forwarding(t))
	tables, err := Firewalls()
	require.NoError(t, err)
	require.Empty(t, tables.Guests())
}

// TestVanished: a bridge that somebody removed under its containers is made anew by the next Set, with their links on it and kept
// apart as before, and a link that is gone is told of.
func TestVanished(t *testing.T) {
	nstest.Own(t)
	noBridgeNetfilter(t)
	h, n := testHost()
	apart := testNetwork("tbr1", "10.99.1.0/24")
	apart.ICC = false
	one, two := container(t, h, n, "tv1", "10.99.0.2/24"), container(t, h, n, "tv2", "10.99.0.3/24")
	three := container(t, h, apart, "tv3", "10.99.1.2/24")
	container(t, h, apart, "tv4", "10.99.1.3/24")
	c := Config{Networks: []Network{n, apart}, Links: map[string]Link{"tv1": {Bridge: "tbr0"}, "tv2": {Bridge: "tbr0"}, "tv3": {Bridge: "tbr1"}, "tv4": {Bridge: "tbr1"}}}
	require.NoError(t, h.Set(c))
	require.Empty(t, h.Missing())
	for _, bridge := range []string{"tbr0", "tbr1"} {
		link, err := netlink.LinkByName(bridge)
		require.NoError(t, err)
		require.NoError(t, netlink.LinkDel(link))
	}
	require.NoError(t, h.Set(c))
	require.NoError(t, reaches(t, one, "10.99.0.3:80"))
	require.Error(t, dialFrom(t, three, "10.99.1.3:80"), "members that keep apart")
	_, err := dial("10.99.1.3:80")
	require.NoError(t, err)

	link, err := netlink.LinkByName("tv2")
	require.NoError(t, err)
	require.NoError(t, netlink.LinkDel(link))
	require.NoError(t, h.Set(c))
	require.Equal(t, []string{"tv2"}, h.Missing())
	p := netip.MustParsePrefix("10.99.0.3/24")
	require.NoError(t, h.Plug(n, Endpoint{HostIf: "tv2", IfName: "eth0", Pid: two, V4: p, MAC: MACFor(p.Addr()), Default4: Way{Gateway: n.Gateway4}}))
	require.NoError(t, h.Set(c))
	require.Empty(t, h.Missing())
	require.NoError(t, reaches(t, one, "10.99.0.3:80"))
}

// TestOwnersBridge: a network on a bridge that the owner has made takes nothing of his away, neither while it is there nor when
// it goes.
func TestOwnersBridge(t *testing.T) {
	nstest.Own(t)
	noBridgeNetfilter(t)
	require.NoError(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br-own"}}))
	bridge, err := netlink.LinkByName("br-own")
	require.NoError(t, err)
	require.NoError(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "his", MTU: 1500, MasterIndex: bridge.Attrs().Index}, PeerName: "peer"}))
	h, n := New("cobletest"), testNetwork("br-own", "10.99.0.0/24")
	container(t, h, n, "tv1", "10.99.0.2/24")
	require.NoError(t, h.Set(Config{Networks: []Network{n}, Links: map[string]Link{"tv1": {Bridge: "br-own"}}}))
	_, err = dial("10.99.0.2:80")
	require.NoError(t, err)
	require.True(t, Exists("his"))
	require.NoError(t, h.Set(Config{Networks: []Network{n}}))
	require.False(t, Exists("tv1"), "what is the engine's own goes")
	require.NoError(t, h.Set(Config{}))
	require.NoError(t, CleanUp("cobletest", "tbr0"))
	require.True(t, Exists("his"))
	require.True(t, Exists("br-own"))
}

// TestMachinesOwnBridge: a network may be on a bridge of the machine's own (netcfg/links), which is no engine's, and leaves it there.
func TestMachinesOwnBridge(t *testing.T) {
	nstest.Own(t)
	h, n := testHost()
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: n.Bridge, Alias: "coble link"}}
	require.NoError(t, netlink.LinkAdd(bridge))
	require.NoError(t, netlink.LinkSetAlias(bridge, "coble link"))
	require.NoError(t, h.Free(n))
	require.NoError(t, h.Set(Config{Networks: []Network{n}}))
	require.NoError(t, h.Taken(n.Bridge))
	require.NoError(t, h.Set(Config{}))
	require.True(t, Exists(n.Bridge))
}
