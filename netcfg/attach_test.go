package netcfg

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/coble-os/coble/netcfg/nstest"
)

// hasKind skips a test on kernels that lack what it needs.
func hasKind(t *testing.T, l netlink.Link) {
	nstest.Own(t)
	parent := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "parent", MTU: 1500}, PeerName: "peer"}
	require.NoError(t, netlink.LinkAdd(parent))
	l.Attrs().Name, l.Attrs().ParentIndex = "try", parent.Attrs().Index
	nstest.Kind(t, l.Type(), netlink.LinkAdd(l))
	require.NoError(t, netlink.LinkDel(l))
}

// attached starts a server on an attachment.
func attached(t *testing.T, h *Host, a Attachment, v4, v6 string) int {
	return server(t, func(pid int) {
		e := Endpoint{IfName: "eth0", Pid: pid, V4: netip.MustParsePrefix(v4), V6: netip.MustParsePrefix(v6)}
		e.Default4, e.Default6 = Way{Gateway: netip.MustParseAddr("10.99.0.1")}, Way{Gateway: netip.MustParseAddr("fd00:99::1")}
		if a.Routed() {
			e.Default4, e.Default6 = Way{Link: "eth0"}, Way{Link: "eth0"}
		}
		if a.Driver == "macvlan" {
			e.MAC = MACFor(e.V4.Addr())
		}
		require.NoError(t, h.Attach(a, e))
	})
}

// TestAttached is a table of who reaches whom in the networks that have no bridge, whole for each kind, IPv4 and IPv6: two
// containers, the host, and a router on the link that they are on.
func TestAttached(t *testing.T) {
	hasKind(t, &netlink.Macvlan{Mode: netlink.MACVLAN_MODE_BRIDGE})
	hasKind(t, &netlink.IPVlan{})
	for name, c := range map[string]struct {
		a         Attachment
		siblings  bool // they reach each other
		neighbour bool // they and the router reach each other
	}{
		"macvlan":         {Attachment{Driver: "macvlan", Parent: "up"}, true, true},
		"macvlan private": {Attachment{Driver: "macvlan", Parent: "up", Mode: "private"}, false, true},
		"macvlan of VLAN": {Attachment{Driver: "macvlan", Parent: "up.7"}, true, true},
		"macvlan alone":   {Attachment{Driver: "macvlan", Parent: "dm-1", Alone: true}, true, false},
		"ipvlan":          {Attachment{Driver: "ipvlan", Parent: "up", MTU: 1400}, true, true},
		"ipvlan private":  {Attachment{Driver: "ipvlan", Parent: "up", Flag: "private"}, false, true},
		"ipvlan l3":       {Attachment{Driver: "ipvlan", Parent: "up", Mode: "l3"}, true, true},
		"ipvlan l3s":      {Attachment{Driver: "ipvlan", Parent: "up", Mode: "l3s"}, true, true},
		"ipvlan of VLAN":  {Attachment{Driver: "ipvlan", Parent: "up.7"}, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			nstest.Own(t)
			h, _ := testHost()
			up := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "up", MTU: 1500}, PeerName: "up"}
			router := server(t, func(pid int) {
				up.PeerNamespace = netlink.NsPid(pid)
				require.NoError(t, netlink.LinkAdd(up))
				require.NoError(t, nstest.Visit(pid, func() error { return routerUp(strings.HasSuffix(c.a.Parent, ".7"), c.a.Routed()) }))
			})
			require.NoError(t, netlink.LinkSetUp(up))
			if c.a.Routed() { // what the containers send goes by the host's routes
				for at, gateway := range map[string]string{"10.98.0.2/24": "10.98.0.1", "fd00:98::2/64": "fd00:98::1"} {
					require.NoError(t, netlink.AddrAdd(up, address(netip.MustParsePrefix(at))))
					require.NoError(t, setDefaultThrough(up, netip.MustParseAddr(gateway)))
				}
			}
			a := attached(t, h, c.a, "10.99.0.2/24", "fd00:99::2/64")
			b := attached(t, h, c.a, "10.99.0.3/24", "fd00:99::3/64")
			reached := func(from int, to string, want bool) {
				t.Helper()
				for _, at := range map[string][]string{"a": {"10.99.0.2", "fd00:99::2"}, "b": {"10.99.0.3", "fd00:99::3"}, "router": {"10.99.0.1", "fd00:99::1"}, "world": {"192.0.2.1", "2001:db8::1"}}[to] {
					addr := netip.AddrPortFrom(netip.MustParseAddr(at), 80).String()
					if want {
						require.NoError(t, reaches(t, from, addr), "%s: %s", to, addr)
					} else {
						require.Error(t, nstest.Visit(from, func() error {
							c, err := net.DialTimeout("tcp", addr, 300*time.Millisecond)
							if err == nil {
								c.Close()
							}
							return err
						}), "%s: %s", to, addr)
					}
				}
			}
			reached(a, "b", c.siblings)
			reached(b, "a", c.siblings)
			for _, member := range []int{a, b} {
				reached(member, "router", c.neighbour)
				reached(member, "world", c.neighbour)
			}
			reached(router, "a", c.neighbour)
			reached(router, "b", c.neighbour)
			for _, to := range []string{"10.99.0.2:80", "[fd00:99::2]:80"} { // from this thread, which is the host's
				c, err := net.DialTimeout("tcp", to, 300*time.Millisecond)
				if err == nil {
					c.Close()
				}
				require.Error(t, err, "the host: %s", to)
			}

			// A second Set with the network keeps the parent, and one without takes what was made for it.
			require.NoError(t, h.Set(Config{Attached: []Attachment{c.a}}))
			reached(a, "b", c.siblings)
			require.NoError(t, h.Detach(b, "eth0"))
			require.NoError(t, h.Detach(b, "eth0"), "again")
			reached(a, "b", false)
			require.NoError(t, h.Set(Config{}))
			require.Equal(t, c.a.Parent == "up", Exists(c.a.Parent))
			require.True(t, Exists("up"), "what was there before stays")
		})
	}
}

// routerUp makes this namespace's link "up" a router's, in VLAN 7 or not. Containers of a routed network have no neighbours:
// the router sends what is for them to their host.
func routerUp(vlan, routed bool) error {
	link, err := netlink.LinkByName("up")
	if err == nil {
		err = netlink.LinkSetUp(link)
	}
	if err != nil {
		return err
	}
	if vlan {
		v := &netlink.Vlan{LinkAttrs: netlink.LinkAttrs{Name: "up.7", ParentIndex: link.Attrs().Index}, VlanId: 7, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q}
		if err := netlink.LinkAdd(v); err != nil {
			return err
		}
		link = v
		if err := netlink.LinkSetUp(link); err != nil {
			return err
		}
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	on := map[string]netlink.Link{"192.0.2.1/32": lo, "2001:db8::1/128": lo} // the world
	if routed {
		on["10.99.0.1/32"], on["fd00:99::1/128"], on["10.98.0.1/24"], on["fd00:98::1/64"] = lo, lo, link, link
	} else {
		on["10.99.0.1/24"], on["fd00:99::1/64"] = link, link
	}
	for s, l := range on {
		if err := netlink.AddrAdd(l, address(netip.MustParsePrefix(s))); err != nil {
			return err
		}
	}
	if !routed {
		return netlink.LinkSetUp(lo)
	}
	for to, via := range map[string]string{"10.99.0.0/24": "10.98.0.2", "fd00:99::/64": "fd00:98::2"} {
		r := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(netip.MustParsePrefix(to)), Gw: netip.MustParseAddr(via).AsSlice()}
		if err := netlink.RouteReplace(r); err != nil {
			return err
		}
	}
	return netlink.LinkSetUp(lo)
}

// TestNoParent: the sentence says which link there is not.
func TestNoParent(t *testing.T) {
	nstest.Own(t)
	h, _ := testHost()
	for parent, want := range map[string]string{
		"eth7":      "find parent eth7: the host has no link of that name; for a VLAN of one say, for example, eth0.50",
		"eth7.50":   "make parent eth7.50, VLAN 50 of eth7: the host has no link eth7",
		"eth7.5000": "find parent eth7.5000: the host has no link",
	} {
		require.ErrorContains(t, h.MakeParent(Attachment{Driver: "macvlan", Parent: parent}), want)
	}
}

// TestPlugAnew: what a start that was cut short has left does not keep the next one from its link.
func TestPlugAnew(t *testing.T) {
	nstest.Own(t)
	h, n := testHost()
	container(t, h, n, "tv1", "10.99.0.2/24")
	container(t, h, n, "tv1", "10.99.0.3/24")
	_, err := dial("10.99.0.3:80")
	for try := 0; err != nil && try < 10; try++ { // a new link takes a moment to carry
		_, err = dial("10.99.0.3:80")
	}
	require.NoError(t, err)
}
