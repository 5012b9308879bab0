package links

import (
	"encoding/base64"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/netcfg/nstest"
)

// hasKind skips a test on kernels that lack what it needs.
func hasKind(t *testing.T, l *Link) {
	nstest.Root(t)
	nstest.Kind(t, string(l.Kind), create(l))
	n, err := netlink.LinkByName(l.Name)
	require.NoError(t, err)
	require.NoError(t, netlink.LinkDel(n))
}

// A bridge over a VLAN over a bond of two devices, told of upside down; one of the two dies, and the other carries on.
func TestVLANOverBond(t *testing.T) {
	hasKind(t, &Link{Name: "bond9", Kind: Bond, Mode: "active-backup", MIIMon: 100 * time.Millisecond})
	peer := nstest.NewPeer(t)
	peer.Veth(t, "e1", "s1")
	peer.Veth(t, "e2", "s2")
	// The other side is a switch with a host in VLAN 7.
	peer.Do(func() {
		for _, l := range []*Link{{Name: "switch", Kind: Bridge}, {Name: "switch.7", Kind: VLAN, Parent: "switch", ID: 7}} {
			require.NoError(t, create(l))
		}
		for _, c := range []Change{
			{Op: Enslave, Link: "s1", Value: "switch"},
			{Op: Enslave, Link: "s2", Value: "switch"},
			{Op: SetUp, Link: "switch"},
			{Op: SetUp, Link: "switch.7"},
			{Op: AddAddr, Link: "switch.7", Address: netip.MustParsePrefix("10.7.0.1/24")},
		} {
			require.NoError(t, apply(c, time.Now()))
		}
	})
	gone(t, "br0", "bond0.7", "bond0")
	wanted := []Link{
		{Name: "br0", Kind: Bridge, Ports: []string{"bond0.7"}, Addresses: pre("10.7.0.2/24"), STP: false},
		{Name: "bond0.7", Kind: VLAN, Parent: "bond0", ID: 7},
		{Name: "bond0", Kind: Bond, Mode: "active-backup", MIIMon: 50 * time.Millisecond, Ports: []string{"e1", "e2"}},
		{Name: "e1", MTU: 1450},
	}
	k := keep(t, t.TempDir(), wanted...)
	k.settled("br0")
	require.NoError(t, ping(peer, "10.7.0.2"))
	k.Set(Config{wanted})
	require.Empty(t, k.settled("br0"), "the same again")

	peer.Do(func() { nstest.Up(t, "s1", false) })
	time.Sleep(200 * time.Millisecond)
	require.NoError(t, ping(peer, "10.7.0.2"), "through the other device")

	wanted[1].ID, wanted[0].STP, wanted[2].Mode = 8, true, "balance-xor"
	k.Set(Config{wanted})
	k.settled("br0")
	s, err := read(time.Now(), wanted)
	require.NoError(t, err)
	require.Equal(t, "8 true balance-xor", fmt.Sprint(s.Devices["bond0.7"].ID, " ", s.Devices["br0"].STP, " ", s.Devices["bond0"].Mode))
	require.Equal(t, s.Devices["br0"].Index, s.Devices["bond0.7"].Master)
	require.Equal(t, s.Devices["bond0"].Index, s.Devices["e2"].Master)

	k.Set(Config{})
	nstest.Until(t, "end of all three", func() bool {
		s, err := read(time.Now(), nil)
		require.NoError(t, err)
		return s.Devices["br0"] == nil && s.Devices["bond0"] == nil && s.Devices["bond0.7"] == nil && s.Devices["e1"] != nil
	})
}

// Two ends of a tunnel; ours is coble's, the other wg(8)'s.
func TestWireGuard(t *testing.T) {
	hasKind(t, &Link{Name: "wg9", Kind: WireGuard})
	peer := nstest.NewPeer(t)
	wg := nstest.Program(t, "wg", "wireguard-tools")
	peer.Veth(t, "wan0", "srv0", "192.0.2.1/24", "2001:db8::1/64")
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	public := func(private string) string {
		return strings.TrimSpace(peer.Output(t, "/bin/sh", "-c", wg+" pubkey < "+private))
	}
	ours, theirs := file("ours", peer.Output(t, wg, "genkey")), file("theirs", peer.Output(t, wg, "genkey"))
	psk := file("psk", peer.Output(t, wg, "genpsk"))
	peer.Do(func() {
		require.NoError(t, create(&Link{Name: "wg0", Kind: WireGuard}))
		require.NoError(t, apply(Change{Op: AddAddr, Link: "wg0", Address: netip.MustParsePrefix("10.7.0.1/24")}, time.Now()))
		require.NoError(t, apply(Change{Op: SetUp, Link: "wg0"}, time.Now()))
	})
	peer.Output(t, wg, "set", "wg0", "private-key", theirs, "listen-port", "51820", "peer", public(ours), "preshared-key", psk, "allowed-ips", "10.7.0.2/32,fd07::/64")

	key, err := ParseKey(public(theirs))
	require.NoError(t, err)
	gone(t, "wg0")
	tunnel := Link{
		Name: "wg0", Kind: WireGuard, Addresses: pre("10.7.0.2/24"),
		Tunnel: &Tunnel{KeyFile: ours, ListenPort: 51821, Peers: []Peer{{PublicKey: key, PresharedFile: psk, Endpoint: "[2001:db8::1]:51820", AllowedIPs: pre("10.7.0.0/24", "fd07::/64"), Keepalive: 25 * time.Second}}},
	}
	wan := Link{Name: "wan0", Addresses: pre("192.0.2.2/24", "2001:db8::2/64")}
	k := keep(t, dir, tunnel, wan)
	k.settled("wan0")
	nstest.Until(t, "tunnel", func() bool { return addresses(t, "wg0") == "10.7.0.2/24" })
	require.NoError(t, ping(peer, "10.7.0.2"))
	require.Regexp(t, `10\.7\.0\.2/32,fd07::/64`, peer.Output(t, wg, "show", "wg0", "dump"))

	k.settled("wan0")
	k.Set(Config{[]Link{wan, tunnel}})
	require.Empty(t, k.settled("wan0"), "the same again")

	// Many peers, and another port: only the tunnel is told.
	for i := range 120 {
		tunnel.Tunnel.Peers = append(tunnel.Tunnel.Peers, Peer{PublicKey: Key{byte(i), 1}, AllowedIPs: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 8, byte(i), 0}), 24)}})
	}
	tunnel.Tunnel.Peers[0].Endpoint = "192.0.2.1:51820"
	k.Set(Config{[]Link{wan, tunnel}})
	require.Equal(t, "wg0: set keys and peers", strings.TrimSpace(k.settled("wan0")))
	require.NoError(t, ping(peer, "10.7.0.2"))
	s, err := read(time.Now(), nil)
	require.NoError(t, err)
	require.Contains(t, s.Devices["wg0"].Alias, mark+" ")

	// A key that is not there yet is waited for, and the rest does not wait.
	tunnel.Tunnel.KeyFile = dir + "/later"
	k.Set(Config{[]Link{wan, tunnel}})
	time.Sleep(100 * time.Millisecond)
	file("later", peer.Output(t, wg, "genkey"))
	k.took()
	nstest.Until(t, "new key", func() bool { return strings.Contains(k.took(), "set keys and peers") })
}

func mount(t *testing.T, source, target string) {
	require.NoError(t, unix.Mount(source, target, "", unix.MS_BIND, ""))
	t.Cleanup(func() { unix.Unmount(target, unix.MNT_DETACH) })
}

// A peer that is written as a name: nobody knows it at first; then it moves, and is found again once it is lost, without
// another peer's session ending; where it has moved by itself meanwhile, the kernel knows better. Another engine leaves all as
// it is.
func TestPeerMoves(t *testing.T) {
	hasKind(t, &Link{Name: "wg9", Kind: WireGuard})
	p := nstest.NewPeer(t)
	wg := nstest.Program(t, "wg", "wireguard-tools")
	p.Veth(t, "wan0", "srv0", "192.0.2.1/24", "192.0.2.3/24")
	dir := t.TempDir()
	key := func(name string) (path string, public Key) {
		path = filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(p.Output(t, wg, "genkey")), 0o600))
		public, err := ParseKey(p.Output(t, "/bin/sh", "-c", wg+" pubkey < "+path))
		require.NoError(t, err)
		return path, public
	}
	ours, us := key("ours")
	peers, links := []Peer{}, []string{"wg1", "wg2"}
	for i, name := range links {
		theirs, them := key(name)
		p.Do(func() {
			require.NoError(t, create(&Link{Name: name, Kind: WireGuard}))
			require.NoError(t, apply(Change{Op: AddAddr, Link: name, Address: netip.MustParsePrefix(fmt.Sprintf("10.7.%d.1/24", i))}, time.Now()))
			require.NoError(t, apply(Change{Op: SetUp, Link: name}, time.Now()))
		})
		p.Output(t, wg, "set", name, "private-key", theirs, "listen-port", fmt.Sprint(51820+i), "peer", base64.StdEncoding.EncodeToString(us[:]), "allowed-ips", "10.7.9.2/32")
		peers = append(peers, Peer{PublicKey: them, Endpoint: fmt.Sprintf("moves.test:%d", 51820+i), AllowedIPs: pre(fmt.Sprintf("10.7.%d.0/24", i)), Keepalive: time.Second})
	}
	peers[1].Endpoint = "192.0.2.1:51821"
	write := hosts(t)
	gone(t, "wg0")
	k, err := Start(Options{Host: "gateway", Memory: filepath.Join(dir, "links.json"), Log: t.Logf})
	require.NoError(t, err)
	closed := false
	t.Cleanup(func() {
		if !closed {
			k.Close()
		}
	})
	k.staleAfter, k.lookEvery = 3*time.Second, 200*time.Millisecond
	want := Config{[]Link{
		{Name: "wan0", Addresses: pre("192.0.2.2/24")},
		{Name: "wg0", Kind: WireGuard, Addresses: pre("10.7.9.2/16"), Tunnel: &Tunnel{KeyFile: ours, ListenPort: 51830, Peers: peers}},
	}}
	k.Set(want)
	seen := func(i int) seenPeer {
		all, err := readPeers("wg0")
		if err != nil {
			return seenPeer{}
		}
		return all[peers[i].PublicKey]
	}
	nstest.Until(t, "word of the name that nobody knows", func() bool {
		for _, s := range k.Status() {
			if s.Name == "wg0" && s.State == Online && strings.Contains(s.Problem, "the peer moves.test:51820 is not found: ") {
				return true
			}
		}
		return false
	})
	write("192.0.2.1 moves.test\n")
	nstest.Until(t, "handshakes", func() bool { return !seen(0).handshake.IsZero() && !seen(1).handshake.IsZero() })
	require.Equal(t, "192.0.2.1:51820", seen(0).endpoint.String())
	nstest.Until(t, "end of the problem", func() bool { return k.Status()[1].Problem == "" })
	other := seen(1).handshake

	// Lost, and nobody knows another address yet; then somebody does.
	p.Do(func() {
		l, err := netlink.LinkByName("srv0")
		require.NoError(t, err)
		require.NoError(t, netlink.AddrDel(l, &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix("192.0.2.1/24"))}))
		require.NoError(t, netlink.AddrReplace(l, &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix("192.0.2.3/24"))}))
	})
	write("192.0.2.3 moves.test\n")
	nstest.Until(t, "the peer's other address", func() bool { return seen(0).endpoint.String() == "192.0.2.3:51820" })
	require.Equal(t, other, seen(1).handshake, "the other peer's session goes on")

	// What is not lost is not moved.
	k.Close()
	closed = true
	write("192.0.2.9 moves.test\n")
	next, err := Start(Options{Host: "gateway", Memory: filepath.Join(dir, "links.json"), Log: t.Logf, Changed: func(c Change) { t.Errorf("changed: %s", c) }})
	require.NoError(t, err)
	defer next.Close()
	next.staleAfter = time.Hour
	next.Set(want)
	require.NoError(t, next.Await(t.Context(), "wg0"))
	time.Sleep(300 * time.Millisecond)
	require.Equal(t, "192.0.2.3:51820", seen(0).endpoint.String())
}
