package configs

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const goodLinks = `
[uplink.wan0]
match_mac = "02:00:00:00:00:01"
dhcp      = true
dhcp6     = true
accept_ra = true
metric    = 20
prefix_hint = 56

[link.lan0]
kind      = "bridge"
ports     = ["eth1", "eth2"]
address   = "192.168.7.1/24"
addresses = ["192.168.8.1/24", "fd00:7::1/64"]
mdns      = true
prefix_from = "wan0"
routes    = [
  { to = "10.0.0.0/8", via = "192.168.7.9", metric = 5, table = 77 },
  { to = "default", via = "192.168.7.9", table = 77 },
]

[[link.lan0.rules]]
from  = "192.168.8.0/24"
table = 77

[[link.lan0.rules]]
to       = "192.168.9.0/24"
table    = 77
priority = 100

[link."lan0.5"]
kind   = "vlan"
parent = "lan0"
id     = 5
prefix_from = "wan0"
subnet_id = 7

[link.bond0]
kind  = "bond"
mode  = "802.3ad"
ports = ["eth3", "eth4"]

[link.wg0]
kind             = "wireguard"
private_key_file = "/data/wg0.key"
address          = "10.7.0.1/24"
peers            = [
  { public_key = "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0=", endpoint = "vpn.example:51820", allowed_ips = ["10.7.0.0/24"], keepalive = 25 },
]

[container.box]
image = "box"
needs = "wan0"
`

func TestLinks(t *testing.T) {
	c, problems := Parse("f", []byte(goodLinks))
	require.Empty(t, problems)
	all := c.Links()
	require.Len(t, all, 5)
	require.Len(t, all["lan0"].Rules, 2)
	require.Len(t, all["lan0"].Routes, 2)
	require.Equal(t, "wan0", c.Container["box"].Needs)
}

// Each mistake is told with its line, and what is right of a link is kept: it may be the only way to the machine.
func TestLinkMistakes(t *testing.T) {
	for _, r := range []struct{ name, from, to, want, lost string }{
		{"unknown key", "metric    = 20", "metrik = 20", `f:7:1: unknown key uplink.wan0.metrik; did you mean "metric"?`, ""},
		{"unknown key of a route", "metric = 5", "metrik = 5", `f:18:45: unknown key link.lan0.metrik; did you mean "metric"?`, ""},
		{"bad MAC", `"02:00:00:00:00:01"`, `"02:00:00:00:00"`, `f:3:1: match_mac "02:00:00:00:00" is no address of a device`, "wan0"},
		{"group address", `"02:00:00:00:00:01"`, `"01:00:00:00:00:01"`, `f:3:1: match_mac`, "wan0"},
		{"unknown kind", `"bridge"`, `"bridg"`, `f:11:1: kind "bridg" is not known`, "lan0"},
		{"ports of a device", `kind      = "bridge"` + "\n", "\n", `f:12:1: link lan0 has ports: say kind`, "lan0"},
		{"port twice", `"eth3", `, `"eth1", `, `eth1 is a port of bond0 already`, "lan0"},
		{"bad address", `"192.168.8.1/24", "fd`, `"192.168.8.1", "fd`, `f:14:1: address "192.168.8.1" is none with a prefix length`, ""},
		{"route without via", `to = "default", via = "192.168.7.9"`, `to = "default"`, `f:19:5: to "default" is no prefix such as`, ""},
		{"route of two families", `via = "192.168.7.9", metric`, `via = "fd00::1", metric`, `f:18:24: via "fd00::1" is of another family`, ""},
		{"rule of nothing", `to       = "192.168.9.0/24"`, ``, `f:26:`, ""},
		{"bad rule", `"192.168.8.0/24"` + "\ntable", `"192.168.8.0"` + "\ntable", `f:23:1: from "192.168.8.0" is no prefix`, ""},
		{"bad id", "id     = 5", "id     = 4095", `vlan lan0.5 needs parent, a link, and id`, "lan0.5"},
		{"circle", `ports     = ["eth1", "eth2"]`, `ports     = ["eth1", "lan0.5"]`, `links stand on each other in a circle: lan0 on lan0.5 on lan0`, "lan0"},
		{"bad mode", `"802.3ad"`, `"lacp"`, `mode "lacp" is not known: use balance-rr`, "bond0"},
		{"relative key file", `"/data/wg0.key"`, `"wg0.key"`, `link wg0 needs private_key_file`, "wg0"},
		{"bad key", `TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0=`, `TrMvSoP4`, `f:48:5: public_key "TrMvSoP4" is none`, ""},
		{"bad endpoint", `"vpn.example:51820"`, `"vpn.example"`, `f:48:66: endpoint "vpn.example" is no host with a port`, ""},
		{"DHCP through a tunnel", `address          = "10.7.0.1/24"`, `dhcp = true`, `nobody answers DHCP through WireGuard`, "wg0"},
		{"prefix from nowhere", `prefix_from = "wan0"`, `prefix_from = "wan1"`, `prefix_from "wan1" is no other link of this file with dhcp6 = true`, ""},
		{"prefix without dhcp6", "dhcp6     = true\n", "\n", `prefix_from "wan0" is no other link of this file with dhcp6 = true`, ""},
		{"prefix from itself", "prefix_from = \"wan0\"\nsubnet_id", "prefix_from = \"lan0.5\"\ndhcp6=true\nsubnet_id", `prefix_from "lan0.5" is no other link`, ""},
		{"same subnet", "mdns      = true\n", "subnet_id = 7\n", `subnet 7 of wan0 is link.lan0's already`, ""},
		{"subnet of nothing", "prefix_from = \"wan0\"\nsubnet_id", "subnet_id", `subnet_id is of prefix_from's prefix`, ""},
		{"bad subnet", "subnet_id = 7", "subnet_id = -1", `subnet_id -1 is not a number from 0 to 65535`, ""},
		{"bad hint", "prefix_hint = 56", "prefix_hint = 65", `prefix_hint 65 is not a number of bits from 16 to 64`, ""},
		{"hint for nobody", `metric    = 20` + "\n" + `prefix_hint = 56`, "[uplink.wan9]\ndhcp6 = true\nprefix_hint = 56", `nobody has prefix_from = "wan9"`, ""},
		{"two sections", "[link.bond0]", "[link.wan0]", `link wan0 is an uplink too`, ""},
		{"long name", "[link.bond0]", "[link.bond-of-two-devices]", `link name "bond-of-two-devices": 1 to 15 characters`, "bond0"},
		{"needs what is not there", `needs = "wan0"`, `needs = "wan1"`, `container box needs "wan1", which is no link of this file`, ""},
		{"address of a port", `ports     = ["eth1", "eth2"]`, `ports     = ["eth1", "wan0"]`, `f:4:1: link wan0 is a port of lan0: give the address to that`, ""},
		{"an error of TOML", `metric = 5,`, `metric == 5,`, `f:18:`, ""},
	} {
		t.Run(r.name, func(t *testing.T) {
			text := strings.Replace(goodLinks, r.from, r.to, 1)
			require.NotEqual(t, goodLinks, text)
			c, problems := Parse("f", []byte(text))
			var all []string
			for _, p := range problems {
				all = append(all, p.Error())
			}
			require.Contains(t, strings.Join(all, "\n"), r.want)
			for _, name := range []string{"wan0", "lan0", "lan0.5", "wg0"} {
				_, has := c.Links()[name]
				require.Equal(t, name != r.lost, has, "%s: %v", name, all)
			}
			require.Equal(t, r.name != "needs what is not there", c.Container["box"].Image != "")
		})
	}
}

// Who comes after a container that waits for a link waits for it too; others don't.
func TestNeeds(t *testing.T) {
	c, problems := Parse("f", []byte(`
[uplink.wan0]
dhcp = true
[container.first]
image = "x"
[container.asks]
image = "x"
needs = "wan0"
after = ["first"]
[container.follows]
image = "x"
needs = "network"
after = ["asks"]
`))
	require.Empty(t, problems)
	require.Equal(t, map[string][]string{"asks": {"wan0"}, "follows": {"wan0", "network"}}, c.Needs())
}

// What the documentation shows is right.
func TestLinkExamples(t *testing.T) {
	text, err := os.ReadFile("../docs/links.md")
	require.NoError(t, err)
	all := regexp.MustCompile("(?s)```toml\n(.*?)```").FindAllSubmatch(text, -1)
	require.Len(t, all, 8)
	for _, m := range all {
		_, problems := Parse("links.md", m[1])
		require.Empty(t, problems, "%s", m[1])
	}
}

// A list of tables ends the section before it: a mistake in it is not that one's.
func TestTablesBehindContainers(t *testing.T) {
	c, problems := Parse("f", []byte("[container.box]\nimage = \"x\"\n[[link.eth0.routes]]\nto = 7\n"))
	require.NotEmpty(t, problems)
	for _, p := range problems {
		require.Empty(t, p.Section)
	}
	require.Equal(t, "x", c.Container["box"].Image)
}
