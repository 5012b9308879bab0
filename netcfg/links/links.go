// Package links brings the machine's own links to a desired state and keeps them there: addresses, routes and rules of
// devices, and bridges, bonds, VLANs and WireGuard tunnels made of them. Set says what is wanted; what differs from what
// the kernel has is found by a pure function (Diff) and changed, now and whenever the kernel tells that something has
// changed: a device that appears late is set up then, and what somebody takes away comes back. Where nothing differs
// nothing is sent.
//
// Nothing of others is touched. Links that coble made have the alias coble link, its routes and rules a protocol number of
// their own, and the addresses that it gave are remembered in a file of this boot: so that an engine that starts anew, with
// another configuration maybe, removes what the old one made and nothing else. Addresses by DHCP have a lifetime in the
// kernel, and end without anybody's doing.
//
// It never waits: one link that does not come holds up none of the others, and whoever needs one may ask for it (Await).
package links

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/netcfg/dhcp"
)

// Options are the same for as long as a Keeper lives.
type Options struct {
	Host    string // the machine's name, for DHCP servers and mDNS
	Resolv  string // path of resolv.conf; empty: it is not written
	Memory  string // path of a file that lives as long as the kernel's state, in /run; empty: nothing is remembered
	Log     func(format string, args ...any)
	Changed func(Change) // is told of each change that was made; may be nil
}

// Keeper keeps links as they are wanted.
type Keeper struct {
	o      Options
	set    chan request
	leash  chan leased
	found  chan endpoint
	heard  chan advert
	gone   chan lost
	rivals chan rival
	ended  chan struct{}
	stop   context.CancelFunc

	// What follows is the loop's own.
	want     Wanted
	memory   memory
	clients  map[clientKey]*client
	voices   map[string]*voice         // that say the machine's name, by link
	saying   sync.WaitGroup            // voices that have not ended
	names    map[string]netip.AddrPort // endpoints that are written as names; not valid: being asked for
	unknown  map[string]string         // why there is none for a name
	forget   context.CancelFunc        // ends that asking
	told     map[string]bool           // problems that were logged
	failed   map[string]string         // what could not be done this time, by link
	removed  []lost                    // addresses, since the last look
	seen     *State                    // at the last look
	taken    map[place]*clash          // addresses that others have
	watchers map[place]*watcher        // for others that have static addresses
	resolv   string                    // what was written last

	staleAfter, lookEvery time.Duration // constants, but for tests

	mu      sync.Mutex
	online  map[string]bool   // links that are as they are wanted; "" stands for the network
	states  map[string]Status // of all that are wanted
	changed chan struct{}     // closed and replaced when online changes
}

type clientKey struct {
	link string
	v6   bool
}

type client struct {
	index   int
	mac     string
	carrier bool
	back    chan struct{}
	stop    context.CancelFunc
	lease   *dhcp.Lease

	trouble string          // that keeps it from a lease
	taken   chan netip.Addr // addresses that somebody has; the loop alone writes

	delegate bool
	hint     int
}

// memory is what the next engine has to know.
type memory struct {
	Owned   Owned
	Leases  []lease
	Adverts map[string]advert // by link and what it is about
	Shares  map[string]share  // of delegated prefixes, by link
	Old     map[string][]share
}

type lease struct {
	Link  string
	Lease *dhcp.Lease
}

type request struct {
	config Config
	heard  chan struct{} // closed by the loop
}

type endpoint struct {
	name string
	addr netip.AddrPort
	err  error
}

type leased struct {
	key     clientKey
	from    *client
	lease   *dhcp.Lease
	trouble string // nothing else: lease does not count
}

// Start begins to watch; until Set nothing is wanted and nothing is done. Close ends it.
func Start(o Options) (*Keeper, error) {
	s, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
		unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE, unix.RTNLGRP_ND_USEROPT)
	if err != nil {
		return nil, fmt.Errorf("watch links: %w", err)
	}
	k := &Keeper{
		o: o, staleAfter: staleAfter, lookEvery: lookEvery, forget: func() {},
		set: make(chan request), leash: make(chan leased), found: make(chan endpoint), heard: make(chan advert),
		gone: make(chan lost), rivals: make(chan rival), ended: make(chan struct{}), changed: make(chan struct{}),
		clients: map[clientKey]*client{}, voices: map[string]*voice{}, names: map[string]netip.AddrPort{}, unknown: map[string]string{},
		told: map[string]bool{}, taken: map[place]*clash{}, watchers: map[place]*watcher{}, online: map[string]bool{},
	}
	if b, err := os.ReadFile(o.Memory); err == nil {
		if err := json.Unmarshal(b, &k.memory); err != nil {
			k.problem(fmt.Errorf("read %s: %w; addresses of before stay", o.Memory, err))
		}
	}
	if k.memory.Adverts == nil {
		k.memory.Adverts = map[string]advert{}
	}
	ctx, stop := context.WithCancel(context.Background())
	k.stop = stop
	context.AfterFunc(ctx, s.Close)
	events := make(chan struct{}, 1)
	go k.watch(ctx, s, events)
	go k.loop(ctx, events)
	return k, nil
}

// Set says what is wanted from now on, and returns before that is so; but nothing is online any more then for Await that has
// not been looked at again. Links that stand on each other in a circle are left out and told of in the log.
func (k *Keeper) Set(c Config) {
	heard := make(chan struct{})
	select {
	case k.set <- request{c, heard}:
		<-heard
	case <-k.ended:
	}
}

// Close ends the keeper, and leaves all as it is. Others on the links are told goodbye.
func (k *Keeper) Close() {
	k.stop()
	<-k.ended
}

// Await returns when a link is up with all that it is to have, or, for the empty name, when there is a default route.
func (k *Keeper) Await(ctx context.Context, link string) error {
	for {
		k.mu.Lock()
		ok, changed := k.online[link], k.changed
		k.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		case <-k.ended:
			return errors.New("links are not kept any more")
		}
	}
}

// watch turns what the kernel tells into events: one is as good as many.
func (k *Keeper) watch(ctx context.Context, s *nl.NetlinkSocket, events chan<- struct{}) {
	for ctx.Err() == nil {
		messages, _, err := s.Receive()
		if err != nil && !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.EINTR) { // ENOBUFS: some were lost
			if ctx.Err() == nil {
				time.Sleep(time.Second)
			}
		}
		about := err != nil
		for _, m := range messages {
			switch m.Header.Type {
			case unix.RTM_NEWNDUSEROPT:
				if a, ok := readAdvert(m.Data, time.Now()); ok {
					select {
					case k.heard <- a:
					case <-ctx.Done():
					}
				}
			case unix.RTM_NEWROUTE, unix.RTM_DELROUTE: // a router's thousands are others'
				about = about || len(m.Data) >= unix.SizeofRtMsg && m.Data[5] == protocol || len(m.Data) >= unix.SizeofRtMsg && m.Data[1] == 0
			case unix.RTM_DELADDR:
				if l, ok := readLost(m.Data); ok {
					select {
					case k.gone <- l:
					case <-ctx.Done():
					}
				}
				about = true
			default:
				about = true
			}
		}
		if about {
			select {
			case events <- struct{}{}:
			default:
			}
		}
	}
}

// settle is how long the loop waits for more before it looks: links come with many messages. Where looking takes long, since
// there are a thousand links of containers, it waits longer: it is to take no more than a twentieth of a processor.
const (
	settle    = 30 * time.Millisecond
	maxSettle = time.Second
)

const firstRetry, lastRetry = time.Second, time.Minute

func (k *Keeper) loop(ctx context.Context, events <-chan struct{}) {
	defer close(k.ended)
	defer k.saying.Wait() // they say goodbye
	retry := firstRetry
	var timer, ends <-chan time.Time // for another try; for an advertisement's end
	started, took := false, time.Duration(0)
	for {
		select {
		case <-ctx.Done():
			return
		case r := <-k.set:
			k.setWanted(r.config)
			close(r.heard)
			k.lookUp(ctx)
			started, retry = true, firstRetry
		case l := <-k.leash:
			k.take(l)
		case <-events:
			if started && k.idle() {
				k.removed = nil
				continue
			}
			time.Sleep(min(max(settle, 20*took), maxSettle))
			select {
			case <-events:
			default:
			}
		case e := <-k.found:
			k.point(e)
		case a := <-k.heard:
			if s, err := read(time.Now(), k.want.Links); err == nil {
				k.advertised(a, s)
			}
		case l := <-k.gone:
			k.removed = append(k.removed, l)
			continue // with what the kernel tells next
		case r := <-k.rivals:
			k.contested(r)
		case <-timer:
		case <-ends:
		}
		if !started {
			continue
		}
		timer = nil
		began := time.Now()
		good := k.reconcile(ctx)
		took = time.Since(began)
		ends = nil
		_, next := k.adverts(time.Now())
		if try := k.nextTry(); next.IsZero() || !try.IsZero() && try.Before(next) {
			next = try
		}
		if !next.IsZero() {
			ends = time.After(time.Until(next))
		}
		if !good {
			timer = time.After(retry)
			retry = min(2*retry, lastRetry)
		} else {
			retry = firstRetry
		}
	}
}

// idle says that there is nothing to keep.
func (k *Keeper) idle() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.want.Links) == 0 && len(k.memory.Owned) == 0 && k.online[""]
}

func (k *Keeper) setWanted(c Config) {
	order, err := Order(c.Links)
	k.told = map[string]bool{}
	k.want = Wanted{Links: order, Leases: map[string][]*dhcp.Lease{}}
	for _, c := range k.taken {
		c.again = time.Time{} // maybe somebody has seen to it
	}
	k.problem(err)
	for key, cl := range k.clients {
		if l := find(order, key.link); l == nil || !l.asks(key.v6) || key.v6 && (cl.delegate != delegates(order, key.link) || cl.hint != l.PrefixHint) {
			cl.stop()
			delete(k.clients, key)
		}
	}
	for name, v := range k.voices {
		if l := find(order, name); l == nil || !l.Announce {
			v.stop()
			delete(k.voices, name)
		}
	}
	k.forget()
	k.names, k.unknown = map[string]netip.AddrPort{}, map[string]string{}
	k.mu.Lock()
	k.online = map[string]bool{}
	k.mu.Unlock()
}

// take notes what a server gave, or took away.
func (k *Keeper) take(l leased) {
	if k.clients[l.key] != l.from {
		return // it was stopped meanwhile
	}
	if l.trouble != "" {
		l.from.trouble = l.trouble
		return
	}
	if l.lease != nil {
		l.from.trouble = ""
	}
	l.from.lease = l.lease
	if l.lease == nil {
		k.o.Log("dhcp on %s: the address is lost", l.key.link)
	}
}

// hear passes on what a client says.
func (k *Keeper) hear(ctx context.Context, l leased) {
	select {
	case k.leash <- l:
	case <-ctx.Done():
	}
}

func (k *Keeper) problem(err error) {
	if err != nil && !k.told[err.Error()] {
		k.told[err.Error()] = true
		k.o.Log("%v", err)
	}
}

// reconcile looks and changes until nothing differs. It returns false where another try may help.
func (k *Keeper) reconcile(ctx context.Context) bool {
	k.failed = map[string]string{}
	good := k.openTunnels()
	var s *State
	for range 5 { // renames, then the rest, then looking whether that was all
		now := time.Now()
		var err error
		if s, err = read(now, k.want.Links); err != nil {
			k.problem(err)
			return false
		}
		k.hearGone(ctx, s)
		k.runClients(ctx, s)
		k.clashes(s, now)
		k.want.Leases = k.leases()
		k.want.Adverts, _ = k.adverts(now)
		k.share(now)
		changes := Diff(k.want, s, k.memory.Owned, now)
		k.remember(s)
		if len(changes) == 0 {
			break
		}
		if !k.apply(changes, now) {
			good = false
			break
		}
	}
	if text := k.want.resolv(); k.o.Resolv != "" && (text != "" || k.resolv != "") {
		k.problem(replace(k.o.Resolv, text))
		k.resolv = text
	}
	k.announce(ctx, s)
	k.watchStatic(ctx, s)
	k.tell(s, time.Now())
	return good
}

// leases are those that clients hold, IPv4's first.
func (k *Keeper) leases() map[string][]*dhcp.Lease {
	all := map[string][]*dhcp.Lease{}
	for _, v6 := range []bool{false, true} {
		for key, c := range k.clients {
			if key.v6 == v6 && c.lease != nil {
				all[key.link] = append(all[key.link], c.lease)
			}
		}
	}
	return all
}

func (k *Keeper) apply(changes []Change, now time.Time) (good bool) {
	good = true
	for _, c := range changes {
		if err := apply(c, now); err != nil {
			k.problem(err)
			k.failed[c.Link] = strings.TrimPrefix(err.Error(), c.Link+": ")
			good = false
		} else if k.o.Changed != nil {
			k.o.Changed(c)
		}
	}
	return good
}

// remember notes, before anything is changed, which addresses are coble's: those that are to come, and those that were
// and are still there.
func (k *Keeper) remember(s *State) {
	m := memory{Owned: Owned{}, Adverts: k.want.Adverts, Shares: k.memory.Shares, Old: k.memory.Old}
	for i := range k.want.Links {
		l := &k.want.Links[i]
		m.Owned[l.Name] = sorted(k.want.addresses(l))
		for _, l4 := range k.want.Leases[l.Name] {
			m.Leases = append(m.Leases, lease{l.Name, l4})
		}
	}
	for name, was := range k.memory.Owned {
		for _, p := range was {
			if v := s.Devices[name]; v != nil && !slices.Contains(m.Owned[name], p) {
				if _, has := v.Addresses[p]; has {
					m.Owned[name] = append(m.Owned[name], p)
				}
			}
		}
	}
	k.memory = m
	if k.o.Memory == "" {
		return
	}
	b, err := json.Marshal(m)
	if err == nil {
		err = replace(k.o.Memory, string(b))
	}
	k.problem(err)
}

func (l *Link) asks(v6 bool) bool {
	if v6 {
		return l.DHCP6
	}
	return l.DHCP4
}

// runClients starts and stops DHCP clients, and tells them of carrier that is back.
func (k *Keeper) runClients(ctx context.Context, s *State) {
	for i := range k.want.Links {
		l := &k.want.Links[i]
		for _, key := range []clientKey{{l.Name, false}, {l.Name, true}} {
			if !l.asks(key.v6) {
				continue
			}
			v, c := s.Devices[l.Name], k.clients[key]
			if c != nil && (v == nil || c.index != v.Index || c.mac != v.MAC) {
				c.stop()
				delete(k.clients, key)
				c = nil
			}
			if v == nil {
				continue
			}
			if c == nil {
				k.startClient(ctx, key, v)
				continue
			}
			if v.Carrier && !c.carrier {
				select {
				case c.back <- struct{}{}:
				default: // it has not heard of the last time yet
				}
			}
			c.carrier = v.Carrier
		}
	}
}

func (k *Keeper) startClient(ctx context.Context, key clientKey, v *Dev) {
	mac, err := net.ParseMAC(v.MAC)
	if err != nil || len(mac) != 6 {
		k.problem(fmt.Errorf("dhcp on %s: a link without an Ethernet address can't ask", key.link))
		return
	}
	ctx, stop := context.WithCancel(ctx)
	c := &client{index: v.Index, mac: v.MAC, carrier: v.Carrier, back: make(chan struct{}, 1), taken: make(chan netip.Addr, 1), stop: stop}
	k.clients[key] = c
	if key.v6 {
		c.delegate, c.hint = delegates(k.want.Links, key.link), find(k.want.Links, key.link).PrefixHint
	}
	d := dhcp.Client{
		Link: key.link, Index: v.Index, MAC: mac, Host: k.o.Host, V6: key.v6, Log: k.o.Log,
		Delegate: c.delegate, PrefixLength: c.hint, Taken: c.taken,
		Got: func(l *dhcp.Lease) {
			k.hear(ctx, leased{key: key, from: c, lease: l})
		},
		Trouble: func(text string) { k.hear(ctx, leased{key: key, from: c, trouble: text}) },
	}
	for _, m := range k.memory.Leases { // what an earlier engine's client got, if it is still there
		if m.Link != key.link || m.Lease == nil || m.Lease.Address.Addr().Is4() == key.v6 {
			continue
		}
		if m.Lease = stillHeld(m.Lease, v, d.Delegate, time.Now()); m.Lease != nil {
			d.Held, c.lease = m.Lease, m.Lease
		}
	}
	go d.Run(ctx, c.back)
}

// defaultRoute says whether there is one, whoever made it.
func defaultRoute() bool {
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		found := false
		netlink.RouteListFilteredIter(family, &netlink.Route{}, netlink.RT_FILTER_DST, func(r netlink.Route) bool {
			found = r.LinkIndex != 0 || len(r.MultiPath) > 0
			return !found
		})
		if found {
			return true
		}
	}
	return false
}
