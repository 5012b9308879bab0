// Package dhcp asks DHCP servers for one link's address, by IPv4 (RFC 2131) and IPv6 (RFC 8415, IA_NA), and for a prefix for
// other links (IA_PD), and keeps them for as long as they let it. It sets nothing: a lease is plain data for the caller, who gives the address a lifetime so that
// the kernel takes it away even when nobody is there to. An address of IPv4 that another host on the link has is no lease: it
// is looked for by ARP, declined, and another one is asked for; so is one of IPv6, of which the kernel finds out and the caller tells.
//
// One state machine serves both families: their exchanges differ in names and bytes only. It is a pure function of the
// time, the messages that came in and its random numbers; sockets are in packet.go, arp.go and client.go.
package dhcp

import (
	"bytes"
	"net/netip"
	"slices"
	"time"
)

// Lease is what a server gave.
type Lease struct {
	Address netip.Prefix // IPv6: always /128, the link's prefix is the router's to announce
	Routes  []Route      // IPv4 only
	DNS     []netip.Addr
	Search  []string // domains, without the last dot
	MTU     int      // bytes; 0: not given

	// Prefix is for other links (IPv6 only). A lease may have one without Address, or be without.
	Prefix                       netip.Prefix
	PrefixPreferred, PrefixUntil time.Time // zero: for ever

	// Times are zero in a lease for ever. Until is the end of what ends first.
	Renew, Rebind, Until time.Time

	server  []byte // IPv4: its address; IPv6: its DUID
	partial bool   // something that was asked for is not there
}

// Route is a way that the server names; Via is not valid where the destination is on the link itself.
type Route struct {
	To  netip.Prefix
	Via netip.Addr
}

// Same says whether two leases set the same things, times apart.
func (l *Lease) Same(o *Lease) bool {
	if l == nil || o == nil {
		return l == o
	}
	return l.Address == o.Address && l.Prefix == o.Prefix && l.MTU == o.MTU && slices.Equal(l.Routes, o.Routes) && slices.Equal(l.DNS, o.DNS) && slices.Equal(l.Search, o.Search)
}

// setTimes fills in when to renew and rebind: what the server says if that makes sense, else half and 7/8 of the lease.
func (l *Lease) setTimes(now time.Time, t1, t2, valid uint32) {
	if valid == forever {
		return
	}
	if t2 == 0 || t2 >= valid {
		t2 = valid - valid/8
	}
	if t1 == 0 || t1 > t2 {
		t1 = min(valid/2, t2)
	}
	l.Renew, l.Rebind, l.Until = later(now, t1), later(now, t2), later(now, valid)
}

const forever = 1<<32 - 1 // of a lifetime in seconds

// later is zero for ever.
func later(now time.Time, seconds uint32) time.Time {
	if seconds == forever {
		return time.Time{}
	}
	return now.Add(time.Duration(seconds) * time.Second)
}

// lacks says whether a part that o has is not there any more.
func (l *Lease) lacks(o *Lease) bool {
	return o != nil && (o.Address.IsValid() && !l.Address.IsValid() || o.Prefix.IsValid() && !l.Prefix.IsValid())
}

// ask is what the client may say to servers.
type ask int

const (
	askAny     ask = iota // who has an address? (DISCOVER, SOLICIT)
	askOffered            // I take yours (REQUEST)
	askSame               // may I still have this one? to all, as nobody knows whose it was (INIT-REBOOT; REBIND)
	askRenew              // longer, to the server that gave it
	askRebind             // longer, to all
	sayDecline            // somebody has it already (DECLINE)

	// IPv4 only, and not to servers (RFC 5227):
	askProbe    // who has this address?
	askAnnounce // it is mine
)

// verdict is what servers may answer.
type verdict int

const (
	offered verdict = iota
	granted
	refused
)

// codec writes and reads one family's messages.
type codec interface {
	// write makes a message. l is the lease in question, nil for askAny; since is how long this exchange lasts already.
	write(a ask, xid uint32, l *Lease, since time.Duration) []byte
	// read gives ok only for a well-formed answer to xid that is meant for this client.
	read(b []byte, xid uint32, now time.Time) (v verdict, l Lease, ok bool)
}

type state int

const (
	selecting state = iota
	requesting
	rebooting
	bound
	renewing
	rebinding
	probing  // an address that was granted is looked for on the link, and is said to be ours
	declined // somebody had it
)

// machine is the client's side of an exchange.
type machine struct {
	codec codec
	rand  func() uint32

	state state
	xid   uint32
	began time.Time // of this exchange
	tries int
	wake  time.Time // zero: never
	offer Lease
	held  *Lease

	probes    bool      // an address is used only if nobody on the link has it (IPv4; of IPv6 the kernel sees to that)
	announced time.Time // when it was last said that held is ours
	refusals  int       // addresses that others had, one after the other
	resume    time.Time // when declined ends
}

// out is a message to send; server is valid where it goes to one server only.
type out struct {
	payload []byte
	to      ask
	lease   *Lease
}

// begin starts anew: when the client does, and when the link's carrier is back, for it may be another network's.
func (m *machine) begin(now time.Time) *out {
	if m.held != nil {
		return m.enter(rebooting, now)
	}
	return m.enter(selecting, now)
}

func (m *machine) enter(s state, now time.Time) *out {
	m.state, m.began, m.tries, m.xid, m.offer = s, now, 0, m.rand(), Lease{}
	return m.say(now)
}

// say sends what the state wants to say, and plans when to say it again.
func (m *machine) say(now time.Time) *out {
	o := &out{to: askAny}
	m.wake = now.Add(m.backoff())
	switch m.state {
	case requesting:
		o.to, o.lease = askOffered, &m.offer
	case rebooting:
		o.to, o.lease = askSame, m.held
	case renewing:
		o.to, o.lease = askRenew, m.held
		m.wake = again(now, m.held.Rebind)
	case rebinding:
		o.to, o.lease = askRebind, m.held
		m.wake = again(now, m.held.Until)
	}
	m.tries++
	if m.held != nil && !m.held.Until.IsZero() && m.held.Until.Before(m.wake) {
		m.wake = m.held.Until
	}
	o.payload = m.codec.write(o.to, m.xid, o.lease, now.Sub(m.began))
	return o
}

// again is half of what remains until then, and a minute at least (RFC 2131, 4.4.5).
func again(now, end time.Time) time.Time {
	next := now.Add(max(end.Sub(now)/2, time.Minute))
	if !end.IsZero() && next.After(end) {
		return end
	}
	return next
}

// backoff is 1, 2, 4 … 64 seconds, a tenth more or less, so that a street whose power is back does not ask in step.
func (m *machine) backoff() time.Duration {
	d := time.Second << min(m.tries, 6)
	return d - d/10 + time.Duration(m.rand())*d/5>>32
}

// patience is how often a state asks before another is tried.
const patience = 4

// missing is how often a server that gave an address and no prefix, or a prefix and no address, is asked for the other.
const missing = 10 * time.Minute

// request takes the offer. The exchange is the same, and its number stays (RFC 2131, 4.4.1).
func (m *machine) request(now time.Time) *out {
	m.state, m.tries = requesting, 0
	return m.say(now)
}

// tick is called at wake.
func (m *machine) tick(now time.Time) *out {
	if m.held != nil && !m.held.Until.IsZero() && !now.Before(m.held.Until) {
		m.held = nil
		if m.state != selecting && m.state != requesting {
			return m.enter(selecting, now)
		}
	}
	switch m.state {
	case probing:
		return m.probe(now)
	case declined:
		if now.Before(m.resume) {
			return m.sayDeclined(now)
		}
		if m.held != nil { // a prefix: the server may give an address to it
			return m.enter(renewing, now)
		}
		return m.enter(selecting, now)
	case bound:
		return m.enter(renewing, now)
	case renewing:
		if !m.held.Rebind.IsZero() && !now.Before(m.held.Rebind) {
			return m.enter(rebinding, now)
		}
	case selecting:
		if m.offer.partial { // nobody has offered more
			return m.request(now)
		}
	case requesting, rebooting:
		if m.tries >= patience {
			return m.enter(selecting, now)
		}
	}
	return m.say(now)
}

// hear is called with what came in.
func (m *machine) hear(b []byte, now time.Time) *out {
	if m.state == bound || m.state == probing || m.state == declined && m.probes {
		return nil
	}
	v, l, ok := m.codec.read(b, m.xid, now)
	switch {
	case !ok:
	case m.state == declined:
		m.wake = m.resume // the server has heard
	case m.state == requesting && !bytes.Equal(l.server, m.offer.server), m.state == renewing && !bytes.Equal(l.server, m.held.server):
		// another server than the one that was asked has no say
	case v == offered && m.state == selecting:
		if m.offer.server == nil || !l.partial {
			m.offer = l
		}
		if !l.partial {
			return m.request(now)
		}
	case v == granted && m.state != selecting:
		had := m.held != nil && m.held.Address == l.Address
		if m.probes && (!had || m.state == rebooting) { // RFC 5227, 2.1: also when the link was away
			m.state, m.offer, m.tries = probing, l, 0
			if had {
				m.held, m.announced = &l, now // it stays in use meanwhile
			}
			return m.probe(now)
		}
		if had && l.Address.IsValid() {
			m.refusals = 0 // it has been in use
		}
		lost := l.lacks(m.held)
		m.state, m.held, m.wake = bound, &l, l.Renew
		if lost {
			return m.enter(renewing, now) // a server may give another
		}
		if again := now.Add(missing); l.partial && (m.wake.IsZero() || m.wake.After(again)) {
			m.wake = again
		}
	case v == refused && m.state != selecting:
		m.held = nil
		return m.enter(selecting, now)
	}
	return nil
}
