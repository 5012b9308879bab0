package netcfg

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/coble-os/coble/netcfg/nstest"
)

// needsNft skips where the owner's own programs are not: in the small virtual machines.
func needsNft(t *testing.T) {
	for _, tool := range []string{"nft", "iptables-nft-restore"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip("needs nft and iptables: apt-get install nftables iptables")
		}
	}
}

// foreign is what `nft list ruleset` has of the tables of others, with handles and without counters.
func foreign(t *testing.T) string {
	out, err := exec.Command("nft", "-s", "-a", "list", "ruleset").Output()
	require.NoError(t, err)
	var text strings.Builder
	for table := range strings.SplitSeq(string(out), "\ntable ") {
		if !strings.Contains(strings.SplitN(table, "{", 2)[0], "cobletest") {
			text.WriteString("table " + strings.TrimPrefix(table, "table ") + "\n")
		}
	}
	return strings.TrimPrefix(strings.TrimSpace(text.String()), "table")
}

func loadRules(t *testing.T, f string) {
	cmd := exec.Command("nft", "-f", f)
	if strings.HasSuffix(f, ".rules") {
		cmd = exec.Command("iptables-nft-restore", f)
		if strings.Contains(f, "ufw6") {
			cmd = exec.Command("ip6tables-nft-restore", f)
		}
	}
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s: %s", f, out)
}

func forwarding(t *testing.T) string {
	var all string
	for _, key := range forwardKeys {
		b, err := os.ReadFile("/proc/sys/" + key)
		require.NoError(t, err)
		all += strings.TrimSpace(string(b))
	}
	return all
}

// TestGuests runs the table of from → to → allowed under the rules of each firewall, IPv4 and IPv6: what they drop stays
// dropped and what they forward is forwarded, whether the host was a router before or not, and their tables stay as they are.
func TestGuests(t *testing.T) {
	needsNft(t)
	for _, row := range []struct {
		name                  string
		rules                 []string
		lan, wan              bool // to the published port
		out, across, backward bool // a container to wan; lan to wan; wan to lan
		stranger              bool // with forwarding off before: lan to wan
	}{
		{name: "nobody", lan: true, wan: true, out: true, across: true, backward: true, stranger: false},
		{name: "fw4", rules: []string{"fw4.nft"}, across: true, stranger: true},
		{name: "fw4-zone", rules: []string{"fw4.nft", "fw4-zone.nft"}, lan: true, out: true, across: true, stranger: true},
		{name: "firewalld", rules: []string{"firewalld.nft"}, lan: true, wan: true, out: true, across: true, stranger: true},
		{name: "ufw", rules: []string{"ufw.rules", "ufw6.rules"}},
		{name: "plain", rules: []string{"plain.nft"}, across: true, stranger: true},
	} {
		for _, before := range []string{"1", "0"} {
			if before == "0" && (row.name == "fw4-zone" || row.name == "firewalld" || row.name == "plain") {
				continue // as with fw4
			}
			t.Run(row.name+"-forwarding-"+before, func(t *testing.T) {
				t.Parallel()
				nstest.Own(t)
				noBridgeNetfilter(t)
				for _, key := range forwardKeys {
					require.NoError(t, sysctl(key, before))
				}
				for _, f := range row.rules {
					loadRules(t, "testdata/firewalls/"+f)
				}
				theirs := foreign(t)
				lan, wan := neighbour(t, "br-lan", "192.0.2.1/24", "2001:db8:1::1/64"), neighbour(t, "wan", "198.51.100.1/24", "2001:db8:2::1/64")
				h, n := testHost()
				n.V6, n.Gateway6 = netip.MustParsePrefix("fd00:99::/64"), netip.MustParseAddr("fd00:99::1")
				inside := container(t, h, n, "tv1", "10.99.0.2/24")
				container(t, h, n, "tv2", "fd00:99::2/64")
				c := Config{Networks: []Network{n}, Links: map[string]Link{"tv1": {}, "tv2": {}}, Ports: []Port{port("", 8080, "10.99.0.2:80"), port("", 8080, "[fd00:99::2]:80")}}
				require.NoError(t, h.Set(c))
				require.Equal(t, theirs, foreign(t), "while it runs")

				check := func(from string, pid int, to string, allowed bool) {
					err := dialFrom(t, pid, to)
					if allowed && err != nil {
						err = reaches(t, pid, to)
					}
					require.Equal(t, allowed, err == nil, "from %s to %s: %v", from, to, err)
				}
				check("lan", lan, "192.0.2.1:8080", row.lan)
				check("lan", lan, "[2001:db8:1::1]:8080", row.lan)
				check("wan", wan, "198.51.100.1:8080", row.wan)
				check("wan", wan, "[2001:db8:2::1]:8080", row.wan)
				_, err := dial("127.0.0.1:8080")
				require.NoError(t, err, "the host reaches its own")
				atWan, atLan := ear(t, wan, "198.51.100.2:7777"), ear(t, lan, "192.0.2.2:7777")
				across := row.across
				if before == "0" {
					across = row.stranger
				}
				require.Equal(t, row.out, hears(t, atWan, func() { say(t, inside, netip.Addr{}, "198.51.100.2:7777") }), "from a container to wan")
				require.Equal(t, across, hears(t, atWan, func() { say(t, lan, netip.Addr{}, "198.51.100.2:7777") }), "from lan to wan")
				require.Equal(t, row.backward && before == "1", hears(t, atLan, func() { say(t, wan, netip.Addr{}, "192.0.2.2:7777") }), "from wan to lan")

				from := []string{"br-lan", "wan"}
				rules, err := Firewalls()
				require.NoError(t, err)
				require.Equal(t, row.lan || row.wan, rules.Advice("tbr0", from, 6, false) == "", "what is said is what is so")

				generationBefore := generation(t)
				require.NoError(t, New("cobletest").Set(c))
				require.Equal(t, generationBefore, generation(t), "a new engine has nothing to send")
				require.NoError(t, h.Unplug("tv1"))
				require.NoError(t, h.Set(Config{Networks: []Network{n}}))
				require.Equal(t, theirs, foreign(t), "after the stop")
				require.NoError(t, CleanUp("cobletest", "tbr0"))
				require.Equal(t, theirs, foreign(t), "after the clean-up")
				want := "11"
				if before == "0" && len(row.rules) == 0 {
					want = "00"
				}
				require.Equal(t, want, forwarding(t), "nobody decides any more what a host forwards that forwarded nothing")
			})
		}
	}
}

// TestFirewallComesLater: the guard goes when a firewall has come that decides, and is back when that has gone.
func TestFirewallComesLater(t *testing.T) {
	needsNft(t)
	nstest.Own(t)
	noBridgeNetfilter(t)
	for _, key := range forwardKeys {
		require.NoError(t, sysctl(key, "0"))
	}
	lan, wan := neighbour(t, "br-lan", "192.0.2.1/24"), neighbour(t, "wan", "198.51.100.1/24")
	h, n := testHost()
	atWan := ear(t, wan, "198.51.100.2:7777")
	for i, guarded := range []bool{true, false, true} {
		if i == 1 {
			loadRules(t, "testdata/firewalls/fw4.nft")
		}
		if i == 2 {
			require.NoError(t, exec.Command("nft", "delete", "table", "inet", "fw4").Run())
		}
		require.NoError(t, h.Set(Config{Networks: []Network{n}}))
		require.Equal(t, !guarded, hears(t, atWan, func() { say(t, lan, netip.Addr{}, "198.51.100.2:7777") }), fmt.Sprint(i))
	}
}
