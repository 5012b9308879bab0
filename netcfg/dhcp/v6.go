package dhcp

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"time"
)

// Types of messages and options of RFC 8415; 23 and 24 of RFC 3646.
const (
	solicit6, advertise6, request6, renew6, rebind6, reply6, decline6        = 1, 2, 3, 5, 6, 7, 9
	opt6Client, opt6Server, opt6IANA, opt6Addr, opt6Wish                     = 1, 2, 3, 5, 6
	opt6Elapsed, opt6Status, opt6DNS, opt6Search                      uint16 = 8, 13, 23, 24
	opt6IAPD, opt6Prefix                                                     = 25, 26
)

type codec6 struct {
	duid     []byte
	iaid     uint32
	delegate bool // a prefix is asked for too
	hint     int  // its length, 0: the server's choice
}

// newCodec6 is for a client known by a link's hardware address (DUID-LL, RFC 8415, 11.4) and name.
func newCodec6(hw net.HardwareAddr, link string) codec6 {
	iaid := uint32(2166136261) // FNV-1a
	for _, c := range []byte(link) {
		iaid = (iaid ^ uint32(c)) * 16777619
	}
	return codec6{duid: append([]byte{0, 3, 0, 1}, hw...), iaid: iaid}
}

func option6(b []byte, code uint16, value []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, code)
	b = binary.BigEndian.AppendUint16(b, uint16(len(value)))
	return append(b, value...)
}

func (c codec6) write(a ask, xid uint32, l *Lease, since time.Duration) []byte {
	kind := map[ask]uint32{askAny: solicit6, askOffered: request6, askSame: rebind6, askRenew: renew6, askRebind: rebind6, sayDecline: decline6}[a]
	b := binary.BigEndian.AppendUint32(nil, kind<<24|xid&0xffffff)
	b = option6(b, opt6Client, c.duid)
	if a == askOffered || a == askRenew || a == sayDecline {
		b = option6(b, opt6Server, l.server)
	}
	b = option6(b, opt6Elapsed, binary.BigEndian.AppendUint16(nil, uint16(min(since/(10*time.Millisecond), 0xffff))))
	if a != sayDecline {
		b = option6(b, opt6Wish, []byte{0, byte(opt6DNS), 0, byte(opt6Search)})
	}
	ia := binary.BigEndian.AppendUint32(nil, c.iaid)
	ia = append(ia, make([]byte, 8)...)
	na, pd := ia, slices.Clone(ia)
	if l != nil && l.Address.IsValid() {
		na = option6(na, opt6Addr, append(l.Address.Addr().AsSlice(), make([]byte, 8)...))
	}
	b = option6(b, opt6IANA, na)
	if !c.delegate || a == sayDecline {
		return b
	}
	prefix := netip.PrefixFrom(netip.IPv6Unspecified(), c.hint)
	if l != nil && l.Prefix.IsValid() {
		prefix = l.Prefix
	}
	if prefix.Bits() > 0 {
		pd = option6(pd, opt6Prefix, append(append(make([]byte, 8), byte(prefix.Bits())), prefix.Addr().AsSlice()...))
	}
	return option6(b, opt6IAPD, pd)
}

// options6 calls f for each option, and says whether they are well-formed.
func options6(b []byte, f func(code uint16, value []byte)) bool {
	for len(b) > 0 {
		if len(b) < 4 {
			return false
		}
		n := int(binary.BigEndian.Uint16(b[2:]))
		if len(b) < 4+n {
			return false
		}
		f(binary.BigEndian.Uint16(b), b[4:4+n])
		b = b[4+n:]
	}
	return true
}

func (c codec6) read(b []byte, xid uint32, now time.Time) (v verdict, l Lease, ok bool) {
	if len(b) < 4 || binary.BigEndian.Uint32(b)&0xffffff != xid&0xffffff {
		return 0, l, false
	}
	switch b[0] {
	case advertise6:
		v = offered
	case reply6:
		v = granted
	default:
		return 0, l, false
	}
	mine, all, status := false, 0, 0 // statuses of the message, and of what this client wants
	t := times6{forever, forever, forever}
	ok = options6(b[4:], func(code uint16, value []byte) {
		switch code {
		case opt6Client:
			mine = bytes.Equal(value, c.duid)
		case opt6Server:
			l.server = slices.Clone(value)
		case opt6DNS:
			l.DNS = Addresses(value, 16)
		case opt6Search:
			l.Search = Names(value)
		case opt6Status:
			all = status6(value)
		case opt6IANA:
			if len(value) >= 12 && binary.BigEndian.Uint32(value) == c.iaid {
				status = max(status, readIA(value, &l, &t, now))
			}
		case opt6IAPD:
			if len(value) >= 12 && c.delegate && binary.BigEndian.Uint32(value) == c.iaid {
				status = max(status, readIA(value, &l, &t, now))
			}
		}
	})
	has := all == 0 && (l.Address.IsValid() || l.Prefix.IsValid())
	status = max(status, all)
	l.partial = !l.Address.IsValid() || c.delegate && !l.Prefix.IsValid()
	l.setTimes(now, t.renew, t.rebind, t.valid)
	switch {
	case !ok || !mine || len(l.server) == 0:
		return 0, l, false
	case has: // servers may have one and not the other
		return v, l, true
	case v == granted && (status == noBinding6 || status == notOnLink6 || status == 0): // the last: its lifetime is over
		return refused, l, true
	}
	return 0, l, false // not now, or an advertisement of nothing
}

// Statuses of RFC 8415, 21.13, that take an address away; others say that something doesn't work now.
const noBinding6, notOnLink6 = 3, 4

func status6(value []byte) int {
	if len(value) < 2 {
		return 0
	}
	return int(binary.BigEndian.Uint16(value))
}

// times6 are the shortest of all that a server gave, in seconds.
type times6 struct{ renew, rebind, valid uint32 }

// readIA takes the first address that is still valid, or the prefix that is preferred for the longest time: beside a new one
// there may be an old one, which is on its way out.
func readIA(ia []byte, l *Lease, t *times6, now time.Time) (status int) {
	taken, preferred, valid := false, uint32(0), uint32(0)
	options6(ia[12:], func(code uint16, value []byte) {
		if code == opt6Status {
			status = max(status, status6(value))
		}
	})
	if status != 0 {
		return status
	}
	options6(ia[12:], func(code uint16, value []byte) {
		switch {
		case code == opt6Addr && len(value) >= 24 && !l.Address.IsValid():
			addr, _ := netip.AddrFromSlice(value[:16])
			if p, v := number(value[16:20]), number(value[20:24]); usable(addr) && !addr.Is4In6() && v >= shortest {
				l.Address = netip.PrefixFrom(addr, 128)
				taken, preferred, valid = true, p, v
			}
		case code == opt6Prefix && len(value) >= 25:
			addr, _ := netip.AddrFromSlice(value[9:25])
			prefix, err := addr.Prefix(int(value[8]))
			if p, v := number(value[:4]), number(value[4:8]); err == nil && delegable(prefix) && v >= shortest && p <= v && (!taken || p > preferred) {
				l.Prefix, l.PrefixPreferred, l.PrefixUntil = prefix, later(now, p), later(now, v)
				taken, preferred, valid = true, p, v
			}
		}
	})
	if !taken {
		return 0
	}
	t.valid = min(t.valid, valid)
	t1, t2 := number(ia[4:8]), number(ia[8:12])
	if t1 == 0 && preferred != forever { // RFC 8415, 21.4
		t1 = preferred / 2
	}
	if t2 == 0 && preferred != forever {
		t2 = preferred / 5 * 4
	}
	if t1 != 0 {
		t.renew = min(t.renew, t1)
	}
	if t2 != 0 {
		t.rebind = min(t.rebind, t2)
	}
	return 0
}

// delegable says whether links may have parts of a prefix: unicast addresses, of which a site may have so many.
func delegable(p netip.Prefix) bool {
	return p.Bits() >= 8 && p.Bits() <= 64 && usable(p.Addr()) && !p.Addr().Is4In6() && !p.Addr().IsLinkLocalUnicast()
}
