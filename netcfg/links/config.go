package links

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Config is all that coble is to do to the machine's own links.
type Config struct {
	Links []Link
}

// Kind is what sort of link is made; a Device is there, or will be, and is only set up.
type Kind string

// The kinds, with the kernel's names for them.
const (
	Device    Kind = ""
	Bridge    Kind = "bridge"
	Bond      Kind = "bond"
	VLAN      Kind = "vlan"
	WireGuard Kind = "wireguard"
)

// Link is one link's desired state. Zero values leave things as they are.
type Link struct {
	Name     string
	MatchMAC string // of the device that is to have this name; empty: the one that has it
	Kind     Kind

	Ports  []string      // of a Bridge or Bond
	STP    bool          // of a Bridge
	Mode   string        // of a Bond, as in kernel documentation, networking/bonding
	MIIMon time.Duration // of a Bond: how often carrier is looked at
	Parent string        // of a VLAN
	ID     int           // of a VLAN, 1 to 4094
	Tunnel *Tunnel       // of WireGuard

	MAC     string
	MTU     int    // bytes
	RA      *bool  // whether router advertisements are obeyed (SLAAC, IPv6's default route)
	AddrGen string // how IPv6 addresses are made: eui64, none or random

	Addresses    []netip.Prefix
	Gateways     []netip.Addr // of default routes
	Metric       int          // of default routes, and of those that DHCP servers name
	DHCP4, DHCP6 bool
	DNS          []netip.Addr
	Search       []string
	Routes       []Route
	Rules        []Rule

	PrefixFrom string // a link with DHCP6: a /64 of what its server delegates is this one's; empty: none
	Subnet     *int   // which /64; nil: the next that nobody wants
	PrefixHint int    // bits of the prefix that DHCP6 asks for, where links take theirs from this one; 0: the server's choice

	Announce bool // the machine's name by mDNS
}

// Route leads through the link that it belongs to.
type Route struct {
	Dev    string
	To     netip.Prefix
	Via    netip.Addr // not valid: To is on the link itself
	Metric int
	Table  int // 0: main
	OnLink bool
	// Unreachable refuses packets: those to parts of a delegated prefix that no link has, which the default route would
	// send back to where they came from (RFC 7084, WPD-5).
	Unreachable bool
}

func (r Route) String() string {
	s := r.To.String()
	if r.Unreachable {
		s = "unreachable " + s
	}
	if r.Via.IsValid() {
		s += " via " + r.Via.String()
	}
	return fmt.Sprintf("%s dev %s metric %d table %d", s, r.Dev, r.Metric, r.Table)
}

// Rule says which table is asked for packets from and to certain addresses; one of both must be valid.
type Rule struct {
	From, To        netip.Prefix
	Table, Priority int
}

func (r Rule) String() string {
	s := ""
	if r.From.IsValid() {
		s = "from " + r.From.String() + " "
	}
	if r.To.IsValid() {
		s += "to " + r.To.String() + " "
	}
	return fmt.Sprintf("%stable %d priority %d", s, r.Table, r.Priority)
}

const (
	mainTable    = 254
	metric6      = 1024  // what the kernel gives to routes of IPv6 without one
	rulePriority = 32000 // before the main table's 32766
)

// normal fills in what the kernel would.
func (r Route) normal(dev string) Route {
	r.Dev, r.To = dev, r.To.Masked()
	if r.Table == 0 {
		r.Table = mainTable
	}
	if r.Metric == 0 && r.To.Addr().Is6() {
		r.Metric = metric6
	}
	return r
}

func (r Rule) normal() Rule {
	if r.From.IsValid() {
		r.From = r.From.Masked()
	}
	if r.To.IsValid() {
		r.To = r.To.Masked()
	}
	if r.Table == 0 {
		r.Table = mainTable
	}
	if r.Priority == 0 {
		r.Priority = rulePriority
	}
	return r
}

// Order puts each link behind those that it stands on: a VLAN behind its parent, a port behind its bridge or bond. Beyond
// that it is by name. Links that stand on each other in a circle are named and left out.
func Order(all []Link) (order []Link, loops error) {
	o := ordering{all: all, below: map[string][]string{}, done: map[string]bool{}, bad: map[string]bool{}}
	var names []string
	for i := range all {
		l := &all[i]
		names = append(names, l.Name)
		if l.Parent != "" {
			o.below[l.Name] = append(o.below[l.Name], l.Parent)
		}
		for _, p := range l.Ports {
			o.below[p] = append(o.below[p], l.Name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		o.visit(name, nil)
	}
	return o.order, o.loops
}

type ordering struct {
	all       []Link
	below     map[string][]string
	done, bad map[string]bool
	order     []Link
	loops     error
}

func (o *ordering) visit(name string, way []string) {
	if i := slices.Index(way, name); i >= 0 {
		if o.loops == nil {
			o.loops = fmt.Errorf("links stand on each other in a circle: %s", strings.Join(append(way[i:], name), " on "))
		}
		for _, n := range way[i:] {
			o.bad[n] = true
		}
		return
	}
	if o.done[name] || o.bad[name] {
		return
	}
	for _, b := range o.below[name] {
		o.visit(b, append(slices.Clone(way), name))
		o.bad[name] = o.bad[name] || o.bad[b]
	}
	o.done[name] = true
	if l := find(o.all, name); l != nil && !o.bad[name] {
		o.order = append(o.order, *l)
	}
}

// find is the link of that name, or nil.
func find(all []Link, name string) *Link {
	for i := range all {
		if all[i].Name == name {
			return &all[i]
		}
	}
	return nil
}

// owner is the bridge or bond that a link is a port of, or nil.
func owner(all []Link, name string) *Link {
	for i := range all {
		if slices.Contains(all[i].Ports, name) {
			return &all[i]
		}
	}
	return nil
}
