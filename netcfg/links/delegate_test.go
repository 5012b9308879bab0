package links

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/coble-os/coble/netcfg/dhcp"
	"github.com/coble-os/coble/netcfg/nstest"
)

func TestSubnet(t *testing.T) {
	for _, r := range []struct {
		prefix string
		n      int
		want   string
	}{
		{"2001:db8:1:100::/56", 0, "2001:db8:1:100::1/64"},
		{"2001:db8:1:100::/56", 255, "2001:db8:1:1ff::1/64"},
		{"2001:db8:1:100::/56", 256, "invalid Prefix"},
		{"2001:db8:1:1::/64", 0, "2001:db8:1:1::1/64"},
		{"2001:db8:1:1::/64", 1, "invalid Prefix"},
		{"2001:db8:1:1::/80", 0, "invalid Prefix"},
		{"2001:db8::/32", 0x12345, "2001:db8:1:2345::1/64"},
		{"2001:db8::/20", 7, "2001:0:0:7::1/64"},
	} {
		require.Equal(t, r.want, subnet(netip.MustParsePrefix(r.prefix), r.n).String(), "%v", r)
	}
	one := 1
	require.Equal(t, "map[a:0 b:1 c:2 d:3]", fmt.Sprint(subnets([]Link{
		{Name: "d", PrefixFrom: "wan"},
		{Name: "c", PrefixFrom: "wan"},
		{Name: "b", PrefixFrom: "wan", Subnet: &one},
		{Name: "a", PrefixFrom: "wan"},
		{Name: "x", PrefixFrom: "other"},
		{Name: "y"},
	}, "wan")))
}

// What is delegated no more stays for two hours at most, deprecated, and for nobody who does not want it.
func TestDeprecate(t *testing.T) {
	now := time.Unix(100000, 0)
	links := []Link{{Name: "lan0", PrefixFrom: "wan"}, {Name: "lan1"}, {Name: "lan2", PrefixFrom: "wan"}, {Name: "lan3", PrefixFrom: "wan"}}
	of := func(s string, valid time.Duration) share {
		return share{netip.MustParsePrefix(s), life{now.Add(valid), now.Add(valid / 2)}}
	}
	was := map[string]share{"lan0": of("fd00::1/64", 24*time.Hour), "lan1": of("fd00:1::1/64", time.Hour), "lan2": of("fd00:2::1/64", time.Hour), "lan3": {Address: netip.MustParsePrefix("fd00:3::1/64")}}
	is := map[string]share{"lan2": of("fd00:2::1/64", 9*time.Hour), "lan0": of("fd01::1/64", time.Hour)}
	old := deprecate(links, was, nil, is, now)
	require.Equal(t, map[string][]share{
		"lan0": {{netip.MustParsePrefix("fd00::1/64"), life{now.Add(lingering), now}}},
		"lan3": {{netip.MustParsePrefix("fd00:3::1/64"), life{now.Add(lingering), now}}},
	}, old)
	require.Equal(t, old, deprecate(links, is, old, is, now.Add(time.Hour)), "it stays as it is")
	require.Empty(t, deprecate(links, is, old, map[string]share{"lan0": of("fd00::1/64", time.Hour), "lan3": of("fd00:3::1/64", time.Hour)}, now)["lan3"], "it is back")
	require.Empty(t, deprecate(links, was, nil, map[string]share{"lan2": was["lan0"], "lan0": was["lan2"], "x": was["lan3"]}, now), "another link has the subnet now")
	require.Empty(t, deprecate(links, nil, old, nil, now.Add(lingering)))
	require.Empty(t, deprecate(nil, was, old, nil, now))
}

// Each link has its part, the rest is refused; an address whose prefix is lost is deprecated, and not touched again.
func TestSharesInDiff(t *testing.T) {
	now := time.Unix(100000, 0)
	prefix := netip.MustParsePrefix("2001:db8:1::/56")
	lease := &dhcp.Lease{Prefix: prefix, PrefixPreferred: now.Add(time.Hour), PrefixUntil: now.Add(2 * time.Hour)}
	w := Wanted{Links: []Link{{Name: "lan0", PrefixFrom: "wan"}, {Name: "wan", DHCP6: true}}, Leases: map[string][]*dhcp.Lease{"wan": {lease}}}
	lan, lo := device(3), device(1)
	lan.RA = "1"
	s := state(map[string]*Dev{"lan0": lan, "wan": device(2), "lo": lo})
	changes := Diff(w, s, nil, now)
	require.Equal(t, "lan0: set accept_ra 0\nlan0: add address 2001:db8:1::1/64\nlo: add route unreachable 2001:db8:1::/56 dev lo metric 1024 table 254", text(changes))
	changes, lan.RA = changes[1:], "0"
	require.Equal(t, life{now.Add(2 * time.Hour), now.Add(time.Hour)}, changes[0].life)
	addr := changes[0].Address
	lan.Addresses[addr], lan.Preferred = now.Add(2*time.Hour), map[netip.Prefix]time.Time{addr: now.Add(time.Hour)}
	s.Routes = []Route{changes[1].Route}
	require.Empty(t, text(Diff(w, s, nil, now)))

	w.Leases, w.old = nil, map[string][]share{"lan0": {{addr, life{now.Add(time.Hour), now}}}}
	changes = Diff(w, s, Owned{"lan0": {addr}}, now.Add(time.Minute))
	require.Equal(t, "lan0: add address 2001:db8:1::1/64\nlo: remove route unreachable 2001:db8:1::/56 dev lo metric 1024 table 254", text(changes))
	lan.Addresses[addr], lan.Preferred[addr], s.Routes = now.Add(time.Hour), now.Add(2*time.Minute), nil
	require.Empty(t, text(Diff(w, s, Owned{"lan0": {addr}}, now.Add(2*time.Minute))))
}

// kea delegates one /60 of a prefix to who asks, and has no addresses.
func kea(t *testing.T, p *nstest.Peer, prefix string) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(dir+"/kea.conf", fmt.Appendf(nil, `{"Dhcp6": {"interfaces-config": {"interfaces": ["srv0"]},
		"lease-database": {"type": "memfile", "persist": false}, "server-id": {"type": "LL", "persist": false},
		"renew-timer": 2, "rebind-timer": 60, "preferred-lifetime": 90, "valid-lifetime": 120,
		"subnet6": [{"id": 1, "interface": "srv0", "subnet": "fd00:3::/64", "pd-pools": [{"prefix": %q, "prefix-len": 56, "delegated-len": 60}]}]}}`, prefix), 0o600))
	t.Setenv("KEA_PIDFILE_DIR", dir)
	t.Setenv("KEA_LOCKFILE_DIR", "none")
	cmd := p.Start(t, nstest.Program(t, "kea-dhcp6", "kea-dhcp6-server"), "-c", dir+"/kea.conf")
	t.Cleanup(func() { cmd.Process.Kill() })
}

// lives are a link's addresses of a prefix with their preferred and valid seconds.
func lives(t *testing.T, link, prefix string) (all []netlink.Addr) {
	l, err := netlink.LinkByName(link)
	if err != nil {
		return nil
	}
	addrs, err := netlink.AddrList(l, netlink.FAMILY_V6)
	require.NoError(t, err)
	for _, a := range addrs {
		if strings.HasPrefix(a.IPNet.String(), prefix) {
			all = append(all, a)
		}
	}
	return all
}

// announce runs dnsmasq beside the links, as the documentation has it in a container.
func announce(t *testing.T, link string) {
	cmd := exec.Command(nstest.Program(t, "dnsmasq", "dnsmasq-base"), "--keep-in-foreground", "--user=root", "--conf-file=/dev/null", "--port=0", "--pid-file=", "--log-facility=-",
		"--dhcp-leasefile="+t.TempDir()+"/leases", "--interface="+link, "--bind-dynamic", "--enable-ra", "--dhcp-range=::,constructor:"+link+",ra-stateless")
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
}

// Debian's Kea delegates a prefix: two links have their part, and keep it through the death of an engine; another prefix
// deprecates the first one's. A host behind one of them hears of both from dnsmasq.
func TestDelegated(t *testing.T) {
	nstest.Program(t, "kea-dhcp6", "kea-dhcp6-server")
	p, host := nstest.NewPeer(t), nstest.NewPeer(t)
	host.Veth(t, "p1", "eth0")
	hosts := func(prefix string) (all []netlink.Addr) {
		host.Do(func() { all = lives(t, "eth0", prefix) })
		return all
	}
	p.Veth(t, "wan0", "srv0", "fd00:3::1/64")
	gone(t, "lan0", "lan1")
	nstest.Up(t, "wan0", true)
	nstest.Until(t, "link-local address of the server, which it looks for once", func() bool {
		n := 0
		p.Do(func() { n = len(lives(t, "srv0", "")) })
		return n == 2
	})
	five := 5
	want := []Link{
		{Name: "wan0", DHCP6: true, PrefixHint: 60},
		{Name: "lan0", Kind: Bridge, Ports: []string{"p1"}, PrefixFrom: "wan0"},
		{Name: "lan1", Kind: Bridge, PrefixFrom: "wan0", Subnet: &five},
	}
	dir := t.TempDir()
	t.Run("first", func(t *testing.T) {
		kea(t, p, "fd00:30::")
		k := keep(t, dir, want...)
		nstest.Until(t, "parts of the prefix", func() bool { return len(lives(t, "lan0", "fd00:30:")) == 1 && len(lives(t, "lan1", "fd00:30:")) == 1 })
		require.Regexp(t, `^fd00:30:0:.?0::1/64$|^fd00:30::1/64$`, addresses(t, "lan0"))
		require.Regexp(t, `^fd00:30:0:.?5::1/64$`, addresses(t, "lan1"))
		a := lives(t, "lan0", "fd00:30:")[0]
		require.InDelta(t, 90, a.PreferedLft, 5)
		require.InDelta(t, 120, a.ValidLft, 5)
		nstest.Until(t, "refusal of the rest", func() bool { return strings.Contains(routes(t, 254), "unreachable fd00:30:") })
		k.took()
		nstest.Until(t, "renewal", func() bool { return strings.Contains(k.took(), "lan0: add address fd00:30:") })
		k.Close()

		k = keep(t, dir, want...)
		end := time.Now().Add(time.Second)
		for time.Now().Before(end) {
			require.Zero(t, lives(t, "lan0", "fd00:30:")[0].Flags&0x20, "the next engine goes on with it")
			time.Sleep(20 * time.Millisecond)
		}
		require.NotContains(t, k.took(), "remove")
		k.Close()
	})
	old := addresses(t, "lan0")
	announce(t, "lan0")
	nstest.Until(t, "address of the host behind", func() bool { all := hosts("fd00:30:"); return len(all) == 1 && all[0].PreferedLft > 0 })
	kea(t, p, "fd00:40::")
	k := keep(t, dir, want...)
	nstest.Until(t, "part of the other prefix", func() bool { return len(lives(t, "lan0", "fd00:40:")) == 1 })
	nstest.Until(t, "end of the first one's preference", func() bool {
		all := lives(t, "lan0", "fd00:30:")
		return len(all) == 1 && all[0].PreferedLft == 0
	})
	require.Greater(t, lives(t, "lan0", "fd00:30:")[0].ValidLft, 60)
	require.Contains(t, addresses(t, "lan0"), old)
	require.NotContains(t, routes(t, 254), "unreachable fd00:30:")
	nstest.Until(t, "new address of the host behind", func() bool { all := hosts("fd00:40:"); return len(all) == 1 && all[0].PreferedLft > 0 })
	nstest.Until(t, "end of the old one's preference", func() bool { all := hosts("fd00:30:"); return len(all) == 1 && all[0].PreferedLft == 0 })

	want[1].PrefixFrom = ""
	k.Set(Config{want})
	nstest.Until(t, "end on the link that takes none", func() bool { return addresses(t, "lan0") == "" })
	require.Len(t, lives(t, "lan1", "fd00:40:"), 1)
}

// The kernel takes what a delegation needs, and gives it back as it was said: nothing differs the next time.
func TestSharesInKernel(t *testing.T) {
	p := nstest.NewPeer(t)
	p.Veth(t, "lan0", "eth0")
	nstest.Up(t, "lan0", true)
	now := time.Now()
	lease := &dhcp.Lease{Prefix: netip.MustParsePrefix("2001:db8:1::/56"), PrefixPreferred: now.Add(time.Hour), PrefixUntil: now.Add(2 * time.Hour)}
	w := Wanted{Links: []Link{{Name: "lan0", PrefixFrom: "wan"}, {Name: "wan", DHCP6: true}}, Leases: map[string][]*dhcp.Lease{"wan": {lease}}}
	step := func(w Wanted) {
		t.Helper()
		for range 2 {
			s, err := read(now, w.Links)
			require.NoError(t, err)
			s.Devices["wan"] = device(99)
			changes := Diff(w, s, Owned{"lan0": pre("2001:db8:1::1/64")}, now)
			for _, c := range changes {
				require.NoError(t, apply(c, now))
			}
			if len(changes) == 0 {
				return
			}
		}
		s, err := read(now, w.Links)
		require.NoError(t, err)
		s.Devices["wan"] = device(99)
		require.Empty(t, text(Diff(w, s, nil, now)))
	}
	step(w)
	require.Equal(t, "unreachable 2001:db8:1::/56 dev lo metric 1024 table 254", routes(t, 254))
	lease.PrefixPreferred, lease.PrefixUntil = time.Time{}, time.Time{}
	step(w)
	require.Equal(t, "2001:db8:1::1/64", addresses(t, "lan0"))
	w.Leases, w.old = nil, map[string][]share{"lan0": {{pre("2001:db8:1::1/64")[0], life{now.Add(time.Hour), now}}}}
	step(w)
	require.Zero(t, lives(t, "lan0", "2001:db8")[0].PreferedLft)
	require.Empty(t, routes(t, 254))
	w.old = nil
	step(w)
	require.Empty(t, addresses(t, "lan0"))
}
