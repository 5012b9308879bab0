package links

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/netcfg/nstest"
)

func TestMain(m *testing.M) { os.Exit(nstest.Main(m)) }

func pre(s ...string) (all []netip.Prefix) {
	for _, x := range s {
		all = append(all, netip.MustParsePrefix(x))
	}
	return all
}

func ips(s ...string) (all []netip.Addr) {
	for _, x := range s {
		all = append(all, netip.MustParseAddr(x))
	}
	return all
}

// kept is a Keeper of this namespace and what it did.
type kept struct {
	*Keeper
	t      testing.TB
	dir    string
	resolv string

	mu      sync.Mutex
	changes []string
}

func keep(t testing.TB, dir string, links ...Link) *kept {
	t.Helper()
	nstest.Root(t)
	k := &kept{t: t, dir: dir, resolv: filepath.Join(dir, "resolv.conf")}
	var err error
	k.Keeper, err = Start(Options{
		Host: "gateway", Resolv: k.resolv, Memory: filepath.Join(dir, "links.json"), Log: t.Logf,
		Changed: func(c Change) {
			k.mu.Lock()
			defer k.mu.Unlock()
			k.changes = append(k.changes, c.String())
		},
	})
	require.NoError(t, err)
	t.Cleanup(k.Close)
	k.Set(Config{links})
	return k
}

// took are the changes since the last call.
func (k *kept) took() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := strings.Join(k.changes, "\n")
	k.changes = nil
	return s
}

// settled waits until a link is as it is wanted and nothing has been changed for a while, and returns all changes.
func (k *kept) settled(link string) string {
	k.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	require.NoError(k.t, k.Await(ctx, link), link)
	all := k.took()
	for {
		time.Sleep(5 * settle)
		more := k.took()
		if more == "" {
			return all
		}
		all += "\n" + more
	}
}

// gone removes links that a test made, and everything of theirs.
func gone(t testing.TB, names ...string) {
	t.Cleanup(func() {
		for _, n := range names {
			if l, err := netlink.LinkByName(n); err == nil {
				netlink.LinkDel(l)
			}
		}
	})
}

func addresses(t testing.TB, link string) string {
	l, err := netlink.LinkByName(link)
	if err != nil {
		return "no link"
	}
	all, err := netlink.AddrList(l, netlink.FAMILY_ALL)
	require.NoError(t, err)
	var s []string
	for _, a := range all {
		if !a.IP.IsLinkLocalUnicast() {
			s = append(s, a.IPNet.String())
		}
	}
	return strings.Join(s, " ")
}

func routes(t testing.TB, table int) string {
	s, err := read(time.Now(), nil)
	require.NoError(t, err)
	var all []string
	for _, r := range s.Routes {
		if r.Table == table {
			all = append(all, r.String())
		}
	}
	return strings.Join(all, "\n")
}

// A static link: what is wanted is there; the same again sends nothing; a change changes what differs and nothing else;
// another engine knows what is coble's, and leaves what is not.
func TestStatic(t *testing.T) {
	peer := nstest.NewPeer(t)
	peer.Veth(t, "lan0", "srv0", "192.168.7.1/24")
	dir := t.TempDir()
	lan := Link{
		Name: "lan0", Addresses: pre("192.168.7.2/24", "fd00:7::2/64"), Gateways: ips("192.168.7.1", "fd00:7::1"), Metric: 50, MTU: 1400, MAC: "02:00:00:00:00:77",
		DNS: ips("192.168.7.1"), Search: []string{"lan"}, AddrGen: "none",
		Routes: []Route{{To: netip.MustParsePrefix("10.7.0.0/16"), Via: netip.MustParseAddr("192.168.7.9"), Table: 77}, {To: netip.MustParsePrefix("10.8.0.0/16"), Via: netip.MustParseAddr("192.168.99.1")}},
		Rules:  []Rule{{From: netip.MustParsePrefix("192.168.7.2/32"), Table: 77, Priority: 1000}},
	}
	k := keep(t, dir, lan)
	k.settled("lan0")
	require.Equal(t, "192.168.7.2/24 fd00:7::2/64", addresses(t, "lan0"))
	require.Equal(t, "0.0.0.0/0 via 192.168.7.1 dev lan0 metric 50 table 254\n10.8.0.0/16 via 192.168.99.1 dev lan0 metric 0 table 254\n::/0 via fd00:7::1 dev lan0 metric 50 table 254", routes(t, 254))
	require.Equal(t, "10.7.0.0/16 via 192.168.7.9 dev lan0 metric 0 table 77", routes(t, 77))
	s, err := read(time.Now(), []Link{lan})
	require.NoError(t, err)
	require.Equal(t, "[from 192.168.7.2/32 table 77 priority 1000]", fmt.Sprint(s.Rules))
	v := s.Devices["lan0"]
	require.Equal(t, "1400 02:00:00:00:00:77 1", fmt.Sprint(v.MTU, " ", v.MAC, " ", v.AddrGen))
	resolv, err := os.ReadFile(k.resolv)
	require.NoError(t, err)
	require.Equal(t, "search lan\nnameserver 192.168.7.1\n", string(resolv))

	before, err := os.Stat(k.resolv)
	require.NoError(t, err)
	k.Set(Config{[]Link{lan}})
	require.Empty(t, k.settled("lan0"), "the same again")
	after, err := os.Stat(k.resolv)
	require.NoError(t, err)
	require.True(t, os.SameFile(before, after), "resolv.conf is written when it changes only")

	// Somebody else's address stays; what somebody takes away comes back.
	l, err := netlink.LinkByName("lan0")
	require.NoError(t, err)
	require.NoError(t, netlink.AddrAdd(l, &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix("192.168.7.100/24"))}))
	require.NoError(t, netlink.AddrDel(l, &netlink.Addr{IPNet: ipNet(lan.Addresses[1])}))
	nstest.Until(t, "address again", func() bool { return strings.Contains(addresses(t, "lan0"), "fd00:7::2/64") })
	require.NoError(t, netlink.LinkSetDown(l))
	nstest.Until(t, "routes again", func() bool { return strings.Count(routes(t, 254), "\n") == 2 && routes(t, 77) != "" })
	k.settled("lan0")

	// Another engine with another file.
	k.Close()
	lan.Addresses, lan.Gateways, lan.Rules = pre("192.168.7.3/24"), ips("192.168.7.1"), nil
	k = keep(t, dir, lan)
	require.Equal(t, `lan0: add address 192.168.7.3/24
lan0: remove address 192.168.7.2/24
lan0: remove address fd00:7::2/64
lan0: remove route ::/0 via fd00:7::1 dev lan0 metric 50 table 254
remove rule from 192.168.7.2/32 table 77 priority 1000`, withoutReturns(k.settled("lan0")))
	require.ElementsMatch(t, []string{"192.168.7.100/24", "192.168.7.3/24"}, strings.Fields(addresses(t, "lan0")))

	k.Set(Config{})
	nstest.Until(t, "end of coble's addresses", func() bool { return addresses(t, "lan0") == "192.168.7.100/24" && routes(t, 254) == "" })
}

// withoutReturns leaves out routes that come back after the kernel took them along with an address.
func withoutReturns(changes string) string {
	var keep []string
	for line := range strings.SplitSeq(changes, "\n") {
		if !strings.Contains(line, ": add route") {
			keep = append(keep, line)
		}
	}
	return strings.Join(keep, "\n")
}

// A bridge and its ports; a port that appears late; a bridge that nobody wants any more.
func TestBridge(t *testing.T) {
	a, b := nstest.NewPeer(t), nstest.NewPeer(t)
	a.Veth(t, "p1", "eth0", "10.5.0.2/24")
	gone(t, "br7", "others")
	require.NoError(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "others"}}))
	dir := t.TempDir()
	bridge := Link{Name: "br7", Kind: Bridge, Ports: []string{"p1", "p2"}, Addresses: pre("10.5.0.1/24")}
	k := keep(t, dir, bridge)
	require.Equal(t, "br7: create bridge\nbr7: set ignore_routes_with_linkdown 1\nbr7: set up\nbr7: add address 10.5.0.1/24\np1: add to br7\np1: set up", k.settled("br7"))
	b.Veth(t, "p2", "eth0", "10.5.0.3/24")
	require.NoError(t, ping(b, "10.5.0.2"), "from one port to the other")
	require.Equal(t, "p2: add to br7\np2: set up", strings.TrimSpace(k.settled("br7")))

	k.Close() // another engine: the bridge is known for coble's
	k = keep(t, dir, Link{Name: "br7", Kind: Bridge, Ports: []string{"p1"}, Addresses: pre("10.5.0.1/24")})
	require.Equal(t, "p2: free", k.settled("br7"))
	k.Set(Config{})
	nstest.Until(t, "end of the bridge", func() bool { _, err := netlink.LinkByName("br7"); return err != nil })
	_, err := netlink.LinkByName("others")
	require.NoError(t, err, "others' links stay")
	_, err = netlink.LinkByName("p1")
	require.NoError(t, err)

	k.Set(Config{[]Link{{Name: "others", Kind: Bridge, Addresses: pre("10.6.0.1/24")}, {Name: "p1", Addresses: pre("10.7.0.1/24")}}})
	k.settled("p1")
	l, err := netlink.LinkByName("others")
	require.NoError(t, err)
	require.Empty(t, l.Attrs().Alias)
	require.Empty(t, addresses(t, "others"))
}

// ping asks a TCP port that nobody listens on: what is refused has been reached.
func ping(from *nstest.Peer, addr string) (err error) {
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		from.Do(func() { // the socket is made by this very goroutine
			_, err = (&net.Dialer{Timeout: time.Second}).Dial("tcp", net.JoinHostPort(addr, "9"))
		})
		if errors.Is(err, unix.ECONNREFUSED) {
			return nil
		}
	}
	return err
}

// A device is known by its address, wherever the kernel has put it, and gets its name.
func TestMatchMAC(t *testing.T) {
	p := nstest.NewPeer(t)
	p.Veth(t, "x1", "eth0", "10.5.0.2/24")
	gone(t, "lan3")
	_, mac := nstest.Up(t, "x1", true)
	k := keep(t, t.TempDir(), Link{Name: "lan3", MatchMAC: mac.String(), Addresses: pre("10.5.0.1/24")})
	require.Equal(t, "x1: rename lan3\nlan3: set ignore_routes_with_linkdown 1\nlan3: add address 10.5.0.1/24", k.settled("lan3"))
	require.NoError(t, ping(p, "10.5.0.1"))
}

// What can't be done is said once, and the rest is done.
func TestImpossible(t *testing.T) {
	p := nstest.NewPeer(t)
	p.Veth(t, "lan0", "eth0")
	var mu sync.Mutex
	var said []string
	k, err := Start(Options{Log: func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		said = append(said, fmt.Sprintf(format, args...))
	}})
	require.NoError(t, err)
	defer k.Close()
	k.Set(Config{[]Link{
		{Name: "lan0", Addresses: pre("10.5.0.1/24"), MTU: 1 << 20},
		{Name: "wg0", Kind: WireGuard, Tunnel: &Tunnel{KeyFile: "/nosuchkey"}},
		{Name: "v1", Kind: VLAN, Parent: "v1", ID: 1},
	}})
	nstest.Until(t, "address", func() bool { return strings.Contains(addresses(t, "lan0"), "10.5.0.1/24") })
	time.Sleep(1500 * time.Millisecond) // one more try
	mu.Lock()
	defer mu.Unlock()
	all := strings.Join(said, "\n")
	for _, want := range []string{"lan0: set MTU 1048576: ", "wg0: read key: open /nosuchkey", "links stand on each other in a circle: v1 on v1"} {
		require.Equal(t, 1, strings.Count(all, want), "%s in\n%s", want, all)
	}
}

// Two ways out: the better one is taken while it has carrier.
func TestFailover(t *testing.T) {
	a, b := nstest.NewPeer(t), nstest.NewPeer(t)
	a.Veth(t, "wan0", "srv0", "192.0.2.1/24")
	b.Veth(t, "wan1", "srv0", "198.51.100.1/24")
	k := keep(
		t, t.TempDir(), Link{Name: "wan0", Addresses: pre("192.0.2.2/24"), Gateways: ips("192.0.2.1"), Metric: 10},
		Link{Name: "wan1", Addresses: pre("198.51.100.2/24"), Gateways: ips("198.51.100.1"), Metric: 20},
	)
	k.settled("wan0")
	k.settled("wan1")
	via := func() string {
		all, err := netlink.RouteGet(net.IPv4(203, 0, 113, 1))
		if err != nil {
			return err.Error()
		}
		return all[0].Gw.String()
	}
	nstest.Until(t, "the better way", func() bool { return via() == "192.0.2.1" })
	a.Do(func() { nstest.Up(t, "srv0", false) })
	nstest.Until(t, "the other way", func() bool { return via() == "198.51.100.1" })
	a.Do(func() { nstest.Up(t, "srv0", true) })
	nstest.Until(t, "the better way again", func() bool { return via() == "192.0.2.1" })
}
