package dhcp

import (
	"net/netip"
	"time"
)

// An address is looked for three times in a fifth of a second, and is taken if nobody has answered by then. RFC 5227's own
// times are four to seven seconds, which a machine that starts in one can't wait; it allows less on links that are faster (2.2).
// What makes up for it: whoever claims the address in the ten seconds after it was announced has it, late answers to the
// probes too, and this machine gives it back.
const (
	probeEvery   = 70 * time.Millisecond
	probeCount   = 3
	announceNext = 2 * time.Second  // RFC 5227, 1.1: ANNOUNCE_INTERVAL
	defendEvery  = 10 * time.Second // DEFEND_INTERVAL

	firstPause, lastPause = 10 * time.Second, time.Minute // after an address that somebody has
)

// probe does the next step of trying and taking the address of offer.
func (m *machine) probe(now time.Time) *out {
	m.tries++
	o := &out{to: askProbe, lease: &m.offer}
	switch {
	case m.tries <= probeCount:
		m.wake = now.Add(probeEvery)
		return o
	case m.tries == probeCount+1:
		l := m.offer
		m.held, m.announced, m.refusals = &l, now, 0
		m.wake = now.Add(announceNext)
		if !l.Renew.IsZero() && l.Renew.Before(m.wake) {
			m.state, m.wake = bound, l.Renew
		}
	default:
		m.state, m.wake = bound, m.held.Renew
	}
	o.to, o.lease = askAnnounce, m.held
	return o
}

// rival is called when somebody else claims the address. One that is in use for long is defended once in ten seconds (RFC
// 5227, 2.4); beyond that, and while it is new, it is given back (RFC 2131, 3.1.5).
func (m *machine) rival(now time.Time) *out {
	switch m.state {
	case probing:
		return m.decline(m.offer, now)
	case bound, renewing, rebinding:
		if now.Sub(m.announced) < defendEvery {
			return m.decline(*m.held, now)
		}
		m.announced = now
		return &out{to: askAnnounce, lease: m.held}
	}
	return nil
}

// Pause is how long to wait before an address is tried again that somebody had, or another in its place, after so many tries
// that ended so before: ten seconds, and twice as long each time, to a minute.
func Pause(tries int) time.Duration { return min(firstPause<<min(tries, 3), lastPause) }

// decline waits ten seconds before it asks again, as RFC 2131 wants; and twice as long each time that another address is taken
// too, to a minute: the server may know of no other.
func (m *machine) decline(l Lease, now time.Time) *out {
	if m.held != nil && m.held.Address == l.Address {
		m.held = l.withoutAddress()
	}
	m.state, m.xid, m.began, m.tries, m.offer, m.resume = declined, m.rand(), now, 0, l, now.Add(Pause(m.refusals))
	m.refusals++
	return m.sayDeclined(now)
}

// sayDeclined sends the DECLINE: by IPv4 once, by IPv6 until the server has answered (RFC 8415, 18.2.8), four times at most.
func (m *machine) sayDeclined(now time.Time) *out {
	m.wake = m.resume
	if !m.probes && m.tries < patience-1 {
		m.wake = now.Add(time.Second << m.tries)
	}
	m.tries++
	return &out{payload: m.codec.write(sayDecline, m.xid, &m.offer, now.Sub(m.began)), to: sayDecline, lease: &m.offer}
}

// taken is called when the kernel, which looks for others that have an IPv6 address (RFC 4862, 5.4), has found one. A lease of
// an earlier client's has no server to tell yet: it is found again once one has confirmed it.
func (m *machine) taken(a netip.Addr, now time.Time) *out {
	if m.held == nil || m.held.Address.Addr() != a || len(m.held.server) == 0 {
		return nil
	}
	return m.decline(*m.held, now)
}

// withoutAddress is what remains of a lease whose address somebody has: its prefix, or nothing.
func (l Lease) withoutAddress() *Lease {
	if !l.Prefix.IsValid() {
		return nil
	}
	l.Address, l.partial = netip.Prefix{}, true
	return &l
}
