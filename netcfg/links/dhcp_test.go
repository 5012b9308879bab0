package links

import (
	"encoding/binary"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/netcfg/nstest"
)

// dnsmasq serves both families on srv0 and announces the prefix.
func dnsmasq(t *testing.T, p *nstest.Peer, more ...string) {
	p.Start(t, nstest.Program(t, "dnsmasq", "dnsmasq-base"), append([]string{
		"--keep-in-foreground", "--user=root", "--conf-file=/dev/null", "--port=0", "--pid-file=", "--log-facility=-", "--log-dhcp",
		"--dhcp-leasefile=" + t.TempDir() + "/leases", "--interface=srv0", "--bind-dynamic", "--dhcp-authoritative", "--dhcp-range=10.0.2.50,10.0.2.60,255.255.255.0,2m",
		"--dhcp-option=option:dns-server,10.0.2.9", "--dhcp-option=option:domain-search,example", "--dhcp-option=option:mtu,1400",
		"--dhcp-range=fd00:2::50,fd00:2::60,slaac,64,2m", "--dhcp-option=option6:dns-server,[fd00:2::9]", "--enable-ra", "--ra-param=srv0,10,120",
	}, more...)...)
}

// A link that asks: addresses, routes and name servers of both families, SLAAC; an engine that comes after takes the lease
// over without a gap; carrier that returns makes it ask again; another network takes the old one's away.
func TestAsking(t *testing.T) {
	first, second := nstest.NewPeer(t), nstest.NewPeer(t)
	yes := true
	first.Veth(t, "wan0", "srv0", "10.0.2.1/24", "fd00:2::1/64")
	dnsmasq(t, first)
	dir := t.TempDir()
	wan := Link{Name: "wan0", DHCP4: true, DHCP6: true, RA: &yes, AddrGen: "eui64", Metric: 20, DNS: ips("192.0.2.53")}
	k := keep(t, dir, wan)
	k.settled("wan0")
	nstest.Until(t, "address of each kind", func() bool {
		all := addresses(t, "wan0")
		return strings.Contains(all, "10.0.2.") && strings.Contains(all, "/128") && strings.Contains(all, "/64")
	})
	require.NoError(t, k.Await(t.Context(), ""), "there is a default route")
	require.Equal(t, "0.0.0.0/0 via 10.0.2.1 dev wan0 metric 20 table 254", routes(t, 254))
	resolv, err := os.ReadFile(k.resolv)
	require.NoError(t, err)
	require.Equal(t, "search example\nnameserver 192.0.2.53\nnameserver 10.0.2.9\nnameserver fd00:2::9\n", string(resolv))
	l, err := netlink.LinkByName("wan0")
	require.NoError(t, err)
	require.Equal(t, 1400, l.Attrs().MTU)
	all, err := netlink.AddrList(l, netlink.FAMILY_V4)
	require.NoError(t, err)
	require.InDelta(t, 120, all[0].ValidLft, 10, "the kernel ends it, whoever lives then")
	mine := all[0].IPNet.String()

	k.Close()
	k = keep(t, dir, wan)
	for _, line := range strings.Split(k.settled("wan0"), "\n") {
		require.NotContains(t, line, "remove", "nothing of what an earlier engine got goes")
	}
	require.Contains(t, addresses(t, "wan0"), mine)

	// Carrier goes, and comes back on another network.
	require.NoError(t, netlink.LinkDel(l))
	nstest.Until(t, "end of the link", func() bool { return addresses(t, "wan0") == "no link" })
	second.Veth(t, "wan0", "srv0", "10.0.2.2/24", "fd00:2::2/64")
	dnsmasq(t, second, "--dhcp-option=option:router,10.0.2.77")
	nstest.Until(t, "route of the other network", func() bool {
		return routes(t, 254) == "0.0.0.0/0 via 10.0.2.77 dev wan0 metric 20 table 254"
	})
	k.settled("wan0")

	k.took()
	down := func(up bool) {
		second.Do(func() {
			l, err := netlink.LinkByName("srv0")
			require.NoError(t, err)
			if up {
				require.NoError(t, netlink.LinkSetUp(l))
			} else {
				require.NoError(t, netlink.LinkSetDown(l))
			}
		})
	}
	until := func() int {
		l, err := netlink.LinkByName("wan0")
		require.NoError(t, err)
		all, err := netlink.AddrList(l, netlink.FAMILY_V4)
		require.NoError(t, err)
		require.NotEmpty(t, all)
		return all[0].ValidLft
	}
	down(false)
	nstest.Until(t, "loss of carrier", func() bool { return !online(k, "wan0") })
	for until() > 114 { // so that another lease is seen to last longer
		time.Sleep(100 * time.Millisecond)
	}
	down(true)
	second.Do(func() { // the kernel took it with the link
		l, _ := netlink.LinkByName("srv0")
		netlink.AddrReplace(l, &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix("fd00:2::2/64"))})
	})
	start := time.Now()
	nstest.Until(t, "lease asked for again", func() bool { return until() > 116 })
	require.Less(t, time.Since(start), 30*time.Second, "at once, and not because its half is over")

	k.Set(Config{[]Link{{Name: "wan0"}}})
	nstest.Until(t, "end of the lease", func() bool { return !strings.Contains(addresses(t, "wan0"), "10.0.2.") && routes(t, 254) == "" })
	nstest.Until(t, "end of its name servers", func() bool {
		b, err := os.ReadFile(k.resolv)
		return err == nil && len(b) == 0
	})
}

func online(k *kept, link string) bool {
	k.Keeper.mu.Lock()
	defer k.Keeper.mu.Unlock()
	return k.Keeper.online[link]
}

// A lease of seconds whose server is gone ends, and its address with it.
func TestLeaseEnds(t *testing.T) {
	peer := nstest.NewPeer(t)
	peer.Veth(t, "wan0", "srv0", "fd00:3::1/64")
	nstest.Up(t, "wan0", true)
	nstest.Until(t, "link-local address of the server, which it looks for once", func() bool {
		var all []netlink.Addr
		peer.Do(func() {
			l, _ := netlink.LinkByName("srv0")
			all, _ = netlink.AddrList(l, netlink.FAMILY_V6)
		})
		return len(all) == 2
	})
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(dir+"/kea.conf", []byte(`{"Dhcp6": {"interfaces-config": {"interfaces": ["srv0"]},
		"lease-database": {"type": "memfile", "persist": false}, "server-id": {"type": "LL", "persist": false},
		"renew-timer": 2, "rebind-timer": 4, "preferred-lifetime": 5, "valid-lifetime": 6,
		"subnet6": [{"id": 1, "interface": "srv0", "subnet": "fd00:3::/64", "pools": [{"pool": "fd00:3::50 - fd00:3::60"}]}]}}`), 0o600))
	t.Setenv("KEA_PIDFILE_DIR", dir)
	t.Setenv("KEA_LOCKFILE_DIR", "none")
	kea := peer.Start(t, nstest.Program(t, "kea-dhcp6", "kea-dhcp6-server"), "-c", dir+"/kea.conf")
	k := keep(t, dir, Link{Name: "wan0", DHCP6: true})
	k.settled("wan0")
	renewed := 0
	for range 100 {
		time.Sleep(100 * time.Millisecond)
		renewed += strings.Count(k.took(), "add address")
		require.Contains(t, addresses(t, "wan0"), "fd00:3::", "renewed in time")
	}
	require.Greater(t, renewed, 2)
	require.NoError(t, kea.Process.Kill())
	nstest.Until(t, "end of the address", func() bool { return !strings.Contains(addresses(t, "wan0"), "fd00:3::") })
	nstest.Until(t, "word of it", func() bool { return !online(k, "wan0") })
}

// Name servers that routers announce are used for as long as they say, and known to the next engine.
func TestRouterNamesServers(t *testing.T) {
	p := nstest.NewPeer(t)
	p.Veth(t, "wan0", "srv0", "fd00:6::1/64")
	p.Start(
		t, nstest.Program(t, "dnsmasq", "dnsmasq-base"), "--keep-in-foreground", "--user=root", "--conf-file=/dev/null", "--port=0", "--pid-file=", "--log-facility=-",
		"--interface=srv0", "--bind-dynamic", "--dhcp-range=fd00:6::,ra-only", "--enable-ra", "--ra-param=srv0,4,20",
		"--dhcp-option=option6:dns-server,[fd00:6::53]", "--dhcp-option=option6:domain-search,six.example",
	)
	yes, dir := true, t.TempDir()
	wan := Link{Name: "wan0", RA: &yes}
	k := keep(t, dir, wan)
	content := func() string {
		b, _ := os.ReadFile(k.resolv)
		return string(b)
	}
	const want = "search six.example\nnameserver fd00:6::53\n"
	nstest.Until(t, "name server", func() bool { return content() == want })
	k.Close()
	require.NoError(t, os.Remove(k.resolv))
	no := false
	p.Do(func() { nstest.Up(t, "srv0", false) }) // nobody says it again
	k = keep(t, dir, wan)
	nstest.Until(t, "name server of before", func() bool { return content() == want })
	k.Set(Config{[]Link{{Name: "wan0", RA: &no}}})
	nstest.Until(t, "end", func() bool { return content() == "" })
}

func TestReadAdvert(t *testing.T) {
	now := time.Unix(1000, 0)
	head := make([]byte, 16)
	head[0] = unix.AF_INET6
	binary.NativeEndian.PutUint32(head[4:], 7)
	servers := append(slices.Clone(head), 25, 3, 0, 0, 0, 0, 0, 60)
	servers = append(servers, netip.MustParseAddr("fd00::1").AsSlice()...)
	a, ok := readAdvert(servers, now)
	require.True(t, ok)
	require.Equal(t, advert{index: 7, DNS: ips("fd00::1"), Until: now.Add(time.Minute)}, a)
	a, ok = readAdvert(append(slices.Clone(head), "\x1f\x02\x00\x00\x00\x00\x00\x3c\x03lan\x00\x00\x00\x00"...), now)
	require.True(t, ok)
	require.Equal(t, []string{"lan"}, a.Search)
	for i := range servers {
		_, ok := readAdvert(servers[:i], now)
		require.False(t, ok)
	}
	servers[17] = 0
	_, ok = readAdvert(servers, now)
	require.False(t, ok)
}
