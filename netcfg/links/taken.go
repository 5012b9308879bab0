package links

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/netcfg/dhcp"
)

// place is an address of a link.
type place struct {
	link    string
	address netip.Prefix
}

// clash is an address of IPv6 that the kernel has found another host to have (duplicate address detection, RFC 4862, 5.4).
type clash struct {
	tries  int
	again  time.Time // when the address is tried once more
	trying bool      // that has begun
}

// lost is an address that the kernel has taken away since another host has it. Those that last for ever it leaves, unused.
type lost struct {
	index   int
	address netip.Prefix
}

// readLost reads a message of type RTM_DELADDR: struct ifaddrmsg, 8 bytes (linux/if_addr.h), then attributes. Addresses that
// last for ever are removed by somebody only, whatever was found about them.
func readLost(b []byte) (l lost, ok bool) {
	const failed, permanent = unix.IFA_F_DADFAILED, unix.IFA_F_PERMANENT
	if len(b) < unix.SizeofIfAddrmsg || b[2]&(failed|permanent) != failed {
		return l, false
	}
	attributes(b[unix.SizeofIfAddrmsg:], func(kind uint16, value []byte) {
		if addr, is := netip.AddrFromSlice(value); is && kind == unix.IFA_ADDRESS {
			l, ok = lost{int(binary.NativeEndian.Uint32(b[4:])), netip.PrefixFrom(addr, int(b[1]))}, true
		}
	})
	return l, ok
}

// hearGone waits for what the kernel tells of an address that was there at the last look and is not any more: it may have found
// that another host has it, and says so after it has taken it away.
func (k *Keeper) hearGone(ctx context.Context, s *State) {
	gone := k.seen != nil && k.vanished(s)
	k.seen = s
	if !gone {
		return
	}
	said := time.NewTimer(settle)
	defer said.Stop()
	for {
		select {
		case l := <-k.gone:
			k.removed = append(k.removed, l)
		case <-said.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// vanished tells whether one of the addresses that the kernel takes away so, IPv6's with an end, is gone.
func (k *Keeper) vanished(s *State) bool {
	for i := range k.want.Links {
		l := &k.want.Links[i]
		before, now := k.seen.Devices[l.Name], s.Devices[l.Name]
		if before == nil || now == nil {
			continue
		}
		for p := range k.want.addresses(l) {
			until, had := before.Addresses[p]
			if _, has := now.Addresses[p]; had && !has && p.Addr().Is6() && !until.IsZero() {
				return true
			}
		}
	}
	return false
}

// clashes finds out which addresses others have, and when those are to be tried again.
func (k *Keeper) clashes(s *State, now time.Time) {
	failed := map[place]bool{}
	for name, v := range s.Devices {
		for p := range v.Failed {
			failed[place{name, p}] = true
		}
		for _, l := range k.removed {
			if l.index == v.Index {
				failed[place{name, l.address}] = true
			}
		}
	}
	k.removed = nil
	for at := range failed {
		if l := find(k.want.Links, at.link); l != nil && !k.decline(at) && k.want.has(l, at.address) {
			k.clash(at, now)
		}
	}
	for at, c := range k.taken {
		l, v := find(k.want.Links, at.link), s.Devices[at.link]
		if l == nil || v == nil || !v.Carrier || !k.want.has(l, at.address) { // it may be another network's next
			k.free(at)
			continue
		}
		if _, has := v.Addresses[at.address]; has && !failed[at] && !v.Tentative[at.address] {
			k.o.Log("%s: nobody else has %s any more, and it is used", at.link, at.address.Addr())
			k.free(at)
		}
		c.trying = c.trying || !now.Before(c.again)
	}
	k.want.taken = k.taken
}

// clash notes that somebody has an address, still if it is known already and has been tried.
func (k *Keeper) clash(at place, now time.Time) {
	c := k.taken[at]
	if c == nil {
		c = &clash{trying: true}
		k.taken[at] = c
	}
	if c.trying {
		c.trying, c.again = false, now.Add(dhcp.Pause(c.tries))
		c.tries++
	}
	k.problem(at.taken())
}

func (k *Keeper) free(at place) {
	delete(k.taken, at)
	delete(k.told, at.taken().Error())
}

func (at place) taken() error {
	return fmt.Errorf("%s: %s", at.link, inUse(at.address))
}

func inUse(p netip.Prefix) string {
	return fmt.Sprintf("%s is in use by another host on this link, and the kernel's log (dmesg) says by which: give one of the two another address; until then it is tried again each minute", p.Addr())
}

// decline tells the client of an address that its server gave, who gets another.
func (k *Keeper) decline(at place) bool {
	c := k.clients[clientKey{at.link, true}]
	if c == nil || c.lease == nil || c.lease.Address != at.address {
		return false
	}
	rest := *c.lease
	rest.Address = netip.Prefix{}
	if c.lease = nil; rest.Prefix.IsValid() {
		c.lease = &rest
	}
	select {
	case <-c.taken: // what it has not heard yet is old
	default:
	}
	c.taken <- at.address.Addr()
	return true
}

// nextTry is when an address is to be tried again, zero for never.
func (k *Keeper) nextTry() (next time.Time) {
	for _, c := range k.taken {
		if !c.trying && (next.IsZero() || c.again.Before(next)) {
			next = c.again
		}
	}
	return next
}

func (w Wanted) has(l *Link, p netip.Prefix) bool {
	_, has := w.addresses(l)[p]
	return has
}

// watcher looks for others that have a static address of IPv4: the kernel does not.
type watcher struct {
	index int
	mac   string
	stop  context.CancelFunc
	who   string // has it too; empty: nobody
}

type rival struct {
	at   place
	from *watcher
	who  net.HardwareAddr
}

// watchStatic starts and stops watchers: of addresses that are there, on links where others can be heard.
func (k *Keeper) watchStatic(ctx context.Context, s *State) {
	there := func(at place) *Dev {
		l, v := find(k.want.Links, at.link), s.Devices[at.link]
		if l == nil || v == nil || !v.Carrier || v.Loopback || !slices.Contains(l.Addresses, at.address) {
			return nil
		}
		if _, has := v.Addresses[at.address]; !has {
			return nil
		}
		return v
	}
	for at, w := range k.watchers {
		if v := there(at); v == nil || v.Index != w.index || v.MAC != w.mac {
			w.stop()
			delete(k.watchers, at)
		}
	}
	for i := range k.want.Links {
		for _, p := range k.want.Links[i].Addresses {
			at := place{k.want.Links[i].Name, p}
			if v := there(at); v != nil && p.Addr().Is4() && k.watchers[at] == nil {
				k.watchers[at] = k.watchFor(ctx, at, v)
			}
		}
	}
}

func (k *Keeper) watchFor(ctx context.Context, at place, v *Dev) *watcher {
	ctx, stop := context.WithCancel(ctx)
	w := &watcher{index: v.Index, mac: v.MAC, stop: stop}
	mac, err := net.ParseMAC(v.MAC)
	if err != nil || len(mac) != 6 {
		return w // no ARP there
	}
	go func() {
		err := dhcp.Rivals(ctx, at.link, v.Index, mac, at.address.Addr(), func(who net.HardwareAddr) {
			select {
			case k.rivals <- rival{at, w, who}:
			case <-ctx.Done():
			}
		})
		if ctx.Err() == nil {
			k.o.Log("%s: look for others that have %s: %v", at.link, at.address.Addr(), err)
		}
	}()
	return w
}

// contested notes who has a static address too, or that nobody has it any more.
func (k *Keeper) contested(r rival) {
	if k.watchers[r.at] != r.from {
		return // it was stopped meanwhile
	}
	if r.from.who = ""; r.who != nil {
		r.from.who = r.who.String()
		k.o.Log("%s: %s", r.at.link, inUseToo(r.at.address, r.from.who))
	} else {
		k.o.Log("%s: nobody else has %s any more", r.at.link, r.at.address.Addr())
	}
}

func inUseToo(p netip.Prefix, who string) string {
	return fmt.Sprintf("%s is in use by %s too: give one of the two another address", p.Addr(), who)
}
