package dhcp

import "time"

// An address is looked for three times in a fifth of a second, and is taken if nobody has answered by then. RFC 5227's own
// times are four to seven seconds, which a machine that starts in one can't wait; it allows less on links that are faster (2.2).
// What makes up for it: whoever claims the address in the ten seconds after it was announced has it, late answers to the
// probes too, and this machine gives it back.
const (
	probeEvery   = 70 * time.Millisecond
	probeCount   = 3
	announceNext = 2 * time.Second  // RFC 5227, 1.1: ANNOUNCE_INTERVAL
	defendEvery  = 10 * time.Second // DEFEND_INTERVAL
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

// decline waits ten seconds before it asks again, as RFC 2131 wants; and twice as long each time that another address is taken
// too, to a minute: the server may know of no other.
func (m *machine) decline(l Lease, now time.Time) *out {
	if m.held != nil && m.held.Address == l.Address {
		m.held = nil
	}
	wait := min(10*time.Second<<min(m.refusals, 3), time.Minute)
	m.refusals++
	m.state, m.xid, m.wake = declined, m.rand(), now.Add(wait)
	return &out{payload: m.codec.write(sayDecline, m.xid, &l, 0), to: sayDecline, lease: &l}
}
