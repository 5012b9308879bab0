package links

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Status is how a link does.
type Status struct {
	Name      string
	State     string    // one of the following
	Since     time.Time // of the state
	Addresses []string  // with prefix lengths, those of the link only left out
	Problem   string    // and what to do; empty: none
}

// The states.
const (
	Missing   = "missing"    // there is no such device, or it could not be made
	Down      = "down"       // it can't be set up
	NoCarrier = "no carrier" // nobody at the other end
	Waiting   = "waiting"    // for an address, or something else that it is to have
	Online    = "up"
)

// Status tells how all links do that are wanted, by name. One that has not been looked at yet is not among them.
func (k *Keeper) Status() []Status {
	k.mu.Lock()
	defer k.mu.Unlock()
	all := []Status{}
	for _, name := range slices.Sorted(maps.Keys(k.states)) {
		all = append(all, k.states[name])
	}
	return all
}

// tell notes which links are as they are wanted, and how all do.
func (k *Keeper) tell(s *State, now time.Time) {
	online, states := map[string]bool{}, map[string]Status{}
	for i := range k.want.Links {
		l := &k.want.Links[i]
		v := s.Devices[l.Name]
		st := Status{Name: l.Name, Since: now, Addresses: []string{}}
		st.State, st.Problem = k.judge(l, v)
		if v != nil {
			for _, p := range said(v.Addresses) {
				st.Addresses = append(st.Addresses, p.String())
			}
		}
		if was := k.states[l.Name]; was.State == st.State {
			st.Since = was.Since
		}
		states[l.Name], online[l.Name] = st, st.State == Online
	}
	online[""] = defaultRoute()
	k.mu.Lock()
	defer k.mu.Unlock()
	k.online, k.states = online, states
	close(k.changed)
	k.changed = make(chan struct{})
}

// judge says how a link does, and what is wrong. What it is not to be waited for is a problem of a link that is up.
func (k *Keeper) judge(l *Link, v *Dev) (state, problem string) {
	failed := k.failed[l.Name]
	switch {
	case v == nil:
		return Missing, cmp.Or(failed, l.missing())
	case !v.Up:
		return Down, cmp.Or(failed, "somebody sets it down again and again")
	case !v.Carrier:
		return NoCarrier, l.noCarrier()
	}
	state = Online
	var all []string
	add := func(text string) {
		if text != "" {
			all = append(all, text)
		}
	}
	add(failed)
	for _, p := range sorted(k.want.addresses(l)) {
		at := place{l.Name, p}
		if _, has := v.Addresses[p]; !has || k.taken[at] != nil {
			state = Waiting
		}
		if k.taken[at] != nil {
			add(inUse(p))
		}
		if w := k.watchers[at]; w != nil && w.who != "" {
			add(inUseToo(p, w.who))
		}
	}
	for _, v6 := range []bool{false, true} {
		c := k.clients[clientKey{l.Name, v6}]
		if !l.asks(v6) {
			continue
		}
		if c != nil && c.lease != nil {
			add(c.trouble)
			continue
		}
		state = Waiting
		if c != nil {
			add(noLease(v6, c.trouble))
		}
	}
	add(k.want.noShare(l))
	if l.Tunnel != nil {
		if _, open := k.want.tunnels[l.Name]; !open { // failed says why
			state = Waiting
		}
		for _, p := range l.Tunnel.Peers {
			if why := k.unknown[p.Endpoint]; why != "" {
				add(fmt.Sprintf("the peer %s is not found: %s: see that dns of a link names a server that knows it, and that there is a way there", p.Endpoint, why))
			}
		}
	}
	return state, strings.Join(all, "; ")
}

func (l *Link) missing() string {
	switch {
	case l.MatchMAC != "":
		return fmt.Sprintf("no device has the address %s: see that match_mac is right, it is plugged in, and its driver is in [boot] modules", l.MatchMAC)
	case l.Kind == VLAN:
		return fmt.Sprintf("its parent %s is not there", l.Parent)
	case l.Kind == Device:
		return "there is no such device: see that it is plugged in, and its driver is in [boot] modules"
	}
	return "it is not made yet"
}

func (l *Link) noCarrier() string {
	if l.Kind == Bridge || l.Kind == Bond {
		if len(l.Ports) == 0 {
			return "it has no ports: name some in ports"
		}
		return fmt.Sprintf("none of its ports is connected: see to the cables of %s", strings.Join(l.Ports, ", "))
	}
	return "nobody at the other end: see to the cable, or, with Wi-Fi, to what speaks WPA"
}

func noLease(v6 bool, trouble string) string {
	family := "IPv4"
	if v6 {
		family = "IPv6"
	}
	return fmt.Sprintf("no %s lease: %s", family, cmp.Or(trouble, "no server has answered yet"))
}

// noShare says why a link has no part of the prefix that it is to have one of.
func (w Wanted) noShare(l *Link) string {
	if _, has := w.share(l); l.PrefixFrom == "" || has {
		return ""
	}
	lease := w.delegation(l.PrefixFrom)
	if lease == nil {
		return fmt.Sprintf("no prefix is delegated to %s: ask its provider", l.PrefixFrom)
	}
	return fmt.Sprintf("%s, which is delegated to %s, has no subnet %d: ask for a shorter one with prefix_hint", lease.Prefix, l.PrefixFrom, subnets(w.Links, l.PrefixFrom)[l.Name])
}
