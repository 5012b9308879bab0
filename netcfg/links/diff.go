package links

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/coble-os/coble/netcfg/dhcp"
)

// State is what the kernel has, as far as it matters here.
type State struct {
	Devices map[string]*Dev // by name
	Routes  []Route         // those that coble made
	Rules   []Rule          // likewise
}

// Dev is a link as it is.
type Dev struct {
	Name          string
	Index, Master int // Master: index of the bridge or bond, 0: none
	Parent        int // index of a VLAN's
	Kind          string
	Alias         string
	Group         uint32
	Up, Carrier   bool
	MAC, PermMAC  string
	MTU           int
	ID            int // of a VLAN
	Mode          string
	MIIMon        time.Duration
	STP           bool
	RA, AddrGen   string // sysctls; empty: no IPv6
	Failover      bool   // routes through it don't count while it has no carrier
	Addresses     map[netip.Prefix]time.Time
	Preferred     map[netip.Prefix]time.Time // of those for which it is not as long as they are valid
	Tentative     map[netip.Prefix]bool      // the kernel is looking for others that have it
	Failed        map[netip.Prefix]bool      // somebody has it, and so the kernel does not use it
	Loopback      bool
}

// Marked aliases are those of links that coble made; what stands behind the mark is a digest of a tunnel's keys and peers.
const mark = "coble link" // engines have a colon there: netcfg takes bridges of such for other engines'

// group is that of links from coble's making on (ip-link(8)): a killed engine may have got no further than that.
const group = 0x636f626c

// Owned are the addresses that coble gave to links: others are left alone.
type Owned map[string][]netip.Prefix

// Op is what a Change does.
type Op string

// The operations.
const (
	Rename   Op = "rename"
	Delete   Op = "delete"
	Create   Op = "create"
	Adopt    Op = "mark as coble's"
	Refuse   Op = "leave alone"
	Free     Op = "free" // from its bridge or bond
	Enslave  Op = "add to"
	SetDown  Op = "set down"
	SetUp    Op = "set up"
	SetMAC   Op = "set MAC address"
	SetMTU   Op = "set MTU"
	SetSTP   Op = "set STP"
	SetRA    Op = "set accept_ra"
	SetGen   Op = "set addr_gen_mode"
	SetOver  Op = "set ignore_routes_with_linkdown"
	SetPeers Op = "set keys and peers"

	SetEndpoint Op = "set endpoint of"

	AddAddr  Op = "add address"
	DelAddr  Op = "remove address"
	AddRoute Op = "add route"
	DelRoute Op = "remove route"
	AddRule  Op = "add rule"
	DelRule  Op = "remove rule"
)

// Change is one step towards the desired state.
type Change struct {
	Op      Op
	Link    string
	Value   string // of a name, MAC address, sysctl, number
	Make    *Link  // Create
	tunnel  tunnel // SetPeers, SetEndpoint
	Address netip.Prefix
	life    // of Address
	Route   Route
	Rule    Rule
}

func (c Change) String() string {
	switch c.Op {
	case AddAddr, DelAddr:
		return fmt.Sprintf("%s: %s %s", c.Link, c.Op, c.Address)
	case AddRoute, DelRoute:
		return fmt.Sprintf("%s: %s %s", c.Link, c.Op, c.Route)
	case AddRule, DelRule:
		return fmt.Sprintf("%s %s", c.Op, c.Rule)
	}
	return strings.TrimSpace(fmt.Sprintf("%s: %s %s", c.Link, c.Op, c.Value))
}

// Wanted is the desired state, in Order, with what servers gave.
type Wanted struct {
	Links   []Link
	Leases  map[string][]*dhcp.Lease // by link
	Adverts map[string]advert        // by link and what it is about
	tunnels map[string]tunnel        // by link; one that is not there has no key yet
	old     map[string][]share       // by link, deprecated
	taken   map[place]*clash         // addresses that others have
}

// Diff is pure: what to do so that s becomes what is wanted. Links are renamed before anything else, and alone.
func Diff(w Wanted, s *State, owned Owned, now time.Time) []Change {
	if c := renames(w.Links, s); len(c) > 0 {
		return c
	}
	d := differ{w: w, s: s, owned: owned, now: now, gone: map[string]bool{}}
	d.remove()
	for i := range w.Links {
		d.link(&w.Links[i])
	}
	d.strangers()
	d.routes()
	d.rules()
	return d.out
}

type differ struct {
	w     Wanted
	s     *State
	owned Owned
	now   time.Time
	out   []Change
	gone  map[string]bool // devices that a change before takes away

	downed string // the last one that a change before sets down
}

func (d *differ) add(c Change) { d.out = append(d.out, c) }

// hardware says whether MatchMAC may mean the device: VLANs and bridges have addresses of others.
func (v *Dev) hardware() bool {
	return v.Kind == "device" || v.Kind == "veth"
}

// renames gives devices their names. One that has another's moves out of the way first.
func renames(all []Link, s *State) (out []Change) {
	for i := range all {
		l := &all[i]
		if l.MatchMAC == "" {
			continue
		}
		for _, name := range slices.Sorted(maps.Keys(s.Devices)) {
			v := s.Devices[name]
			if !v.hardware() || name == l.Name || v.PermMAC != l.MatchMAC && (v.PermMAC != "" || v.MAC != l.MatchMAC) {
				continue
			}
			if other := s.Devices[l.Name]; other != nil {
				out = append(out, Change{Op: Rename, Link: l.Name, Value: fmt.Sprintf("moved%d", other.Index)})
			}
			return append(out, Change{Op: Rename, Link: name, Value: l.Name})
		}
	}
	return nil
}

// remove takes away links that coble made and that nobody wants any more, or wants otherwise.
func (d *differ) remove() {
	for _, name := range slices.Sorted(maps.Keys(d.s.Devices)) {
		v := d.s.Devices[name]
		if !strings.HasPrefix(v.Alias, mark) {
			continue
		}
		if l := find(d.w.Links, name); l == nil || l.Kind == Device || !d.s.built(l, v) {
			d.gone[name] = true
			d.add(Change{Op: Delete, Link: name})
		}
	}
	for more := true; more; { // the kernel takes VLANs along with their parent
		more = false
		for name, v := range d.s.Devices {
			if v.Kind == string(VLAN) && !d.gone[name] && d.parentGone(v) {
				d.gone[name], more = true, true
			}
		}
	}
}

func (d *differ) parentGone(v *Dev) bool {
	for name := range d.gone {
		if d.s.Devices[name].Index == v.Parent {
			return true
		}
	}
	return false
}

// built says whether a device is made as the link wants it, in what can't be changed later.
func (s *State) built(l *Link, v *Dev) bool {
	switch {
	case v.Kind != string(l.Kind):
		return false
	case l.Kind == VLAN:
		parent := s.Devices[l.Parent]
		return v.ID == l.ID && (parent == nil || v.Parent == parent.Index)
	case l.Kind == Bond:
		return v.Mode == l.Mode && v.MIIMon == l.MIIMon
	}
	return true
}

func (d *differ) dev(name string) *Dev {
	if d.gone[name] {
		return nil
	}
	return d.s.Devices[name]
}

// there says whether the link can be worked on once the changes so far are made.
func (d *differ) there(l *Link) bool {
	switch {
	case l.Kind == Device:
		return d.dev(l.Name) != nil
	case l.Kind == VLAN && d.dev(l.Parent) == nil:
		p := find(d.w.Links, l.Parent)
		return p != nil && p.Kind != Device && d.there(p)
	}
	return true
}

func (d *differ) link(l *Link) {
	if !d.there(l) {
		return
	}
	v := d.dev(l.Name)
	if v == nil {
		d.add(Change{Op: Create, Link: l.Name, Value: string(l.Kind), Make: l})
		v = &Dev{Kind: string(l.Kind)}
		if old := d.s.Devices[l.Name]; old != nil {
			v.RA, v.AddrGen = old.RA, old.AddrGen
		}
	} else if l.Kind != Device && !strings.HasPrefix(v.Alias, mark) {
		if v.Group != group || v.Alias != "" || !d.s.built(l, v) {
			d.add(Change{Op: Refuse, Link: l.Name})
			return
		}
		d.add(Change{Op: Adopt, Link: l.Name}) // who made it was killed before the mark was on it
	}
	d.ports(l.Name, v)
	if t, has := d.w.tunnels[l.Name]; has && v.Alias != mark+" "+t.digest() {
		d.add(Change{Op: SetPeers, Link: l.Name, tunnel: t})
	}
	if l.Kind == Bridge && v.STP != l.STP {
		d.add(Change{Op: SetSTP, Link: l.Name, Value: bit(l.STP)})
	}
	if ra := l.acceptRA(); ra != "" && v.RA != ra {
		d.add(Change{Op: SetRA, Link: l.Name, Value: ra})
	}
	if gen := map[string]string{"eui64": "0", "none": "1", "random": "3"}[l.AddrGen]; gen != "" && v.AddrGen != gen {
		d.add(Change{Op: SetGen, Link: l.Name, Value: gen})
	}
	if !v.Failover {
		d.add(Change{Op: SetOver, Link: l.Name, Value: "1"}) // or the way with the lowest metric is taken though it leads nowhere
	}
	if l.MAC != "" && v.MAC != l.MAC {
		d.add(Change{Op: SetMAC, Link: l.Name, Value: l.MAC})
	}
	if mtu := d.mtu(l); mtu != 0 && v.MTU != mtu {
		d.add(Change{Op: SetMTU, Link: l.Name, Value: fmt.Sprint(mtu)})
	}
	if !v.Up || d.downed == l.Name {
		d.add(Change{Op: SetUp, Link: l.Name})
	}
	d.addresses(l, v)
}

func bit(b bool) string {
	if b {
		return "1"
	}
	return "0"
}

// mtu is the file's, or else the server's.
func (d *differ) mtu(l *Link) int {
	mtu := l.MTU
	for _, lease := range d.w.Leases[l.Name] {
		if mtu == 0 {
			mtu = lease.MTU
		}
	}
	return mtu
}

// ports puts a link where it belongs: into its bridge or bond, or out of one that coble made. A bond takes only what is
// down (kernel documentation, networking/bonding).
func (d *differ) ports(name string, v *Dev) {
	if o := owner(d.w.Links, name); o != nil {
		if m := d.dev(o.Name); m == nil || v.Master != m.Index {
			if o.Kind == Bond && v.Up {
				d.add(Change{Op: SetDown, Link: name})
				d.downed = name
			}
			d.add(Change{Op: Enslave, Link: name, Value: o.Name})
		}
	} else {
		d.free(name, v)
	}
}

func (d *differ) free(name string, v *Dev) {
	for _, m := range d.s.Devices {
		if v.Master != 0 && m.Index == v.Master && strings.HasPrefix(m.Alias, mark) && !d.gone[m.Name] {
			d.add(Change{Op: Free, Link: name})
		}
	}
}

// strangers are links that are not in the file: they may have been, or be ports of what is.
func (d *differ) strangers() {
	for _, name := range slices.Sorted(maps.Keys(d.s.Devices)) {
		if d.gone[name] || find(d.w.Links, name) != nil {
			continue
		}
		v := d.s.Devices[name]
		d.ports(name, v)
		if owner(d.w.Links, name) != nil && !v.Up {
			d.add(Change{Op: SetUp, Link: name})
		}
		for _, p := range d.owned[name] {
			if _, has := v.Addresses[p]; has {
				d.add(Change{Op: DelAddr, Link: name, Address: p})
			}
		}
	}
}

// wanted are a link's addresses, and for how long.
func (w Wanted) addresses(l *Link) map[netip.Prefix]life {
	all := map[netip.Prefix]life{}
	for _, lease := range w.Leases[l.Name] {
		if lease.Address.IsValid() {
			all[lease.Address] = life{lease.Until, lease.Until}
		}
	}
	for _, s := range w.old[l.Name] {
		all[s.Address] = s.life
	}
	if s, has := w.share(l); has {
		all[s.Address] = s.life
	}
	for _, p := range l.Addresses {
		all[p] = life{}
	}
	return all
}

// slack is by how much the kernel's idea of an address's end may differ: it counts whole seconds.
const slack = 1500 * time.Millisecond

// same says whether the kernel has a time as it is wanted; what is over is over, whenever that was.
func (d *differ) same(have, want time.Time) bool {
	if have.IsZero() || want.IsZero() {
		return have.IsZero() && want.IsZero()
	}
	return have.Sub(want).Abs() <= slack || !have.After(d.now) && !want.After(d.now)
}

func (d *differ) addresses(l *Link, v *Dev) {
	want := d.w.addresses(l)
	for _, p := range sorted(want) {
		have, has := v.Addresses[p]
		preferred, differs := v.Preferred[p]
		if !differs {
			preferred = have
		}
		if !want[p].Until.IsZero() && !want[p].Until.After(d.now) {
			continue // over, and its client is about to say so
		}
		if c := d.w.taken[place{l.Name, p}]; c != nil && !c.trying {
			continue
		}
		if v.Failed[p] { // the kernel does not try what it has
			d.add(Change{Op: DelAddr, Link: l.Name, Address: p})
			has = false
		}
		if !has || !d.same(have, want[p].Until) || !d.same(preferred, want[p].Preferred) {
			d.add(Change{Op: AddAddr, Link: l.Name, Address: p, life: want[p]})
		}
	}
	for _, p := range d.owned[l.Name] {
		_, keep := want[p]
		if _, has := v.Addresses[p]; has && !keep {
			d.add(Change{Op: DelAddr, Link: l.Name, Address: p})
		}
	}
}

// sorted are a map's prefixes in order.
func sorted[T any](m map[netip.Prefix]T) (all []netip.Prefix) {
	for p := range m {
		all = append(all, p)
	}
	sort.Slice(all, func(i, j int) bool { return all[i].Compare(all[j]) < 0 }) // slices' own would be 8 KiB for this type
	return all
}

// routes are all routes of a link, each once.
func (w Wanted) routes(l *Link) (all []Route) {
	add := func(r Route) {
		r = r.normal(l.Name)
		r.OnLink = r.Via.IsValid() && !r.Via.IsLinkLocalUnicast()
		for p := range w.addresses(l) {
			r.OnLink = r.OnLink && !p.Contains(r.Via)
		}
		if !r.among(all) {
			all = append(all, r)
		}
	}
	for _, g := range l.Gateways {
		zero := netip.IPv4Unspecified()
		if g.Is6() {
			zero = netip.IPv6Unspecified()
		}
		add(Route{To: netip.PrefixFrom(zero, 0), Via: g, Metric: l.Metric})
	}
	for _, lease := range w.Leases[l.Name] {
		for _, r := range lease.Routes {
			add(Route{To: r.To, Via: r.Via, Metric: l.Metric})
		}
		if lease.Prefix.IsValid() {
			all = append(all, Route{To: lease.Prefix, Unreachable: true}.normal("lo"))
		}
	}
	for _, r := range l.Routes {
		add(r)
	}
	return all
}

// among says whether a route is one of those. OnLink is but a way to say that it is to be believed.
func (r Route) among(all []Route) bool {
	for _, o := range all {
		if r.OnLink = o.OnLink; r == o {
			return true
		}
	}
	return false
}

// routes come last: there are none through a link that is down, and the old one goes before the new one comes, since the
// kernel tells them apart by destination, metric and table only.
func (d *differ) routes() {
	var want []Route
	for i := range d.w.Links {
		if l := &d.w.Links[i]; d.there(l) {
			want = append(want, d.w.routes(l)...)
		}
	}
	for _, r := range d.s.Routes {
		if !r.among(want) && !d.gone[r.Dev] {
			d.add(Change{Op: DelRoute, Link: r.Dev, Route: r})
		}
	}
	for _, r := range want {
		if !r.among(d.s.Routes) || d.gone[r.Dev] {
			d.add(Change{Op: AddRoute, Link: r.Dev, Route: r})
		}
	}
}

func (d *differ) rules() {
	var want []Rule
	for i := range d.w.Links {
		for _, r := range d.w.Links[i].Rules {
			if r = r.normal(); !slices.Contains(want, r) {
				want = append(want, r)
			}
		}
	}
	for _, r := range d.s.Rules {
		if !slices.Contains(want, r) {
			d.add(Change{Op: DelRule, Rule: r})
		}
	}
	for _, r := range want {
		if !slices.Contains(d.s.Rules, r) {
			d.add(Change{Op: AddRule, Rule: r})
		}
	}
}
