package links

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/coble-os/coble/netcfg/dhcp"
	"github.com/coble-os/coble/netcfg/nstest"
)

// neighbour gives the peer's other end of a link an address more, or takes it away.
func neighbour(t *testing.T, p *nstest.Peer, there, addr string, has bool) {
	t.Helper()
	var err error
	p.Do(func() {
		var l netlink.Link
		if l, err = netlink.LinkByName(there); err != nil {
			return
		}
		a := &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix(addr))}
		if has {
			err = netlink.AddrAdd(l, a)
		} else {
			err = netlink.AddrDel(l, a)
		}
	})
	require.NoError(t, err)
}

// how is what the status says of the only link.
func (k *kept) how() string {
	all := k.Status()
	if len(all) != 1 {
		return ""
	}
	return fmt.Sprint(all[0].State, ": ", all[0].Problem)
}

// A neighbour has what Kea gives: the server hears of it and gives another; the address is not tried again and again. The prefix
// that came with it stays.
func TestTakenSix(t *testing.T) {
	for _, r := range []struct{ name, pd string }{{"address", ""}, {"address and prefix", `, "pd-pools": [{"prefix": "fd00:30::", "prefix-len": 48, "delegated-len": 60}]`}} {
		t.Run(r.name, func(t *testing.T) {
			p := nstest.NewPeer(t)
			p.Veth(t, "wan0", "srv0", "fd00:3::1/64", "fd00:3::50/64")
			nstest.Up(t, "wan0", true)
			nstest.Until(t, "link-local address of the server, which it looks for once", func() bool {
				var all []netlink.Addr
				p.Do(func() {
					l, _ := netlink.LinkByName("srv0")
					all, _ = netlink.AddrList(l, netlink.FAMILY_V6)
				})
				return len(all) == 3
			})
			dir := t.TempDir()
			require.NoError(t, os.WriteFile(dir+"/kea.conf", []byte(`{"Dhcp6": {"interfaces-config": {"interfaces": ["srv0"]},
				"lease-database": {"type": "memfile", "persist": false}, "server-id": {"type": "LL", "persist": false}, "valid-lifetime": 3600,
				"subnet6": [{"id": 1, "interface": "srv0", "subnet": "fd00:3::/64", "pools": [{"pool": "fd00:3::50 - fd00:3::51"}]`+r.pd+`}]}}`), 0o600))
			t.Setenv("KEA_PIDFILE_DIR", dir)
			t.Setenv("KEA_LOCKFILE_DIR", "none")
			p.Start(t, nstest.Program(t, "kea-dhcp6", "kea-dhcp6-server"), "-c", dir+"/kea.conf")
			all := []Link{{Name: "wan0", DHCP6: true}}
			if r.pd != "" {
				all = append(all, Link{Name: "lan0", Kind: Bridge, PrefixFrom: "wan0"})
				gone(t, "lan0")
			}
			k := keep(t, dir, all...)
			status := func() string {
				for _, s := range k.Status() {
					if s.Name == "wan0" {
						return fmt.Sprint(s.State, " ", strings.Join(s.Addresses, " "), ": ", s.Problem)
					}
				}
				return ""
			}
			nstest.Until(t, "word of who has it", func() bool { return strings.Contains(status(), "fd00:3::50 is in use by another host") })
			nstest.Until(t, "another address", func() bool { return strings.HasPrefix(status(), "up fd00:3::51/128: ") })
			require.True(t, strings.HasSuffix(status(), ": "), status())
			changes := k.took()
			require.Equal(t, 1, strings.Count(changes, "add address fd00:3::50/128"), changes)
			if r.pd != "" {
				require.Contains(t, changes, "lan0: add address fd00:30:")
				require.NotContains(t, changes, "lan0: remove")
			}
		})
	}
}

// dnsmasq knows of no other address: the one that a neighbour has is tried once each time that it gives it, and used in the end.
func TestTakenSixAgain(t *testing.T) {
	p := nstest.NewPeer(t)
	p.Veth(t, "wan0", "srv0", "fd00:3::1/64")
	proxy := &netlink.Neigh{Family: netlink.FAMILY_V6, Flags: netlink.NTF_PROXY, IP: netip.MustParseAddr("fd00:3::50").AsSlice()}
	p.Do(func() { // dnsmasq would give away nothing of its own machine's
		srv, err := netlink.LinkByName("srv0")
		require.NoError(t, err)
		for file, v := range map[string]string{"conf/all/forwarding": "1", "conf/srv0/proxy_ndp": "1", "neigh/srv0/proxy_delay": "0"} {
			require.NoError(t, os.WriteFile("/proc/sys/net/ipv6/"+file, []byte(v), 0))
		}
		proxy.LinkIndex = srv.Attrs().Index
		require.NoError(t, netlink.NeighAdd(proxy))
	})
	p.Start(t, nstest.Program(t, "dnsmasq", "dnsmasq-base"), "--keep-in-foreground", "--user=root", "--conf-file=/dev/null", "--port=0", "--pid-file=", "--log-facility=-", "--log-dhcp",
		"--dhcp-leasefile="+t.TempDir()+"/leases", "--interface=srv0", "--bind-dynamic", "--dhcp-authoritative", "--dhcp-range=fd00:3::50,fd00:3::50,64,1h")
	k := keep(t, t.TempDir(), Link{Name: "wan0", DHCP6: true})
	for range 2 {
		nstest.Until(t, "try", func() bool { return strings.Count(k.took(), "add address fd00:3::50/128") > 0 })
		nstest.Until(t, "word of who has it", func() bool {
			return strings.HasPrefix(k.how(), "waiting: no IPv6 lease: fd00:3::50 is in use by another host")
		})
		time.Sleep(time.Second) // a look that was under way may have set it once more
		k.took()
		for start := time.Now(); time.Since(start) < 7*time.Second; time.Sleep(100 * time.Millisecond) {
			require.Empty(t, k.took(), "nothing before its time")
		}
	}
	p.Do(func() { require.NoError(t, netlink.NeighDel(proxy)) })
	nstest.Until(t, "use of the address", func() bool { return k.how() == "up: " })
}

// A neighbour has a static IPv6 address: the status says so, it is tried after pauses, and used when the neighbour has gone.
func TestTakenStaticSix(t *testing.T) {
	p := nstest.NewPeer(t)
	p.Veth(t, "lan0", "srv0", "fd00:5::2/64")
	k := keep(t, t.TempDir(), Link{Name: "lan0", Addresses: pre("fd00:5::2/64", "fd00:5::3/64")})
	nstest.Until(t, "word of it", func() bool { return strings.HasPrefix(k.how(), "waiting: fd00:5::2 is in use by another host") })
	k.took()
	start := time.Now()
	nstest.Until(t, "another try", func() bool { return strings.Contains(k.took(), "add address fd00:5::2/64") })
	require.Greater(t, time.Since(start), 5*time.Second, "not at once")
	time.Sleep(5 * time.Second)
	require.Empty(t, k.took(), "no second try")
	require.Contains(t, k.how(), "fd00:5::2 is in use by another host")
	neighbour(t, p, "srv0", "fd00:5::2/64", false)
	nstest.Until(t, "use of the address", func() bool { return k.how() == "up: " })
}

// An address that ends is taken away by the kernel if somebody has it.
func TestReadLost(t *testing.T) {
	b := append([]byte{10, 64, 0x08, 0, 7, 0, 0, 0, 20, 0, 1, 0}, netip.MustParseAddr("fd00::1").AsSlice()...)
	l, ok := readLost(b)
	require.True(t, ok)
	require.Equal(t, lost{7, pre("fd00::1/64")[0]}, l)
	for i := range b {
		_, ok := readLost(b[:i])
		require.False(t, ok, i)
	}
	for _, flags := range []byte{0, 0x80, 0x88} {
		b[2] = flags
		_, ok = readLost(b)
		require.False(t, ok, "somebody removed it")
	}
}

// A neighbour has a static IPv4 address, from the beginning or later: the status says who, and no more when it has gone.
func TestTakenStaticFour(t *testing.T) {
	p := nstest.NewPeer(t)
	p.Veth(t, "lan0", "srv0", "10.5.0.2/24")
	k := keep(t, t.TempDir(), Link{Name: "lan0", Addresses: pre("10.5.0.2/24")})
	nstest.Until(t, "word of it", func() bool {
		return strings.HasPrefix(k.how(), "up: 10.5.0.2 is in use by ") && strings.HasSuffix(k.how(), " too: give one of the two another address")
	})
	neighbour(t, p, "srv0", "10.5.0.2/24", false)
	nstest.Until(t, "word that it has gone", func() bool { return k.how() == "up: " })
	neighbour(t, p, "srv0", "10.5.0.2/24", true)
	nstest.Until(t, "word of who has come", func() bool {
		p.Do(func() { // it asks by ARP who has another
			if c, err := net.Dial("udp", "10.5.0.9:9"); err == nil {
				c.Write([]byte{0})
				c.Close()
			}
		})
		return strings.HasPrefix(k.how(), "up: 10.5.0.2 is in use by ")
	})
}

// TestGoneIsHeardFirst: a look that comes between the kernel's removal of an address and its word of it waits for that; nothing is
// waited for where nothing is gone, or where the address has no end, which the kernel leaves.
func TestGoneIsHeardFirst(t *testing.T) {
	p, static := netip.MustParsePrefix("fd00:3::50/128"), netip.MustParsePrefix("fd00:3::60/64")
	until := time.Now().Add(time.Hour)
	with := &State{Devices: map[string]*Dev{"wan0": {Addresses: map[netip.Prefix]time.Time{p: until, static: {}}}}}
	k := &Keeper{gone: make(chan lost)}
	k.want.Links = []Link{{Name: "wan0", DHCP6: true, Addresses: []netip.Prefix{static}}}
	k.want.Leases = map[string][]*dhcp.Lease{"wan0": {{Address: p, Until: until}}}
	k.hearGone(t.Context(), with)
	k.hearGone(t.Context(), &State{Devices: map[string]*Dev{"wan0": {Addresses: map[netip.Prefix]time.Time{p: until}}}})
	require.Empty(t, k.removed)
	go func() { k.gone <- lost{1, p} }()
	k.hearGone(t.Context(), &State{Devices: map[string]*Dev{"wan0": {}}})
	require.Equal(t, []lost{{1, p}}, k.removed)
}
