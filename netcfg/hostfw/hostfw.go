// Package hostfw reads what other programs' nftables rules make of forwarded packets: which firewall it is, which zones it
// has, and whether it would let a packet through. Whatever coble's own tables accept, a drop in another's is final
// (nft(8), "verdict statement"), so coble is the guest of whoever filters here. It changes nothing, runs no program, and
// sees no rules of the old kind (iptables-legacy).
package hostfw

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// Packet is the first of a connection that is to be forwarded.
type Packet struct {
	From, To string // links
	Six      bool
	Proto    byte // IPPROTO_TCP or IPPROTO_UDP
	DNAT     bool // its destination was changed: it came in by a published port
}

// Rules are the tables of others that have a say in what is forwarded, as they were when they were read.
type Rules struct {
	tables []*table
}

// Read reads the rules of all tables but those that ours names. A kernel without nftables has none.
func Read(ours func(table string, chains []string) bool) (*Rules, error) {
	conn, err := nftables.New(nftables.AsLasting())
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		return &Rules{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reach nftables: %w", err)
	}
	defer conn.CloseLasting()
	chains, err := conn.ListChains()
	if errors.Is(err, unix.EINVAL) { // nfnetlink.c: there is no nftables
		return &Rules{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list nftables chains: %w", err)
	}
	byTable := map[nftables.Table]*table{}
	names := map[nftables.Table][]string{}
	for _, c := range chains {
		key := nftables.Table{Name: c.Table.Name, Family: c.Table.Family}
		if byTable[key] == nil {
			byTable[key] = &table{name: key.Name, family: key.Family, chains: map[string][]rule{}}
		}
		names[key], byTable[key].chains[c.Name] = append(names[key], c.Name), nil
		if filters(c) {
			byTable[key].bases = append(byTable[key].bases, base{c.Name, c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop})
		}
	}
	r := &Rules{}
	for key, t := range byTable {
		if len(t.bases) == 0 || ours(t.name, names[key]) {
			continue
		}
		if err := t.read(conn); err != nil {
			return nil, err
		}
		r.tables = append(r.tables, t)
	}
	slices.SortFunc(r.tables, func(a, b *table) int { return strings.Compare(a.title(), b.title()) })
	return r, nil
}

// filters tells whether a chain sees what is forwarded.
func filters(c *nftables.Chain) bool {
	ip := c.Table.Family == nftables.TableFamilyINet || c.Table.Family == nftables.TableFamilyIPv4 || c.Table.Family == nftables.TableFamilyIPv6
	return ip && c.Type == nftables.ChainTypeFilter && c.Hooknum != nil && *c.Hooknum == *nftables.ChainHookForward
}

// Passes tells whether any rules could let a packet through: what a rule asks of it that is not known may be so.
func (r *Rules) Passes(p Packet) bool { return r.dropper(p) == nil }

func (r *Rules) dropper(p Packet) *table {
	for _, t := range r.tables {
		if t.sees(p) && !t.passes(p) {
			return t
		}
	}
	return nil
}

// nobody is the name of no link (a link's has no slash).
const nobody = "/"

// Closed tells whether what goes between links that no rule names is dropped: whoever installed these rules has decided what
// the host forwards.
func (r *Rules) Closed(six bool) bool {
	return !r.Passes(Packet{From: nobody, To: nobody, Six: six, Proto: unix.IPPROTO_TCP})
}

// Guest is what there is to say about one firewall.
type Guest struct {
	Name  string              // fw4, firewalld, ufw, or the table's family and name
	Zones map[string][]string // links by zone, empty where it has no zones
}

func (g Guest) String() string {
	if len(g.Zones) == 0 {
		return g.Name
	}
	var zones []string
	for z := range g.Zones {
		zones = append(zones, z)
	}
	slices.Sort(zones)
	return g.Name + " (zones " + strings.Join(zones, ", ") + ")"
}

// Guests are the firewalls that coble is a guest of: those that are known by name, and whoever drops what it does not know.
func (r *Rules) Guests() []Guest {
	var out []Guest
	for _, t := range r.tables {
		one := &Rules{tables: []*table{t}}
		known := t.kind() != ""
		if !known && !one.Closed(false) && !one.Closed(true) {
			continue
		}
		g := Guest{Name: t.title(), Zones: t.zones()}
		if !slices.ContainsFunc(out, func(o Guest) bool { return o.Name == g.Name }) { // ufw has a table for each family
			out = append(out, g)
		}
	}
	return out
}

// Zones are the links of each zone of whatever firewall has zones.
func (r *Rules) Zones() map[string][]string {
	all := map[string][]string{}
	for _, t := range r.tables {
		for z, links := range t.zones() {
			all[z] = append(all[z], links...)
		}
	}
	return all
}

// Advice says what the owner may do for published ports to get through to a bridge; "" if they do: some packet from some of
// the links passes.
func (r *Rules) Advice(bridge string, links []string, proto byte, six bool) string {
	var stops *table
	for _, from := range links {
		t := r.dropper(Packet{From: from, To: bridge, Six: six, Proto: proto, DNAT: true})
		if t == nil {
			return ""
		}
		stops = t
	}
	if stops == nil {
		return ""
	}
	return fmt.Sprintf("%s drops what is forwarded to %s: published ports are reached from this host alone. To let them through: %s", stops.title(), bridge, stops.cure(bridge))
}

// cure is a command, for a shell.
func (t *table) cure(bridge string) string {
	switch t.kind() {
	case fw4:
		zone := strings.Map(func(c rune) rune {
			if c == '-' {
				return '_'
			}
			return c
		}, bridge)
		zone = zone[:min(len(zone), 11)]
		return fmt.Sprintf("uci set firewall.%[1]s=zone; uci set firewall.%[1]s.name=%[1]s; uci add_list firewall.%[1]s.device=%[2]s; "+
			"uci set firewall.%[1]s.input=REJECT; uci set firewall.%[1]s.output=ACCEPT; uci set firewall.%[1]s.forward=REJECT; "+
			"uci set firewall.%[1]s_icmp=rule; uci set firewall.%[1]s_icmp.src=%[1]s; uci set firewall.%[1]s_icmp.proto=icmp; uci set firewall.%[1]s_icmp.target=ACCEPT; "+
			"uci set firewall.lan_%[1]s=forwarding; uci set firewall.lan_%[1]s.src=lan; uci set firewall.lan_%[1]s.dest=%[1]s; "+
			"uci set firewall.%[1]s_wan=forwarding; uci set firewall.%[1]s_wan.src=%[1]s; uci set firewall.%[1]s_wan.dest=wan; "+
			"uci commit firewall; service firewall reload", zone, bridge)
	case firewalld:
		return fmt.Sprintf("firewall-cmd --permanent --zone=trusted --add-interface=%s && firewall-cmd --reload", bridge)
	case ufw:
		return fmt.Sprintf("ufw route allow out on %[1]s; ufw route allow in on %[1]s", bridge)
	}
	family := map[nftables.TableFamily]string{nftables.TableFamilyINet: "inet", nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6"}[t.family]
	return fmt.Sprintf("nft insert rule %[1]s %[2]s %[3]s oifname %[4]s ct status dnat accept; nft insert rule %[1]s %[2]s %[3]s iifname %[4]s accept", family, t.name, t.bases[0].name, bridge)
}

const (
	fw4       = "fw4"
	firewalld = "firewalld"
	ufw       = "ufw"
)

// kind is the firewall that writes such a table, or "".
func (t *table) kind() string {
	_, has := t.chains["ufw-user-forward"]
	if _, six := t.chains["ufw6-user-forward"]; six || has {
		return ufw
	}
	if t.family == nftables.TableFamilyINet && (t.name == fw4 || t.name == firewalld) {
		return t.name
	}
	return ""
}

func (t *table) title() string {
	if k := t.kind(); k != "" {
		return k
	}
	return "table " + t.name
}

// zones finds the links that rules send to a zone's chain: input_ZONE with fw4, filter_IN_ZONE with firewalld.
func (t *table) zones() map[string][]string {
	zones := map[string][]string{}
	if k := t.kind(); k != fw4 && k != firewalld {
		return zones
	}
	for _, rules := range t.chains {
		for _, r := range rules {
			zone, is := strings.CutPrefix(r.jump(), "input_")
			if !is {
				zone, is = strings.CutPrefix(r.jump(), "filter_IN_")
			}
			if !is || strings.Contains(zone, "policy_") {
				continue
			}
			for _, link := range t.linksOf(r) {
				if !slices.Contains(zones[zone], link) {
					zones[zone] = append(zones[zone], link)
				}
			}
		}
	}
	for _, links := range zones {
		slices.Sort(links)
	}
	return zones
}

var errShort = errors.New("nftables answers with less than a rule")
