package links

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/coble-os/coble/netcfg/dhcp"
)

func names(all []Link) string {
	var s []string
	for _, l := range all {
		s = append(s, l.Name)
	}
	return strings.Join(s, " ")
}

func TestOrder(t *testing.T) {
	order, err := Order([]Link{
		{Name: "br0", Kind: Bridge, Ports: []string{"bond0.7", "eth2"}},
		{Name: "a-vlan", Kind: VLAN, Parent: "br0", ID: 3},
		{Name: "bond0.7", Kind: VLAN, Parent: "bond0", ID: 7},
		{Name: "eth1"},
		{Name: "eth0"},
		{Name: "bond0", Kind: Bond, Ports: []string{"eth0", "eth1"}},
	})
	require.NoError(t, err)
	require.Equal(t, "br0 a-vlan bond0 bond0.7 eth0 eth1", names(order), "a VLAN behind its parent, a port behind what it is a port of")

	order, err = Order([]Link{
		{Name: "br0", Kind: Bridge, Ports: []string{"v1"}},
		{Name: "v1", Kind: VLAN, Parent: "v2", ID: 3},
		{Name: "v2", Kind: VLAN, Parent: "br0", ID: 3},
		{Name: "eth0"},
		{Name: "v3", Kind: VLAN, Parent: "v2", ID: 9},
	})
	require.NoError(t, err)
	require.Equal(t, "br0 eth0 v2 v1 v3", names(order), "a port's bridge is there before it, whatever it stands on")

	order, err = Order([]Link{{Name: "eth0"}, {Name: "v1", Kind: VLAN, Parent: "v2", ID: 3}, {Name: "v2", Kind: VLAN, Parent: "v1", ID: 3}, {Name: "v3", Kind: VLAN, Parent: "v2", ID: 9}})
	require.ErrorContains(t, err, "links stand on each other in a circle: v1 on v2 on v1")
	require.Equal(t, "eth0", names(order))
}

func text(all []Change) string {
	var s []string
	for _, c := range all {
		s = append(s, c.String())
	}
	return strings.Join(s, "\n")
}

func device(index int) *Dev {
	return &Dev{Kind: "device", Index: index, Up: true, Failover: true, MTU: 1500, Addresses: map[netip.Prefix]time.Time{}}
}

func state(devices map[string]*Dev) *State {
	for name, v := range devices {
		v.Name = name
	}
	return &State{Devices: devices}
}

// What has to be done, whatever the order in the file: a bridge over a VLAN over a bond over two devices.
func TestStackedLinks(t *testing.T) {
	order, err := Order([]Link{
		{Name: "br0", Kind: Bridge, Ports: []string{"bond0.7"}, Addresses: pre("10.0.0.1/24"), STP: true},
		{Name: "bond0.7", Kind: VLAN, Parent: "bond0", ID: 7},
		{Name: "bond0", Kind: Bond, Mode: "active-backup", MIIMon: 100 * time.Millisecond, Ports: []string{"eth0", "eth1"}},
	})
	require.NoError(t, err)
	w := Wanted{Links: order}
	s := state(map[string]*Dev{"eth0": device(2), "eth1": device(3)})
	require.Equal(t, `bond0: create bond
bond0: set ignore_routes_with_linkdown 1
bond0: set up
br0: create bridge
br0: set STP 1
br0: set ignore_routes_with_linkdown 1
br0: set up
br0: add address 10.0.0.1/24
bond0.7: create vlan
bond0.7: add to br0
bond0.7: set ignore_routes_with_linkdown 1
bond0.7: set up
eth0: set down
eth0: add to bond0
eth1: set down
eth1: add to bond0`, text(Diff(w, s, nil, time.Now())))

	// All is there: nothing to do. Another mode: the bond is made anew, and what stands on it.
	made := func(index int, kind Kind) *Dev {
		v := device(index)
		v.Kind, v.Alias = string(kind), mark
		return v
	}
	br, bond, vlan, e0, e1 := made(10, Bridge), made(11, Bond), made(12, VLAN), device(2), device(3)
	br.STP, br.Addresses[netip.MustParsePrefix("10.0.0.1/24")] = true, time.Time{}
	bond.Mode, bond.MIIMon = "active-backup", 100*time.Millisecond
	vlan.ID, vlan.Parent, vlan.Master = 7, 11, 10
	e0.Master, e1.Master = 11, 11
	s = state(map[string]*Dev{"br0": br, "bond0": bond, "bond0.7": vlan, "eth0": e0, "eth1": e1})
	require.Empty(t, text(Diff(w, s, nil, time.Now())))

	w.Links, err = Order([]Link{{Name: "br0", Kind: Bridge, STP: true, Addresses: pre("10.0.0.1/24")}})
	require.NoError(t, err)
	require.Equal(t, "bond0: delete\nbond0.7: delete", text(Diff(w, s, nil, time.Now())), "what coble made and nobody wants goes; devices stay")

	bond.Mode = "802.3ad"
	w.Links = order
	require.Equal(t, `bond0: delete
bond0: create bond
bond0: set ignore_routes_with_linkdown 1
bond0: set up
bond0.7: create vlan
bond0.7: add to br0
bond0.7: set ignore_routes_with_linkdown 1
bond0.7: set up
eth0: set down
eth0: add to bond0
eth1: set down
eth1: add to bond0`, text(Diff(w, s, nil, time.Now())))
}

func TestOthersLinks(t *testing.T) {
	theirs := device(5)
	theirs.Kind = "bridge"
	s := state(map[string]*Dev{"br0": theirs, "br1": {Kind: "bridge", Index: 6, Group: group}})
	w := Wanted{Links: []Link{{Name: "br0", Kind: Bridge, Addresses: pre("10.0.0.1/24")}}}
	require.Equal(t, "br0: leave alone", text(Diff(w, s, nil, time.Now())), "nothing of theirs is touched")
	w.Links[0].Name = "br1"
	require.Equal(t, "br1: mark as coble's\nbr1: set ignore_routes_with_linkdown 1\nbr1: set up\nbr1: add address 10.0.0.1/24", text(Diff(w, s, nil, time.Now())), "one whose maker was killed")

	port := device(7)
	port.Master = 5
	s.Devices["eth0"] = port
	require.NotContains(t, text(Diff(w, s, nil, time.Now())), "free", "nor are their ports")
}

func TestRenames(t *testing.T) {
	a, b, bridge := device(2), device(3), device(4)
	a.PermMAC, b.PermMAC, bridge.MAC, bridge.Kind = "02:00:00:00:00:0a", "02:00:00:00:00:0b", "02:00:00:00:00:0a", "bridge"
	s := state(map[string]*Dev{"eth0": a, "eth1": b, "br0": bridge})
	w := Wanted{Links: []Link{{Name: "eth0", MatchMAC: "02:00:00:00:00:0b"}, {Name: "eth1", MatchMAC: "02:00:00:00:00:0a"}}}
	require.Equal(t, "eth0: rename moved2\neth1: rename eth0", text(Diff(w, s, nil, time.Now())))
	s = state(map[string]*Dev{"moved2": a, "eth0": b, "br0": bridge})
	require.Equal(t, "moved2: rename eth1", text(Diff(w, s, nil, time.Now())))
	s = state(map[string]*Dev{"eth1": a, "eth0": b, "br0": bridge})
	require.Empty(t, text(Diff(w, s, nil, time.Now())))
}

// A device that is not there needs nothing, and neither does what stands on it.
func TestMissingDevice(t *testing.T) {
	w := Wanted{Links: []Link{{Name: "eth7", Addresses: pre("10.0.0.1/24"), Gateways: ips("10.0.0.2")}, {Name: "eth7.5", Kind: VLAN, Parent: "eth7", ID: 5, Gateways: ips("10.0.0.3")}}}
	require.Empty(t, text(Diff(w, state(nil), nil, time.Now())))
}

// The server's routes and the file's, and what the kernel calls the same.
func TestRoutes(t *testing.T) {
	now := time.Unix(1000, 0)
	lease := &dhcp.Lease{
		Address: netip.MustParsePrefix("10.0.2.15/32"), Until: now.Add(time.Minute),
		Routes: []dhcp.Route{{To: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("10.0.2.1")}, {To: netip.MustParsePrefix("10.9.0.0/16")}},
	}
	l := Link{Name: "eth0", Metric: 7, Gateways: ips("10.0.2.1"), Routes: []Route{{To: netip.MustParsePrefix("fd00::7/64")}}}
	w := Wanted{Links: []Link{l}, Leases: map[string][]*dhcp.Lease{"eth0": {lease}}}
	s := state(map[string]*Dev{"eth0": device(2)})
	changes := Diff(w, s, nil, now)
	require.Equal(t, `eth0: add address 10.0.2.15/32
eth0: add route 0.0.0.0/0 via 10.0.2.1 dev eth0 metric 7 table 254
eth0: add route 10.9.0.0/16 dev eth0 metric 7 table 254
eth0: add route fd00::/64 dev eth0 metric 1024 table 254`, text(changes))
	require.True(t, changes[1].Route.OnLink, "a gateway outside of all subnets")
	require.Equal(t, "eth0: add route 10.9.0.0/16 dev eth0 metric 7 table 254", text(Diff(w, state(map[string]*Dev{"eth0": device(2)}), nil, now)[2:3]))

	v := device(2)
	v.Addresses[lease.Address] = now.Add(59 * time.Second)
	s = state(map[string]*Dev{"eth0": v})
	s.Routes = []Route{changes[1].Route, changes[2].Route, changes[3].Route}
	require.Empty(t, text(Diff(w, s, nil, now)), "the kernel counts whole seconds")
	w.Leases = nil
	require.Equal(t, "eth0: remove address 10.0.2.15/32\neth0: remove route 10.9.0.0/16 dev eth0 metric 7 table 254",
		text(Diff(w, s, Owned{"eth0": {lease.Address}}, now)))
}

// Name servers of all links in an order that does not depend on which was first.
func TestResolv(t *testing.T) {
	w := Wanted{
		Links:  []Link{{Name: "b", DNS: ips("192.0.2.2"), Search: []string{"b.example"}}, {Name: "a", DNS: ips("192.0.2.1")}},
		Leases: map[string][]*dhcp.Lease{"b": {{DNS: ips("192.0.2.1", "192.0.2.4"), Search: []string{"b.example", "c.example"}}}, "a": {{DNS: ips("fd00::1")}}},
	}
	require.Equal(t, "search b.example c.example\nnameserver 192.0.2.1\nnameserver 192.0.2.2\nnameserver fd00::1\nnameserver 192.0.2.4\n", w.resolv())
	require.Empty(t, Wanted{}.resolv())
}
