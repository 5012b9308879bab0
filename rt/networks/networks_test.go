package networks

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/network"
	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"

	"github.com/coble-os/coble/rt/fault"
)

func id(n int) string { return strings.Repeat(fmt.Sprintf("%02x", n), 32) }

func open(t *testing.T, db *bolt.DB) *Registry {
	r, err := Open(Options{DB: db, FixID: func(name string) string { return "fixed-" + name }, Bridge: "t0", Subnet: netip.MustParsePrefix("10.88.0.0/24")})
	require.NoError(t, err)
	return r
}

func newDB(t *testing.T) *bolt.DB {
	db, err := bolt.Open(filepath.Join(t.TempDir(), "db"), 0o600, nil)
	require.NoError(t, err)
	t.Cleanup(func() { db.Close() })
	return db
}

func ask(n int, name string, subnets ...string) network.Network {
	out := network.Network{ID: id(n), Name: name, EnableIPv4: true}
	for _, s := range subnets {
		p := netip.MustParsePrefix(s)
		out.EnableIPv6 = out.EnableIPv6 || p.Addr().Is6()
		out.IPAM.Config = append(out.IPAM.Config, network.IPAMConfig{Subnet: p})
	}
	return out
}

func TestKept(t *testing.T) {
	db := newDB(t)
	r := open(t, db)
	made, err := r.Create(ask(1, "lan", "10.90.0.0/24", "fd00:7::/64"))
	require.NoError(t, err)
	require.Equal(t, "10.90.0.1", made.IPAM.Config[0].Gateway.String())
	again := open(t, db)
	require.Equal(t, r.All(), again.All())
	for _, ref := range []string{"lan", id(1), id(1)[:5]} {
		n, err := again.Get(ref)
		require.NoError(t, err, ref)
		require.Equal(t, made, n)
	}
	k, err := again.Kernel("lan")
	require.NoError(t, err)
	require.Equal(t, "br-"+id(1)[:12], k.Bridge)
	require.True(t, k.ICC && k.Masquerade && !k.Internal)
	require.Equal(t, "fd00:7::1", k.Gateway6.String())
	require.NoError(t, again.Remove("lan"))
	_, err = open(t, db).Get("lan")
	require.Equal(t, fault.NotFound, fault.KindOf(err))
	for _, name := range []string{Default, Host, None} {
		require.Equal(t, fault.Forbidden, fault.KindOf(again.Remove(name)))
	}
}

func TestLeases(t *testing.T) {
	r := open(t, newDB(t))
	n, err := r.Create(ask(1, "lan", "10.90.0.0/29", "fd00:7::/64"))
	require.NoError(t, err)
	var none netip.Addr
	a, err := r.Join(n.ID, "a", none, none)
	require.NoError(t, err)
	require.Equal(t, "10.90.0.2/29 fd00:7::2/64", a.V4.String()+" "+a.V6.String())
	_, err = r.Join(n.ID, "b", a.V4.Addr(), none)
	require.ErrorContains(t, err, "already in use")
	require.Equal(t, fault.Conflict, fault.KindOf(err))
	_, err = r.Join(n.ID, "b", none, netip.MustParseAddr("fd00:8::1"))
	require.ErrorContains(t, err, "no configured subnet contains IP address fd00:8::1")
	for _, key := range []string{"b", "c", "d", "e"} { // what failed above holds nothing
		_, err = r.Join(n.ID, key, none, none)
		require.NoError(t, err)
	}
	_, err = r.Join(n.ID, "f", none, none)
	require.ErrorContains(t, err, "no available IPv4 addresses on this network's address pools: lan")
	r.Leave(n.ID, "c")
	_, err = r.Join(n.ID, "f", none, none)
	require.NoError(t, err)
}

// TestRefused: each mistake has a sentence of its own, and nothing is kept of it.
func TestRefused(t *testing.T) {
	r := open(t, newDB(t))
	_, err := r.Create(ask(1, "lan", "10.90.0.0/24"))
	require.NoError(t, err)
	before := r.All()
	for want, n := range map[string]network.Network{
		"already exists":                       ask(2, "lan"),
		"overlaps":                             ask(2, "x", "10.90.0.128/25"),
		"overlaps with other":                  ask(2, "x", "10.88.0.0/16"),
		"invalid network name":                 ask(2, "a b"),
		"invalid network name \"\"":            ask(2, ""),
		`driver "overlay" is not known`:        func() network.Network { n := ask(2, "x"); n.Driver = "overlay"; return n }(),
		"option com.example is not known":      func() network.Network { n := ask(2, "x"); n.Options = map[string]string{"com.example": "1"}; return n }(),
		"is no name of a link":                 func() network.Network { n := ask(2, "x"); n.Options = map[string]string{optBridge: "../x"}; return n }(),
		"bridge t0 is that of network bridge":  func() network.Network { n := ask(2, "x"); n.Options = map[string]string{optBridge: "t0"}; return n }(),
		`"x" is neither true nor false`:        func() network.Network { n := ask(2, "x"); n.Options = map[string]string{optICC: "x"}; return n }(),
		"is no MTU from 68 to 65535":           func() network.Network { n := ask(2, "x"); n.Options = map[string]string{optMTU: "1"}; return n }(),
		"is IPv6: say so with --ipv6":          func() network.Network { n := ask(2, "x", "fd00::/64"); n.EnableIPv6 = false; return n }(),
		"IPv4 or IPv6 must be enabled":         func() network.Network { n := ask(2, "x"); n.EnableIPv4 = false; return n }(),
		"one subnet of each family":            ask(2, "x", "10.91.0.0/24", "10.92.0.0/24"),
		"with room for hosts":                  ask(2, "x", "10.91.0.0/31"),
		"scope \"swarm\" is not known":         func() network.Network { n := ask(2, "x"); n.Scope = "swarm"; return n }(),
		"ingress, config-only and config-from": func() network.Network { n := ask(2, "x"); n.ConfigOnly = true; return n }(),
	} {
		_, err := r.Create(n)
		require.ErrorContains(t, err, want)
		require.NotEqual(t, fault.Internal, fault.KindOf(err), want)
	}
	require.Equal(t, before, r.All())
}

// TestOwnSubnets: whoever names none gets what nobody has.
func TestOwnSubnets(t *testing.T) {
	r := open(t, newDB(t))
	seen := []netip.Prefix{netip.MustParsePrefix("10.88.0.0/24")}
	for i := range 5 {
		n := ask(i+1, fmt.Sprintf("n%d", i))
		n.EnableIPv6 = true
		n, err := r.Create(n)
		require.NoError(t, err)
		require.Len(t, n.IPAM.Config, 2)
		for _, c := range n.IPAM.Config {
			for _, other := range seen {
				require.False(t, other.Overlaps(c.Subnet), "%s and %s", other, c.Subnet)
			}
			seen = append(seen, c.Subnet)
		}
		require.True(t, n.IPAM.Config[1].Subnet.Addr().IsPrivate())
	}
}

func TestDamagedRecord(t *testing.T) {
	db := newDB(t)
	_, err := open(t, db).Create(ask(1, "lan"))
	require.NoError(t, err)
	require.NoError(t, db.Update(func(tx *bolt.Tx) error { return tx.Bucket(bucket).Put([]byte("bad"), []byte("{")) }))
	r, err := Open(Options{DB: db, FixID: func(name string) string { return name }, Bridge: "t0", Subnet: netip.MustParsePrefix("10.88.0.0/24")})
	require.ErrorContains(t, err, "read record of network bad")
	_, err = r.Get("lan")
	require.NoError(t, err)
}

// TestParents is a table of which networks go together on one parent. What is not said is what it is said to be by default.
func TestParents(t *testing.T) {
	for _, c := range []struct{ one, other, refused string }{
		{"macvlan", "macvlan", ""},
		{"macvlan macvlan_mode=private", "macvlan macvlan_mode=bridge", ""},
		{"macvlan", "macvlan macvlan_mode=passthru", "passthru shares it with none"},
		{"macvlan", "ipvlan", "is macvlan's there"},
		{"ipvlan", "ipvlan ipvlan_mode=l2", ""},
		{"ipvlan ipvlan_flag=bridge", "ipvlan", ""},
		{"ipvlan ipvlan_mode=l3", "ipvlan ipvlan_mode=l3 ipvlan_flag=bridge", ""},
		{"ipvlan", "ipvlan ipvlan_mode=l3", "another mode or flag"},
		{"ipvlan ipvlan_mode=l3s", "ipvlan ipvlan_mode=l3", "another mode or flag"},
		{"ipvlan ipvlan_flag=private", "ipvlan", "another mode or flag"},
	} {
		r := open(t, newDB(t))
		var err error
		for i, text := range []string{c.one, c.other} {
			require.NoError(t, err)
			words := strings.Fields(text)
			n := ask(i+1, fmt.Sprint("n", i))
			n.Driver, n.Options = words[0], map[string]string{optParent: "eth7"}
			for _, w := range words[1:] {
				key, value, _ := strings.Cut(w, "=")
				n.Options[key] = value
			}
			_, err = r.Create(n)
		}
		if c.refused == "" {
			require.NoError(t, err, "%s beside %s", c.other, c.one)
		} else {
			require.ErrorContains(t, err, c.refused, "%s beside %s", c.other, c.one)
			require.Equal(t, fault.Conflict, fault.KindOf(err))
		}
	}
}
