package links

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/coble-os/coble/netcfg/dhcp"
	"github.com/coble-os/coble/netcfg/nstest"
)

// What is wrong with a link and what to do, as a function of what is known.
func TestJudge(t *testing.T) {
	up := func() *Dev { v := device(2); v.Carrier = true; return v }
	waiting := map[clientKey]*client{{"l", false}: {trouble: "10.0.2.5 is in use by x"}, {"l", true}: {}}
	bound := map[clientKey]*client{{"l", false}: {lease: &dhcp.Lease{}}}
	peers := &Tunnel{Peers: []Peer{{Endpoint: "vpn.example:1"}, {Endpoint: "192.0.2.1:1"}}}
	down, dark := device(2), device(2)
	down.Up = false
	for _, r := range []struct {
		name           string
		link           Link
		dev            *Dev
		keeper         *Keeper
		state, problem string
	}{
		{"all well", Link{}, up(), &Keeper{}, Online, ""},
		{"no device", Link{}, nil, &Keeper{}, Missing, "see that it is plugged in, and its driver is in [boot] modules"},
		{"no device of that address", Link{MatchMAC: "02:00:00:00:00:01"}, nil, &Keeper{}, Missing, "no device has the address 02:00:00:00:00:01"},
		{"no parent", Link{Kind: VLAN, Parent: "x"}, nil, &Keeper{}, Missing, "its parent x is not there"},
		{"can't be made", Link{Kind: Bond}, nil, &Keeper{failed: map[string]string{"l": "create bond: this kernel makes none"}}, Missing, "create bond: this kernel makes none"},
		{"can't be set up", Link{}, down, &Keeper{failed: map[string]string{"l": "set up: no"}}, Down, "set up: no"},
		{"no carrier", Link{}, dark, &Keeper{}, NoCarrier, "see to the cable"},
		{"no carrier of a bridge", Link{Kind: Bridge, Ports: []string{"a", "b"}}, dark, &Keeper{}, NoCarrier, "see to the cables of a, b"},
		{"a bridge of nothing", Link{Kind: Bridge}, dark, &Keeper{}, NoCarrier, "name some in ports"},
		{"no address yet", Link{Addresses: pre("10.0.0.1/8")}, up(), &Keeper{}, Waiting, ""},
		{"no lease", Link{DHCP4: true, DHCP6: true}, up(), &Keeper{clients: waiting}, Waiting, "no IPv4 lease: 10.0.2.5 is in use by x; no IPv6 lease: no server has answered yet"},
		{"a lease", Link{DHCP4: true}, up(), &Keeper{clients: bound}, Online, ""},
		{"no MTU", Link{}, up(), &Keeper{failed: map[string]string{"l": "set MTU 9: invalid argument"}}, Online, "set MTU 9: invalid argument"},
		{"no key", Link{Tunnel: peers}, up(), &Keeper{failed: map[string]string{"l": "read key: none"}}, Waiting, "read key: none"},
		{"a peer without address", Link{Tunnel: peers}, up(), &Keeper{want: Wanted{tunnels: map[string]tunnel{"l": {}}}, unknown: map[string]string{"vpn.example:1": "no such host"}}, Online, "the peer vpn.example:1 is not found: no such host: see that dns"},
		{"no prefix", Link{PrefixFrom: "wan"}, up(), &Keeper{}, Online, "no prefix is delegated to wan: ask its provider"},
	} {
		t.Run(r.name, func(t *testing.T) {
			r.link.Name = "l"
			r.keeper.want.Links = []Link{r.link}
			state, problem := r.keeper.judge(&r.link, r.dev)
			require.Equal(t, r.state, state)
			if r.problem == "" {
				require.Empty(t, problem)
			}
			require.Contains(t, problem, r.problem)
		})
	}
	one := 1
	w := Wanted{Links: []Link{{Name: "l", PrefixFrom: "wan", Subnet: &one}}, Leases: map[string][]*dhcp.Lease{"wan": {{Prefix: pre("2001:db8::/64")[0]}}}}
	require.Equal(t, "2001:db8::/64, which is delegated to wan, has no subnet 1: ask for a shorter one with prefix_hint", w.noShare(&w.Links[0]))
}

// One line a link, as cables and servers come and go.
func TestStatus(t *testing.T) {
	p := nstest.NewPeer(t)
	p.Veth(t, "lan0", "eth0")
	p.Do(func() { nstest.Up(t, "eth0", false) })
	k := keep(t, t.TempDir(), Link{Name: "wan0", DHCP4: true}, Link{Name: "lan0", Addresses: pre("10.5.0.1/24", "fd00:5::1/64")})
	line := func(name string) string {
		for _, s := range k.Status() {
			if s.Name == name {
				return fmt.Sprint(s.State, " ", strings.Join(s.Addresses, " "), ": ", s.Problem)
			}
		}
		return ""
	}
	nstest.Until(t, "link without carrier", func() bool { return strings.HasPrefix(line("lan0"), NoCarrier) })
	require.Contains(t, line("wan0"), "missing : there is no such device")
	p.Do(func() { nstest.Up(t, "eth0", true) })
	nstest.Until(t, "link that is up", func() bool { return line("lan0") == "up 10.5.0.1/24 fd00:5::1/64: " })
	since := k.Status()[0].Since
	require.WithinDuration(t, time.Now(), since, time.Minute)

	q := nstest.NewPeer(t)
	q.Veth(t, "wan0", "srv0", "10.0.2.1/24")
	nstest.Until(t, "link without a lease", func() bool {
		return strings.HasPrefix(line("wan0"), "waiting") && strings.Contains(line("wan0"), "no IPv4 lease: ")
	})
	dnsmasq(t, q)
	nstest.Until(t, "lease", func() bool { return strings.HasPrefix(line("wan0"), "up 10.0.2.") })
	require.Equal(t, since, k.Status()[0].Since, "of the state, and not of the last look")
	k.Set(Config{[]Link{{Name: "lan0"}}})
	nstest.Until(t, "one link", func() bool { return len(k.Status()) == 1 })
}

// hosts has names resolved as a file says, for all threads of this process.
func hosts(t *testing.T) (write func(text string)) {
	if _, err := os.Stat("/etc/hosts"); err != nil {
		require.NoError(t, os.WriteFile("/etc/hosts", nil, 0o644))
	}
	path := t.TempDir() + "/hosts"
	require.NoError(t, os.WriteFile(path, nil, 0o644))
	mount(t, path, "/etc/hosts")
	return func(text string) { require.NoError(t, os.WriteFile(path, []byte(text), 0o644)) }
}

// A neighbour has the address that the server gives: it never comes to the link, and the status says who has it.
func TestTaken(t *testing.T) {
	p := nstest.NewPeer(t)
	p.Veth(t, "wan0", "srv0", "10.0.2.1/24")
	p.Do(func() { // the kernel answers on each link for the addresses of all
		nstest.Up(t, "lo", true)
		l, err := netlink.LinkByName("lo")
		require.NoError(t, err)
		require.NoError(t, netlink.AddrAdd(l, &netlink.Addr{IPNet: ipNet(pre("10.0.2.99/32")[0])}))
	})
	p.Start(t, nstest.Program(t, "dnsmasq", "dnsmasq-base"), "--keep-in-foreground", "--user=root", "--conf-file=/dev/null", "--port=0", "--pid-file=", "--log-facility=-", "--no-ping",
		"--dhcp-leasefile="+t.TempDir()+"/leases", "--interface=srv0", "--bind-dynamic", "--dhcp-authoritative", "--dhcp-range=10.0.2.99,10.0.2.99,255.255.255.0,2m")
	k := keep(t, t.TempDir(), Link{Name: "wan0", DHCP4: true})
	nstest.Until(t, "word of who has it", func() bool {
		all := k.Status()
		return len(all) == 1 && all[0].State == Waiting && strings.Contains(all[0].Problem, "10.0.2.99 is in use by ")
	})
	require.NotContains(t, k.took(), "add address")
}

// What kept a client from a lease stays known until there is one, also when it cost the last one.
func TestTrouble(t *testing.T) {
	key, c := clientKey{"l", false}, &client{lease: &dhcp.Lease{}}
	k := &Keeper{o: Options{Log: t.Logf}, clients: map[clientKey]*client{key: c}}
	k.take(leased{key: key, from: c, trouble: "somebody has it"})
	require.NotNil(t, c.lease)
	k.take(leased{key: key, from: c})
	require.Nil(t, c.lease)
	require.Equal(t, "somebody has it", c.trouble)
	k.take(leased{key: key, from: c, lease: &dhcp.Lease{}})
	require.Empty(t, c.trouble)
}
