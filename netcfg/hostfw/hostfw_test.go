package hostfw

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/netcfg/nstest"
)

// load has the owner's own program write rules.
func load(t *testing.T, files ...string) {
	for _, f := range files {
		var cmd *exec.Cmd
		switch {
		case strings.HasSuffix(f, ".nft"):
			cmd = exec.Command("nft", "-f", f)
		case strings.Contains(f, "6"):
			cmd = exec.Command("ip6tables-nft-restore", f)
		default:
			cmd = exec.Command("iptables-nft-restore", f)
		}
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s: %s", f, out)
	}
}

func nobodys(string, []string) bool { return false }

func TestPasses(t *testing.T) {
	const tcp, udp = unix.IPPROTO_TCP, unix.IPPROTO_UDP
	packet := func(from, to string, proto byte, dnat bool) Packet {
		return Packet{From: from, To: to, Proto: proto, DNAT: dnat}
	}
	for _, row := range []struct {
		name   string
		files  []string
		guest  string // "" if there is nobody to be a guest of
		closed bool
		pass   []Packet
		drop   []Packet
		advice string
	}{
		{name: "nobody", pass: []Packet{packet("a", "b", tcp, false)}},
		{
			name: "fw4", files: []string{"fw4.nft"}, guest: "fw4 (zones lan, wan)", closed: true,
			pass:   []Packet{packet("br-lan", "wan", tcp, false), packet("wan", "br-lan", udp, false)}, // IPsec's key exchange
			drop:   []Packet{packet("br-lan", "tbr0", tcp, true), packet("wan", "tbr0", tcp, true), packet("tbr0", "wan", tcp, false), packet("wan", "br-lan", tcp, false)},
			advice: "fw4 drops what is forwarded to tbr0: published ports are reached from this host alone. To let them through: uci set firewall.tbr0=zone;",
		},
		{
			name: "fw4 with a zone", files: []string{"fw4.nft", "fw4-zone.nft"}, guest: "fw4 (zones coble, lan, wan)", closed: true,
			pass: []Packet{packet("br-lan", "tbr0", tcp, true), packet("br-lan", "tbr0", udp, true), packet("tbr0", "wan", tcp, false)},
			drop: []Packet{packet("wan", "tbr0", tcp, true), packet("wan", "tbr0", udp, true), packet("tbr0", "br-lan", tcp, false)},
		},
		{
			name: "firewalld", files: []string{"firewalld.nft"}, guest: "firewalld (zones public, trusted)", closed: true,
			pass: []Packet{packet("wan", "tbr0", tcp, true), packet("br-lan", "tbr0", tcp, false), packet("tbr0", "wan", tcp, false)},
			drop: []Packet{packet("wan", "tbr0", tcp, false), packet("tbr0", "br-lan", tcp, false)},
		},
		{
			name: "ufw", files: []string{"ufw.rules", "ufw6.rules"}, guest: "ufw", closed: true,
			drop:   []Packet{packet("eth0", "tbr0", tcp, true), packet("tbr0", "eth0", tcp, false), {From: "eth0", To: "tbr0", Six: true, Proto: tcp, DNAT: true}},
			advice: "ufw route allow out on tbr0; ufw route allow in on tbr0",
		},
		{
			name: "by hand", files: []string{"plain.nft"}, guest: "table filter", closed: true,
			pass:   []Packet{packet("br-lan", "wan", tcp, false), packet("br-guest", "wan", tcp, false)},
			drop:   []Packet{packet("tbr0", "wan", tcp, false), packet("br-lan", "tbr0", tcp, true)},
			advice: "nft insert rule inet filter forward oifname tbr0 ct status dnat accept",
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			nstest.Own(t)
			for _, f := range row.files {
				load(t, "../testdata/firewalls/"+f)
			}
			r, err := Read(nobodys)
			require.NoError(t, err)
			for _, p := range row.pass {
				require.True(t, r.Passes(p), "%+v", p)
			}
			for _, p := range row.drop {
				require.False(t, r.Passes(p), "%+v", p)
			}
			require.Equal(t, row.closed, r.Closed(false))
			require.Equal(t, row.closed, r.Closed(true))
			guests := r.Guests()
			if row.guest == "" {
				require.Empty(t, guests)
			} else {
				require.Len(t, guests, 1)
				require.Equal(t, row.guest, guests[0].String())
			}
			advice := r.Advice("tbr0", []string{"wan", "br-lan", "eth0"}, tcp, false)
			require.Contains(t, advice, row.advice)
			require.Equal(t, row.advice == "", advice == "", advice)
		})
	}
}

// TestCures: what the advice says is a program's own language, and does what it says.
func TestCures(t *testing.T) {
	nstest.Own(t)
	load(t, "../testdata/firewalls/plain.nft")
	links := []string{"wan", "br-lan"}
	r, err := Read(nobodys)
	require.NoError(t, err)
	advice := r.Advice("tbr0", links, unix.IPPROTO_TCP, false)
	_, commands, _ := strings.Cut(advice, "To let them through: ")
	out, err := exec.Command("sh", "-ec", commands).CombinedOutput()
	require.NoError(t, err, string(out))
	r, err = Read(nobodys)
	require.NoError(t, err)
	require.Empty(t, r.Advice("tbr0", links, unix.IPPROTO_TCP, false))
	require.True(t, r.Passes(Packet{From: "tbr0", To: "wan", Proto: unix.IPPROTO_TCP}))
}

func TestZones(t *testing.T) {
	nstest.Own(t)
	load(t, "../testdata/firewalls/fw4.nft")
	r, err := Read(nobodys)
	require.NoError(t, err)
	require.Equal(t, map[string][]string{"lan": {"br-lan"}, "wan": {"wan"}}, r.Zones())
	r, err = Read(func(table string, chains []string) bool { return table == "fw4" && len(chains) > 3 })
	require.NoError(t, err)
	require.Empty(t, r.Zones())
	require.Empty(t, r.Guests())
}

// TestEval has what rules can say beside that, each as the only rule of a chain that drops.
func TestEval(t *testing.T) {
	for rule, passes := range map[string]bool{
		`iifname "eth*" accept`: true, `iifname "wl*" accept`: false, `iifname != "eth0" accept`: false, `iifname != "eth1" accept`: true,
		`iifname { "eth0", "eth1" } accept`: true, `iifname != { "eth0", "eth1" } accept`: false, `iifname { "eth1" } accept`: false,
		`iifname "eth0" oifname "tbr0" accept`: true, `iifname . oifname { "eth0" . "tbr0" } accept`: true,
		`meta l4proto { tcp, udp } accept`: true, `meta l4proto udp accept`: false, `ip6 nexthdr tcp accept`: false, `meta nfproto ipv4 accept`: true,
		`ip daddr 10.0.0.0/8 accept`: true, `tcp dport 80 accept`: true, `limit rate 1/second accept`: true,
		`ct state new accept`: true, `ct state established,related accept`: false, `ct status dnat accept`: true, `ct state invalid accept`: false,
		`ct state vmap { new : accept, invalid : drop }`: true, `ct state vmap { new : drop, invalid : accept }`: false,
		`iifname vmap { "eth0" : jump other, "eth1" : drop }`: true, `tcp dport vmap { 22 : drop, 80-90 : accept }`: true, `tcp dport vmap { 22 : drop, 23 : drop }`: false,
		`counter log prefix "x" accept`: true, `jump other`: true, `goto other`: true, `goto empty`: false, `return`: false, `reject`: false, `iif "lo" accept`: false,
		`meta mark set 5 accept`: true, `meta mark & 0xff == 5 accept`: true, `oifname "tbr0" drop; accept`: false, `tcp dport 80 drop; accept`: true,
	} {
		t.Run(rule, func(t *testing.T) {
			nstest.Own(t)
			f := t.TempDir() + "/rules.nft"
			text := "table inet t {\nchain empty { }\nchain other { accept; }\nchain f { type filter hook forward priority 0; policy drop;\n" + rule + "\n}\n}\n"
			require.NoError(t, os.WriteFile(f, []byte(text), 0o644))
			load(t, f)
			r, err := Read(nobodys)
			require.NoError(t, err)
			require.Equal(t, passes, r.Passes(Packet{From: "eth0", To: "tbr0", Proto: unix.IPPROTO_TCP, DNAT: true}))
		})
	}
}
