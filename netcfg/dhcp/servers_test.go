package dhcp

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/coble-os/coble/netcfg/nstest"
)

func TestMain(m *testing.M) { os.Exit(nstest.Main(m)) }

// leases remembers what a client was given.
type leases struct {
	sync.Mutex
	all []*Lease
}

func (l *leases) got(x *Lease) {
	l.Lock()
	defer l.Unlock()
	l.all = append(l.all, x)
}

func (l *leases) last() (n int, x *Lease) {
	l.Lock()
	defer l.Unlock()
	if n = len(l.all); n > 0 {
		x = l.all[n-1]
	}
	return n, x
}

// client runs a client on veth0 until the test ends.
func client(t *testing.T, c Client) (*leases, chan struct{}) {
	c.Index, c.MAC = nstest.Up(t, "veth0", true)
	got, carrier := &leases{}, make(chan struct{})
	c.Link, c.Host, c.Got, c.Log = "veth0", "gateway", got.got, t.Logf
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { c.Run(ctx, carrier); close(ended) }()
	t.Cleanup(func() { cancel(); <-ended })
	return got, carrier
}

// Debian's dnsmasq gives addresses of both families.
func TestDnsmasq(t *testing.T) {
	server := nstest.NewPeer(t)
	dnsmasq := nstest.Program(t, "dnsmasq", "dnsmasq-base")
	server.Veth(t, "veth0", "srv0", "10.0.2.1/24", "fd00:2::1/64")
	dir := t.TempDir()
	server.Start(t, dnsmasq, "--keep-in-foreground", "--user=root", "--conf-file=/dev/null", "--port=0", "--pid-file=", "--log-facility=-", "--log-dhcp",
		"--dhcp-leasefile="+dir+"/leases", "--interface=srv0", "--bind-interfaces", "--dhcp-authoritative", "--dhcp-range=10.0.2.50,10.0.2.60,255.255.255.0,2m",
		"--dhcp-option=option:router,10.0.2.1", "--dhcp-option=option:dns-server,10.0.2.9", "--dhcp-option=option:domain-search,eng.example,example",
		"--dhcp-option=option:classless-static-route,0.0.0.0/0,10.0.2.1,10.9.0.0/16,10.0.2.7", "--dhcp-option=option:mtu,1400",
		"--dhcp-range=fd00:2::50,fd00:2::60,64,2m", "--dhcp-option=option6:dns-server,[fd00:2::9]", "--dhcp-option=option6:domain-search,six.example")
	var held netip.Prefix
	t.Run("IPv4", func(t *testing.T) {
		got, carrier := client(t, Client{})
		nstest.Until(t, "lease", func() bool { n, _ := got.last(); return n == 1 })
		_, l := got.last()
		require.Regexp(t, `^10\.0\.2\.(5\d|60)/24$`, l.Address.String())
		require.Equal(t, "[{0.0.0.0/0 10.0.2.1} {10.9.0.0/16 10.0.2.7}] [10.0.2.9] [eng.example example] 1400", fmt.Sprint(l.Routes, l.DNS, l.Search, l.MTU))
		require.InDelta(t, 120, time.Until(l.Until).Seconds(), 5)
		carrier <- struct{}{}
		nstest.Until(t, "confirmation", func() bool { n, _ := got.last(); return n == 2 })
		_, again := got.last()
		require.True(t, again.Same(l))
		held = l.Address
	})
	t.Run("an earlier client's address", func(t *testing.T) {
		got, _ := client(t, Client{Held: &Lease{Address: held}})
		nstest.Until(t, "lease", func() bool { n, _ := got.last(); return n >= 1 })
		_, l := got.last()
		require.Equal(t, held, l.Address)
	})
	t.Run("an address of elsewhere", func(t *testing.T) {
		got, _ := client(t, Client{Held: &Lease{Address: prefix("192.168.7.7/24")}})
		nstest.Until(t, "lease", func() bool { n, _ := got.last(); return n >= 2 })
		require.Nil(t, got.all[0], "the server says no")
		_, l := got.last()
		require.Regexp(t, `^10\.0\.2\.`, l.Address.String())
	})
	t.Run("IPv6", func(t *testing.T) {
		got, carrier := client(t, Client{V6: true})
		nstest.Until(t, "lease", func() bool { n, _ := got.last(); return n == 1 })
		_, l := got.last()
		require.Regexp(t, `^fd00:2::(5\w|60)/128$`, l.Address.String())
		require.Equal(t, "[fd00:2::9] [six.example]", fmt.Sprint(l.DNS, l.Search))
		carrier <- struct{}{}
		nstest.Until(t, "confirmation", func() bool { n, _ := got.last(); return n == 2 })
	})
}

// A neighbour has the address that dnsmasq gives: it is never used, dnsmasq is told, and another one comes. Then a neighbour
// takes that one.
func TestNeighbourHasIt(t *testing.T) {
	server, neighbour := nstest.NewPeer(t), nstest.NewPeer(t)
	dnsmasq := nstest.Program(t, "dnsmasq", "dnsmasq-base")
	server.Veth(t, "veth0", "srv0")
	there, err := os.Open(neighbour.Path)
	require.NoError(t, err)
	defer there.Close()
	server.Do(func() {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "br0"
		require.NoError(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}))
		br, err := netlink.LinkByName("br0")
		require.NoError(t, err)
		attrs.Name = "n0"
		require.NoError(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(int(there.Fd()))}))
		for _, name := range []string{"srv0", "n0"} {
			l, err := netlink.LinkByName(name)
			require.NoError(t, err)
			require.NoError(t, netlink.LinkSetMaster(l, br))
			nstest.Up(t, name, true)
		}
		nstest.Up(t, "br0", true)
		a, _ := netlink.ParseAddr("10.0.2.1/24")
		require.NoError(t, netlink.AddrAdd(br, a))
	})
	serve := func(t *testing.T) {
		server.Start(t, dnsmasq, "--keep-in-foreground", "--user=root", "--conf-file=/dev/null", "--port=0", "--pid-file=", "--log-facility=-", "--log-dhcp", "--no-ping",
			"--dhcp-leasefile="+t.TempDir()+"/leases", "--interface=br0", "--bind-interfaces", "--dhcp-authoritative", "--dhcp-range=10.0.2.50,10.0.2.60,255.255.255.0,2m")
	}
	has := func(p netip.Prefix) {
		neighbour.Do(func() {
			nstest.Up(t, "eth0", true)
			l, err := netlink.LinkByName("eth0")
			require.NoError(t, err)
			a, _ := netlink.ParseAddr(p.String())
			require.NoError(t, netlink.AddrAdd(l, a))
		})
	}
	var first netip.Prefix
	t.Run("nobody has it", func(t *testing.T) {
		serve(t)
		got, _ := client(t, Client{})
		nstest.Until(t, "lease", func() bool { n, _ := got.last(); return n == 1 })
		_, l := got.last()
		first = l.Address
	})
	has(first)
	serve(t)
	got, _ := client(t, Client{})
	nstest.Until(t, "lease", func() bool { n, _ := got.last(); return n >= 1 })
	n, l := got.last()
	require.Equal(t, 1, n, "the neighbour's address never was one")
	require.NotEqual(t, first, l.Address)

	has(l.Address)
	neighbour.Do(func() { // as what it asks would
		eth0, err := net.InterfaceByName("eth0")
		require.NoError(t, err)
		r, err := listenARP("eth0", eth0.Index, eth0.HardwareAddr)
		require.NoError(t, err)
		defer r.socket.Close()
		require.NoError(t, r.send(askAnnounce, l.Address.Addr()))
	})
	nstest.Until(t, "end of the lease", func() bool { n, x := got.last(); return n == 2 && x == nil })
	nstest.Until(t, "another lease", func() bool { n, _ := got.last(); return n == 3 })
	_, again := got.last()
	require.NotContains(t, []netip.Prefix{first, l.Address}, again.Address)
}

// Kea gives leases of seconds: they are renewed with it while it lives, and over when it doesn't.
func TestKea(t *testing.T) {
	server := nstest.NewPeer(t)
	kea := nstest.Program(t, "kea-dhcp6", "kea-dhcp6-server")
	server.Veth(t, "veth0", "srv0", "fd00:3::1/64")
	nstest.Up(t, "veth0", true)
	nstest.Until(t, "link-local address of the server, which it looks for once", func() bool {
		var all []netlink.Addr
		server.Do(func() {
			l, _ := netlink.LinkByName("srv0")
			all, _ = netlink.AddrList(l, netlink.FAMILY_V6)
		})
		return len(all) == 2
	})
	dir := t.TempDir()
	conf := filepath.Join(dir, "kea.conf")
	require.NoError(t, os.WriteFile(conf, []byte(`{"Dhcp6": {"interfaces-config": {"interfaces": ["srv0"]},
		"lease-database": {"type": "memfile", "persist": false}, "server-id": {"type": "LL", "persist": false},
		"renew-timer": 2, "rebind-timer": 4, "preferred-lifetime": 5, "valid-lifetime": 6,
		"subnet6": [{"id": 1, "interface": "srv0", "subnet": "fd00:3::/64", "pools": [{"pool": "fd00:3::50 - fd00:3::60"}],
			"pd-pools": [{"prefix": "fd00:30::", "prefix-len": 48, "delegated-len": 60}]}]}}`), 0o600))
	t.Setenv("KEA_PIDFILE_DIR", dir)
	t.Setenv("KEA_LOCKFILE_DIR", "none")
	cmd := server.Start(t, kea, "-c", conf)
	got, _ := client(t, Client{V6: true, Delegate: true})
	nstest.Until(t, "lease, renewed twice", func() bool { n, _ := got.last(); return n >= 3 })
	_, l := got.last()
	require.NotNil(t, l)
	require.True(t, got.all[0].Same(l))
	require.Regexp(t, `^fd00:30:.*/60$`, l.Prefix.String())
	require.NoError(t, cmd.Process.Kill())
	nstest.Until(t, "end of the lease", func() bool { _, l := got.last(); return l == nil })
	require.WithinDuration(t, l.Until, time.Now(), 2*time.Second)
}

// Who claims another address, asks for ours or is this machine itself is no rival.
func TestStrangersARP(t *testing.T) {
	peer := nstest.NewPeer(t)
	peer.Veth(t, "veth0", "srv0")
	index, mac := nstest.Up(t, "veth0", true)
	ours, err := listenARP("veth0", index, mac)
	require.NoError(t, err)
	defer ours.socket.Close()
	addr := netip.MustParseAddr("10.0.2.50")
	require.NoError(t, ours.send(askProbe, addr))
	heard, stop := make(chan net.HardwareAddr), make(chan struct{})
	defer close(stop)
	go receive(arpSize, ours.recv, heard, make(chan error, 1), stop)
	say := func() (theirs net.HardwareAddr) {
		peer.Do(func() {
			i, err := net.InterfaceByName("srv0")
			require.NoError(t, err)
			theirs = i.HardwareAddr
			r, err := listenARP("srv0", i.Index, theirs)
			require.NoError(t, err)
			defer r.socket.Close()
			require.NoError(t, r.send(askAnnounce, addr.Next()))
			require.NoError(t, r.send(askProbe, addr))
			r.mac = mac // as the machine's own words come back
			require.NoError(t, r.send(askAnnounce, addr))
			r.mac = theirs
			require.NoError(t, r.send(askAnnounce, addr))
		})
		return theirs
	}
	once := false
	nstest.Until(t, "claim", func() bool { // a link that has just come up loses some
		theirs := say()
		select {
		case who := <-heard:
			require.Equal(t, theirs, who)
			once = true
		case <-time.After(100 * time.Millisecond):
		}
		return once
	})
	for range 3 {
		require.Equal(t, say(), <-heard)
		select {
		case who := <-heard:
			t.Fatalf("%s is no rival, or was heard twice", who)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
