package netcfg

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/coble-os/coble/netcfg/nstest"
)

// neighbour is a machine on a link of its own, with the addresses .2 and ::2 of the host's.
func neighbour(t *testing.T, link string, on ...string) (pid int) {
	pid = nstest.NewPeer(t).Thread
	join(t, link, pid, on...)
	return pid
}

// join makes the link between the host and a neighbour, whose way to everywhere it is.
func join(t *testing.T, link string, pid int, on ...string) {
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: link, MTU: 1500}, PeerName: "nb", PeerNamespace: netlink.NsPid(pid)}
	require.NoError(t, netlink.LinkAdd(veth))
	for _, p := range on {
		require.NoError(t, netlink.AddrAdd(veth, address(netip.MustParsePrefix(p))))
	}
	require.NoError(t, netlink.LinkSetUp(veth))
	require.NoError(t, nstest.Visit(pid, func() error {
		nb, err := netlink.LinkByName("nb")
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(nb); err != nil {
			return err
		}
		for _, s := range on {
			p := netip.MustParsePrefix(s)
			if err := netlink.AddrAdd(nb, address(netip.PrefixFrom(p.Addr().Next(), p.Bits()))); err != nil {
				return err
			}
			if err := setDefaultThrough(nb, p.Addr()); err != nil {
				return err
			}
		}
		return nil
	}))
}

func setDefaultThrough(link netlink.Link, gateway netip.Addr) error {
	to := everything4
	if gateway.Is6() {
		to = everything6
	}
	return netlink.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: to, Gw: gateway.AsSlice()})
}

// reaches asks a few times, since a link takes a moment to carry.
func reaches(t *testing.T, pid int, to string) error {
	var err error
	for range 10 {
		if err = dialFrom(t, pid, to); err == nil {
			return nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return err
}

// TestListen runs the table of from → to → allowed for every kind of listen, IPv4 and IPv6.
func TestListen(t *testing.T) {
	nstest.Own(t)
	noBridgeNetfilter(t)
	h, n := testHost()
	n.V6, n.Gateway6 = netip.MustParsePrefix("fd00:99::/64"), netip.MustParseAddr("fd00:99::1")
	inside4, inside6 := container(t, h, n, "tv1", "10.99.0.2/24"), container(t, h, n, "tv2", "fd00:99::2/64")
	lan := neighbour(t, "br-lan", "192.0.2.1/24", "2001:db8:1::1/64")
	wan := neighbour(t, "wan0", "198.51.100.1/24", "2001:db8:2::1/64")
	links := map[string]Link{"tv1": {}, "tv2": {}}
	link, err := netlink.LinkByName("br-lan")
	require.NoError(t, err)
	require.NoError(t, netlink.LinkSetAlias(link, "lan"))
	from := map[string]int{"lan": lan, "wan": wan, "host": 0, "container": inside4, "container6": inside6}
	set := func(l Listen) {
		c := Config{Networks: []Network{n}, Links: links}
		for _, to := range []string{"10.99.0.2:80", "[fd00:99::2]:80"} {
			p := port("", 8080, to)
			p.Listen = l
			c.Ports = append(c.Ports, p)
		}
		require.NoError(t, h.Set(c))
		before := generation(t)
		require.NoError(t, New("cobletest").Set(c))
		require.Equal(t, before, generation(t), "the same again sends something")
	}
	check := func(what, from string, pid int, to string, allowed bool) {
		err := error(nil)
		if pid == 0 {
			_, err = dial(to)
		} else {
			err = reaches(t, pid, to)
		}
		require.Equal(t, allowed, err == nil, "%s: from %s to %s: %v", what, from, to, err)
	}
	for _, row := range []struct {
		names                []string
		lan, wan, container  bool // to the address on the link
		across               bool // from lan to the address on wan's
		toLan, toWan, toSelf bool // from the host to these addresses of its own
	}{
		{nil, true, true, true, true, true, true, true},
		{[]string{"0.0.0.0"}, true, true, true, true, true, true, true},
		{[]string{"br-lan"}, true, false, false, true, true, true, true},
		{[]string{"lan"}, true, false, false, true, true, true, true},
		{[]string{"none-such-link-of-this-length"}, false, false, false, false, true, true, true},
		{[]string{"192.0.2.1", "2001:db8:1::1"}, true, true, true, false, true, false, false},
		{[]string{"wan0", "192.0.2.1", "2001:db8:1::1"}, true, true, true, false, true, true, true},
	} {
		l, err := Where(row.names, nil)
		require.NoError(t, err)
		set(l)
		what := fmt.Sprint(row.names)
		toLan, toWan := []string{"192.0.2.1:8080", "[2001:db8:1::1]:8080"}, []string{"198.51.100.1:8080", "[2001:db8:2::1]:8080"}
		for i := range toLan {
			check(what, "lan", from["lan"], toLan[i], row.lan)
			check(what, "wan", from["wan"], toLan[i], row.wan)
			check(what, "host", 0, toLan[i], row.toLan)
			check(what, "host", 0, toWan[i], row.toWan)
		}
		check(what, "lan", from["lan"], toWan[0], row.across)
		check(what, "host", 0, "127.0.0.1:8080", row.toSelf)
		check(what, "container", from["container"], toLan[0], row.container)
		check(what, "container", from["container6"], toLan[1], row.container)
	}

	// All but the links with a default route.
	wan0, err := netlink.LinkByName("wan0")
	require.NoError(t, err)
	require.NoError(t, setDefaultThrough(wan0, netip.MustParseAddr("198.51.100.2")))
	uplinks, err := Uplinks()
	require.NoError(t, err)
	require.Equal(t, []string{"wan0"}, uplinks)
	set(Listen{Except: true, Links: uplinks})
	check("not the uplink", "lan", lan, "192.0.2.1:8080", true)
	check("not the uplink", "wan", wan, "198.51.100.1:8080", false)
	check("not the uplink", "wan", wan, "192.0.2.1:8080", false)
	check("not the uplink", "wan", wan, "[2001:db8:2::1]:8080", false)
	check("not the uplink", "container", inside4, "10.99.0.1:8080", true)

	// A link that goes and comes back is the same to the rules; nothing is sent for it.
	set(Listen{Links: []string{"br-lan"}})
	before := generation(t)
	require.NoError(t, netlink.LinkDel(link))
	join(t, "br-lan", lan, "192.0.2.1/24")
	check("a link that came later", "lan", lan, "192.0.2.1:8080", true)
	require.Equal(t, before, generation(t))
}

func TestFollow(t *testing.T) {
	nstest.Own(t)
	changed, done := make(chan struct{}, 16), make(chan struct{})
	defer close(done)
	require.NoError(t, Follow(done, func() { changed <- struct{}{} }))
	wait := func(what string) {
		select {
		case <-changed:
		case <-time.After(10 * time.Second):
			require.FailNow(t, "not noticed: "+what)
		}
	}
	wait("the state at the beginning")
	require.NoError(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "later"}}))
	wait("a new link")
	link, err := netlink.LinkByName("later")
	require.NoError(t, err)
	require.NoError(t, netlink.LinkSetUp(link))
	require.NoError(t, netlink.AddrAdd(link, address(netip.MustParsePrefix("192.0.2.1/24"))))
	require.NoError(t, netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: everything4, Gw: []byte{192, 0, 2, 2}}))
	wait("a default route")
	uplinks, err := Uplinks()
	require.NoError(t, err)
	require.Equal(t, []string{"later"}, uplinks)
}
