package links

import (
	"net/netip"
	"slices"
	"time"

	"github.com/coble-os/coble/netcfg/dhcp"
)

// life is how long an address is valid, and how long it is preferred for new connections; zero times: for ever.
type life struct{ Until, Preferred time.Time }

// share is a link's part of the prefix that another link's server delegates.
type share struct {
	Address netip.Prefix // its own in a /64
	life
}

// lingering is how long an address stays, deprecated, whose prefix is delegated no more: as long as hosts keep one that a
// router does not take back (RFC 4862, 5.5.3). Who announces prefixes on the link sees it, and tells the hosts.
const lingering = 2 * time.Hour

// subnets numbers the links that take their addresses from one: those that say which they want first, the others in the order
// of their names.
func subnets(all []Link, from string) map[string]int {
	numbers, taken := map[string]int{}, map[int]bool{}
	var rest []string
	for i := range all {
		switch l := &all[i]; {
		case l.PrefixFrom != from:
		case l.Subnet != nil:
			numbers[l.Name], taken[*l.Subnet] = *l.Subnet, true
		default:
			rest = append(rest, l.Name)
		}
	}
	slices.Sort(rest)
	next := 0
	for _, name := range rest {
		for taken[next] {
			next++
		}
		numbers[name], taken[next] = next, true
	}
	return numbers
}

// subnet is the nth /64 of a prefix, with ::1 in it; not valid: there are not so many.
func subnet(p netip.Prefix, n int) netip.Prefix {
	if !p.IsValid() || p.Bits() > 64 || n < 0 || 64-p.Bits() < 31 && n >= 1<<(64-p.Bits()) {
		return netip.Prefix{}
	}
	b := p.Masked().Addr().As16()
	for i := 7; n > 0; i, n = i-1, n>>8 {
		b[i] |= byte(n)
	}
	b[15] = 1
	return netip.PrefixFrom(netip.AddrFrom16(b), 64)
}

// share is what a link has of a delegated prefix now.
func (w Wanted) share(l *Link) (s share, has bool) {
	lease := w.delegation(l.PrefixFrom)
	if lease == nil {
		return s, false
	}
	a := subnet(lease.Prefix, subnets(w.Links, l.PrefixFrom)[l.Name])
	return share{a, life{lease.PrefixUntil, lease.PrefixPreferred}}, a.IsValid()
}

// shares are what all links have.
func (w Wanted) shares() map[string]share {
	all := map[string]share{}
	for i := range w.Links {
		if s, has := w.share(&w.Links[i]); has {
			all[w.Links[i].Name] = s
		}
	}
	return all
}

// delegation is the lease of a link that has a prefix, or nil.
func (w Wanted) delegation(link string) *dhcp.Lease {
	for _, lease := range w.Leases[link] {
		if link != "" && lease.Prefix.IsValid() {
			return lease
		}
	}
	return nil
}

// deprecate is pure: what is left of the shares of before, for links that still take some, by link.
func deprecate(links []Link, was map[string]share, old map[string][]share, is map[string]share, now time.Time) map[string][]share {
	all := map[string][]share{}
	keep := func(link string, s share) {
		l := find(links, link)
		for _, o := range is { // it is back, or another link has that subnet now
			if o.Address == s.Address {
				return
			}
		}
		here := func(o share) bool { return o.Address == s.Address }
		if l == nil || l.PrefixFrom == "" || slices.ContainsFunc(all[link], here) || !s.Until.After(now) {
			return
		}
		all[link] = append(all[link], s)
	}
	for link, s := range was {
		if end := now.Add(lingering); s.Until.IsZero() || s.Until.After(end) {
			s.Until = end
		}
		s.Preferred = now
		keep(link, s)
	}
	for link, shares := range old {
		for _, s := range shares {
			keep(link, s)
		}
	}
	return all
}

// share brings up to date who has which part of what is delegated, and what of before is left.
func (k *Keeper) share(now time.Time) {
	is := k.want.shares()
	k.memory.Old = deprecate(k.want.Links, k.memory.Shares, k.memory.Old, is, now)
	k.memory.Shares = is
	k.want.old = k.memory.Old
}

// delegates says whether a link's server is asked for a prefix.
func delegates(all []Link, link string) bool {
	return slices.ContainsFunc(all, func(l Link) bool { return l.PrefixFrom == link })
}

// stillHeld is what is left of an earlier client's lease, nil for nothing: the address if the device has it still, the prefix if
// its time is not over.
func stillHeld(l *dhcp.Lease, v *Dev, delegate bool, now time.Time) *dhcp.Lease {
	left := *l
	if until, has := v.Addresses[l.Address]; has {
		left.Until = until
	} else {
		left.Address = netip.Prefix{}
	}
	if !delegate || !l.PrefixUntil.IsZero() && !l.PrefixUntil.After(now) {
		left.Prefix = netip.Prefix{}
	}
	if !left.Address.IsValid() && !left.Prefix.IsValid() {
		return nil
	}
	return &left
}
