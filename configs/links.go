package configs

import (
	"encoding/base64"
	"fmt"
	"net"
	"net/netip"
	"path"
	"slices"
	"strings"
)

// Link is one of the appliance's own links: a device, or one that is made of others. [uplink.NAME] is a link that leads out
// to where others are, [link.NAME] any other; the keys are the same.
type Link struct {
	MatchMAC string `toml:"match_mac"` // the device with this address gets the section's name; empty: the one that has it
	Kind     string `toml:"kind"`      // bridge, bond, vlan or wireguard; empty: a device

	Ports  []string `toml:"ports"` // of a bridge or bond
	STP    bool     `toml:"stp"`
	Mode   string   `toml:"mode"`   // of a bond
	MIIMon int      `toml:"miimon"` // milliseconds; 0: 100
	Parent string   `toml:"parent"` // of a vlan
	ID     int      `toml:"id"`     // of a vlan

	PrivateKeyFile string `toml:"private_key_file"` // of wireguard
	ListenPort     int    `toml:"listen_port"`
	Peers          []Peer `toml:"peers"`

	MAC       string      `toml:"mac"`
	MTU       int         `toml:"mtu"` // bytes
	DHCP      bool        `toml:"dhcp"`
	DHCP6     bool        `toml:"dhcp6"`
	AcceptRA  *bool       `toml:"accept_ra"`
	AddrGen   string      `toml:"addr_gen_mode"` // eui64, none or random
	Address   string      `toml:"address"`       // with prefix length
	Addresses []string    `toml:"addresses"`
	Gateway   string      `toml:"gateway"`
	Gateway6  string      `toml:"gateway6"`
	Metric    int         `toml:"metric"`
	DNS       []string    `toml:"dns"`
	Search    []string    `toml:"search"`
	Routes    []LinkRoute `toml:"routes"`
	Rules     []LinkRule  `toml:"rules"`
	MDNS      bool        `toml:"mdns"`

	PrefixFrom string `toml:"prefix_from"` // a link with dhcp6: a /64 of what is delegated there is this one's
	SubnetID   *int   `toml:"subnet_id"`   // which
	PrefixHint int    `toml:"prefix_hint"` // of the link with dhcp6: bits of the prefix that is asked for
}

// Peer is another end of a WireGuard link.
type Peer struct {
	PublicKey        string   `toml:"public_key"`
	PresharedKeyFile string   `toml:"preshared_key_file"`
	Endpoint         string   `toml:"endpoint"` // host:port
	AllowedIPs       []string `toml:"allowed_ips"`
	Keepalive        int      `toml:"keepalive"` // seconds
}

// LinkRoute is a route through the link.
type LinkRoute struct {
	To     string `toml:"to"`
	Via    string `toml:"via"`
	Metric int    `toml:"metric"`
	Table  int    `toml:"table"`
}

// LinkRule says which table is asked for some packets.
type LinkRule struct {
	From     string `toml:"from"`
	To       string `toml:"to"`
	Table    int    `toml:"table"`
	Priority int    `toml:"priority"`
}

// Links are those of both kinds of sections.
func (c Config) Links() map[string]Link {
	all := map[string]Link{}
	for name, l := range c.Link {
		all[name] = l
	}
	for name, l := range c.Uplink {
		all[name] = l
	}
	return all
}

// NeedsNetwork is the value of needs that means a default route; any other is the name of a link.
const NeedsNetwork = "network"

// Needs are, for each container that has some, the links that it waits for: its own, and those of the containers that it is
// to come after.
func (c Config) Needs() map[string][]string {
	needs := map[string][]string{}
	for _, name := range c.Order() {
		var all []string
		add := func(more ...string) {
			for _, n := range more {
				if n != "" && !slices.Contains(all, n) {
					all = append(all, n)
				}
			}
		}
		for _, dep := range c.Container[name].After {
			add(needs[dep]...)
		}
		if add(c.Container[name].Needs); all != nil {
			needs[name] = all
		}
	}
	return needs
}

func (d *document) checkLinks(c *Config) {
	for _, name := range sortedKeys(c.Link) {
		if _, twice := c.Uplink[name]; twice {
			d.bad("link."+name, "", "link %s is an uplink too: one section is enough", name)
			delete(c.Link, name)
		}
	}
	holders := map[string]string{} // of ports
	for _, kind := range []struct {
		name string
		all  map[string]Link
	}{{"uplink", c.Uplink}, {"link", c.Link}} {
		for _, name := range sortedKeys(kind.all) {
			l := kind.all[name]
			ck := linkCheck{d, kind.name + "." + name, name, &l}
			if !ck.whole(holders) {
				delete(kind.all, name)
				continue
			}
			ck.parts()
			kind.all[name] = l
		}
	}
	d.checkPortLinks(c.Uplink, "uplink.", holders)
	d.checkPortLinks(c.Link, "link.", holders)
	d.checkLinkLoops(c)
	d.checkPrefixes(c)
}

// checkPrefixes finds links that take their addresses from where none come, and two that want the same.
func (d *document) checkPrefixes(c *Config) {
	all, asked, holders := c.Links(), map[string]bool{}, map[string]string{} // holders by subnet
	for _, l := range all {
		asked[l.PrefixFrom] = true
	}
	for _, name := range sortedKeys(all) {
		section, in, l := "link."+name, c.Link, all[name]
		if _, up := c.Uplink[name]; up {
			section, in = "uplink."+name, c.Uplink
		}
		if l.PrefixHint != 0 && !asked[name] {
			d.bad(section, "prefix_hint", "nobody has prefix_from = %q: prefix_hint is the length of a prefix that nobody asks for", name)
			l.PrefixHint = 0
		}
		subnet := ""
		if l.SubnetID != nil {
			subnet = fmt.Sprintf("subnet %d of %s", *l.SubnetID, l.PrefixFrom)
		}
		switch {
		case l.PrefixFrom == "" && subnet != "":
			d.bad(section, "subnet_id", "subnet_id is of prefix_from's prefix: say prefix_from, a link with dhcp6 = true")
			l.SubnetID = nil
		case l.PrefixFrom != "" && (l.PrefixFrom == name || !all[l.PrefixFrom].DHCP6):
			d.bad(section, "prefix_from", "prefix_from %q is no other link of this file with dhcp6 = true: name the one whose server delegates the prefix", l.PrefixFrom)
			l.PrefixFrom, l.SubnetID = "", nil
		case subnet != "" && holders[subnet] != "":
			d.bad(section, "subnet_id", "%s is %s's already", subnet, holders[subnet])
			l.PrefixFrom, l.SubnetID = "", nil
		case subnet != "":
			holders[subnet] = section
		}
		in[name] = l
	}
}

// checkPortLinks finds addresses where nobody would hear of them: what comes in at a port is its bridge's or bond's.
func (d *document) checkPortLinks(all map[string]Link, kind string, holders map[string]string) {
	for _, name := range sortedKeys(all) {
		l := all[name]
		if holders[name] == "" || l.Address == "" && l.Addresses == nil && !l.DHCP && !l.DHCP6 && l.PrefixFrom == "" {
			continue
		}
		key := "address"
		switch {
		case l.DHCP:
			key = "dhcp"
		case l.DHCP6:
			key = "dhcp6"
		case l.PrefixFrom != "":
			key = "prefix_from"
		case l.Address == "":
			key = "addresses"
		}
		d.bad(kind+name, key, "link %s is a port of %s: give the address to that", name, holders[name])
		l.Address, l.Addresses, l.DHCP, l.DHCP6, l.Gateway, l.Gateway6, l.Routes, l.PrefixFrom, l.SubnetID = "", nil, false, false, "", "", nil, "", nil
		all[name] = l
	}
}

// checkLinkLoops finds links that stand on each other.
func (d *document) checkLinkLoops(c *Config) {
	all := c.Links()
	below := map[string][]string{}
	for _, name := range sortedKeys(all) {
		if p := all[name].Parent; p != "" {
			below[name] = append(below[name], p)
		}
		below[name] = append(below[name], all[name].Ports...) // a bridge's port may not stand on the bridge
	}
	for _, name := range sortedKeys(all) {
		if cycle := findCycle(func(n string) []string { return below[n] }, name, nil); cycle != nil {
			section := "link." + name
			if _, up := c.Uplink[name]; up {
				section = "uplink." + name
			}
			d.bad(section, "", "links stand on each other in a circle: %s", strings.Join(cycle, " on "))
			delete(c.Link, name)
			delete(c.Uplink, name)
			delete(below, name)
		}
	}
}

type linkCheck struct {
	d             *document
	section, name string
	l             *Link
}

func (ck linkCheck) bad(key, format string, args ...any) bool {
	return ck.d.bad(ck.section, key, format, args...)
}

func (ck linkCheck) mac(key, value string) bool {
	if hw, err := net.ParseMAC(value); value != "" && (err != nil || len(hw) != 6 || hw[0]&1 != 0) {
		return ck.bad(key, "%s %q is no address of a device, such as \"02:00:00:00:00:01\"", key, value)
	}
	return true
}

var bondModes = [...]string{"balance-rr", "active-backup", "balance-xor", "broadcast", "802.3ad", "balance-tlb", "balance-alb"}

// whole are mistakes that leave no link to speak of.
func (ck linkCheck) whole(holders map[string]string) bool {
	l, name := ck.l, ck.name
	switch {
	case !validLinkName(name):
		return ck.bad("", "link name %q: 1 to 15 characters, without blanks, / and :", name)
	case !slices.Contains([]string{"", "bridge", "bond", "vlan", "wireguard"}, l.Kind):
		return ck.bad("kind", "kind %q is not known: use bridge, bond, vlan or wireguard, or none for a device that is there", l.Kind)
	case len(l.Ports) > 0 && l.Kind != "bridge" && l.Kind != "bond":
		return ck.bad("ports", "link %s has ports: say kind = \"bridge\" or kind = \"bond\"", name)
	case l.STP && l.Kind != "bridge":
		return ck.bad("stp", "stp is a bridge's: link %s is none", name)
	case (l.Mode != "" || l.MIIMon != 0) && l.Kind != "bond":
		return ck.bad("mode", "mode and miimon are a bond's: link %s is none", name)
	case l.Kind == "bond" && l.Mode != "" && !slices.Contains(bondModes[:], l.Mode):
		return ck.bad("mode", "mode %q is not known: use %s", l.Mode, strings.Join(bondModes[:], ", "))
	case l.MIIMon < 0:
		return ck.bad("miimon", "miimon %d is negative", l.MIIMon)
	case (l.Parent != "" || l.ID != 0) && l.Kind != "vlan":
		return ck.bad("parent", "parent and id are a vlan's: say kind = \"vlan\"")
	case l.Kind == "vlan" && (l.Parent == "" || l.ID < 1 || l.ID > 4094):
		return ck.bad("id", "vlan %s needs parent, a link, and id, a number from 1 to 4094", name)
	case (l.PrivateKeyFile != "" || l.Peers != nil || l.ListenPort != 0) && l.Kind != "wireguard":
		return ck.bad("private_key_file", "keys, peers and listen_port are wireguard's: say kind = \"wireguard\"")
	case l.Kind == "wireguard" && !path.IsAbs(l.PrivateKeyFile):
		return ck.bad("private_key_file", "link %s needs private_key_file, the absolute path of what `wg genkey` printed", name)
	case l.Kind == "wireguard" && (l.DHCP || l.DHCP6):
		return ck.bad("dhcp", "nobody answers DHCP through WireGuard: give link %s an address", name)
	case l.ListenPort < 0 || l.ListenPort > 65535:
		return ck.bad("listen_port", "listen_port %d is not a number from 1 to 65535", l.ListenPort)
	case l.MatchMAC != "" && l.Kind != "":
		return ck.bad("match_mac", "match_mac is for devices: link %s is made", name)
	case !ck.mac("match_mac", l.MatchMAC):
		return false
	}
	for _, p := range l.Ports {
		if holders[p] != "" {
			return ck.bad("ports", "%s is a port of %s already", p, holders[p])
		}
		holders[p] = name
	}
	return true
}

func validLinkName(s string) bool {
	return s != "" && len(s) < 16 && s != "." && s != ".." && s != NeedsNetwork && !strings.ContainsAny(s, " \t\n/:")
}

// parts are mistakes that take away no more than what is wrong: the rest may be the only way to reach the machine.
func (ck linkCheck) parts() {
	l := ck.l
	if !ck.mac("mac", l.MAC) {
		l.MAC = ""
	}
	if l.MTU != 0 && (l.MTU < 68 || l.MTU > 65535) {
		ck.bad("mtu", "mtu %d is not a number of bytes from 68 to 65535", l.MTU)
		l.MTU = 0
	}
	if !slices.Contains([]string{"", "eui64", "none", "random"}, l.AddrGen) {
		ck.bad("addr_gen_mode", "addr_gen_mode %q is not known: use eui64, none or random", l.AddrGen)
		l.AddrGen = ""
	}
	if l.Metric < 0 {
		ck.bad("metric", "metric %d is negative", l.Metric)
		l.Metric = 0
	}
	if l.PrefixHint != 0 && (l.PrefixHint < 16 || l.PrefixHint > 64) {
		ck.bad("prefix_hint", "prefix_hint %d is not a number of bits from 16 to 64, such as 56", l.PrefixHint)
		l.PrefixHint = 0
	}
	if l.SubnetID != nil && (*l.SubnetID < 0 || *l.SubnetID > 65535) {
		ck.bad("subnet_id", "subnet_id %d is not a number from 0 to 65535", *l.SubnetID)
		l.SubnetID = nil
	}
	if l.Address != "" && !ck.prefix("address", l.Address) {
		l.Address = ""
	}
	l.Addresses = keepIf(l.Addresses, func(_ int, s string) bool { return ck.prefix("addresses", s) })
	if a, err := netip.ParseAddr(l.Gateway); l.Gateway != "" && (err != nil || !a.Is4() && l.Gateway6 != "") {
		ck.bad("gateway", "gateway %q is no address of IPv4", l.Gateway)
		l.Gateway = ""
	}
	if a, err := netip.ParseAddr(l.Gateway6); l.Gateway6 != "" && (err != nil || !a.Is6()) {
		ck.bad("gateway6", "gateway6 %q is no address of IPv6", l.Gateway6)
		l.Gateway6 = ""
	}
	l.DNS = keepIf(l.DNS, func(_ int, s string) bool {
		_, err := netip.ParseAddr(s)
		return err == nil || ck.bad("dns", "name server %q is no address", s)
	})
	l.Search = keepIf(l.Search, func(_ int, s string) bool {
		return s != "" && !strings.ContainsAny(s, " \t\n;#") || ck.bad("search", "search %q is no domain", s)
	})
	l.Routes = keepIf(l.Routes, ck.route)
	l.Rules = keepIf(l.Rules, ck.rule)
	l.Peers = keepIf(l.Peers, ck.peer)
}

// keepIf calls good with each element and its place.
func keepIf[T any](all []T, good func(int, T) bool) (kept []T) {
	for i, v := range all {
		if good(i, v) {
			kept = append(kept, v)
		}
	}
	return kept
}

func (ck linkCheck) prefix(key, s string) bool {
	if _, err := netip.ParsePrefix(s); err != nil {
		return ck.bad(key, "%s %q is none with a prefix length, such as \"192.168.1.2/24\"", strings.TrimSuffix(key, "es"), s)
	}
	return true
}

// Destination reads a prefix, or "default", which is that of via's family.
func Destination(to, via string) (netip.Prefix, error) {
	if to != "default" {
		return netip.ParsePrefix(to)
	}
	a, err := netip.ParseAddr(via)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("default needs via")
	}
	if a.Is4() {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0), nil
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0), nil
}

func (ck linkCheck) route(i int, r LinkRoute) bool {
	at := func(key string) string { return fmt.Sprintf("routes.%d.%s", i, key) }
	via, viaErr := netip.ParseAddr(r.Via)
	if r.Via != "" && viaErr != nil {
		return ck.bad(at("via"), "via %q is no address", r.Via)
	}
	to, err := Destination(r.To, r.Via)
	switch {
	case err != nil:
		return ck.bad(at("to"), "to %q is no prefix such as \"10.0.0.0/8\", nor \"default\" with via", r.To)
	case r.Via != "" && to.Addr().Is4() != via.Is4():
		return ck.bad(at("via"), "via %q is of another family than to %q", r.Via, r.To)
	case r.Metric < 0 || r.Table < 0:
		return ck.bad(at("metric"), "metric and table are not negative")
	}
	return true
}

func (ck linkCheck) rule(i int, r LinkRule) bool {
	at := func(key string) string { return fmt.Sprintf("rules.%d.%s", i, key) }
	from, fromErr := netip.ParsePrefix(r.From)
	to, toErr := netip.ParsePrefix(r.To)
	switch {
	case r.From == "" && r.To == "":
		return ck.bad(at("from"), "a rule needs from or to, a prefix such as \"10.0.0.0/8\"")
	case r.From != "" && fromErr != nil:
		return ck.bad(at("from"), "from %q is no prefix such as \"10.0.0.0/8\"", r.From)
	case r.To != "" && toErr != nil:
		return ck.bad(at("to"), "to %q is no prefix such as \"10.0.0.0/8\"", r.To)
	case r.From != "" && r.To != "" && from.Addr().Is4() != to.Addr().Is4():
		return ck.bad(at("to"), "to %q is of another family than from %q", r.To, r.From)
	case r.Table < 0 || r.Priority < 0:
		return ck.bad(at("table"), "table and priority are not negative")
	}
	return true
}

func (ck linkCheck) peer(i int, p Peer) bool {
	at := func(key string) string { return fmt.Sprintf("peers.%d.%s", i, key) }
	if b, err := base64.StdEncoding.DecodeString(p.PublicKey); err != nil || len(b) != 32 {
		return ck.bad(at("public_key"), "public_key %q is none: that is 44 characters of base64, as `wg pubkey` prints them", p.PublicKey)
	}
	if _, _, err := net.SplitHostPort(p.Endpoint); p.Endpoint != "" && err != nil {
		return ck.bad(at("endpoint"), "endpoint %q is no host with a port, such as \"vpn.example:51820\"", p.Endpoint)
	}
	for _, ip := range p.AllowedIPs {
		if _, err := netip.ParsePrefix(ip); err != nil {
			return ck.bad(at("allowed_ips"), "allowed_ips: %q is no prefix such as \"10.0.0.0/8\"", ip)
		}
	}
	if p.Keepalive < 0 || p.Keepalive > 65535 {
		return ck.bad(at("keepalive"), "keepalive %d is not a number of seconds from 0 to 65535", p.Keepalive)
	}
	return true
}

// checkNeeds finds links that nobody has.
func (d *document) checkNeeds(c *Config) {
	for _, name := range sortedKeys(c.Container) {
		ct := c.Container[name]
		_, link := c.Links()[ct.Needs]
		if ct.Needs != "" && ct.Needs != NeedsNetwork && !link && !d.has("link."+ct.Needs) && !d.has("uplink."+ct.Needs) {
			d.bad("container."+name, "needs", "container %s needs %q, which is no link of this file: name one, or \"network\"", name, ct.Needs)
			delete(c.Container, name)
		}
	}
}

func (d *document) has(section string) bool { _, ok := d.at[section]; return ok }
