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
	solicit6, advertise6, request6, renew6, rebind6, reply6        = 1, 2, 3, 5, 6, 7
	opt6Client, opt6Server, opt6IANA, opt6Addr, opt6Wish           = 1, 2, 3, 5, 6
	opt6Elapsed, opt6Status, opt6DNS, opt6Search            uint16 = 8, 13, 23, 24
)

type codec6 struct {
	duid []byte
	iaid uint32
}

// newCodec6 is for a client known by a link's hardware address (DUID-LL, RFC 8415, 11.4) and name.
func newCodec6(hw net.HardwareAddr, link string) codec6 {
	iaid := uint32(2166136261) // FNV-1a
	for _, c := range []byte(link) {
		iaid = (iaid ^ uint32(c)) * 16777619
	}
	return codec6{append([]byte{0, 3, 0, 1}, hw...), iaid}
}

func option6(b []byte, code uint16, value []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, code)
	b = binary.BigEndian.AppendUint16(b, uint16(len(value)))
	return append(b, value...)
}

func (c codec6) write(a ask, xid uint32, l *Lease, since time.Duration) []byte {
	kind := map[ask]uint32{askAny: solicit6, askOffered: request6, askSame: rebind6, askRenew: renew6, askRebind: rebind6}[a]
	b := binary.BigEndian.AppendUint32(nil, kind<<24|xid&0xffffff)
	b = option6(b, opt6Client, c.duid)
	if a == askOffered || a == askRenew {
		b = option6(b, opt6Server, l.server)
	}
	b = option6(b, opt6Elapsed, binary.BigEndian.AppendUint16(nil, uint16(min(since/(10*time.Millisecond), 0xffff))))
	b = option6(b, opt6Wish, []byte{0, byte(opt6DNS), 0, byte(opt6Search)})
	ia := make([]byte, 12)
	binary.BigEndian.PutUint32(ia, c.iaid)
	if l != nil {
		ia = option6(ia, opt6Addr, append(l.Address.Addr().AsSlice(), make([]byte, 8)...))
	}
	return option6(b, opt6IANA, ia)
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
	mine, status := false, 0 // of the message, or of what concerns this client's address
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
			status = max(status, status6(value))
		case opt6IANA:
			if len(value) >= 12 && binary.BigEndian.Uint32(value) == c.iaid {
				status = max(status, readIA(value, &l, now))
			}
		}
	})
	switch {
	case !ok || !mine || len(l.server) == 0:
		return 0, l, false
	case status == 0 && l.Address.IsValid():
		return v, l, true
	case v == granted && (status == noBinding6 || status == notOnLink6 || status == 0): // the last: its lifetime is over
		return refused, l, true
	}
	return 0, l, false // not now, or an advertisement without an address
}

// Statuses of RFC 8415, 21.13, that take an address away; others say that something doesn't work now.
const noBinding6, notOnLink6 = 3, 4

func status6(value []byte) int {
	if len(value) < 2 {
		return 0
	}
	return int(binary.BigEndian.Uint16(value))
}

// readIA takes the first address that is still valid.
func readIA(ia []byte, l *Lease, now time.Time) (status int) {
	options6(ia[12:], func(code uint16, value []byte) {
		switch {
		case code == opt6Status:
			status = max(status, status6(value))
		case code == opt6Addr && len(value) >= 24 && !l.Address.IsValid():
			addr, _ := netip.AddrFromSlice(value[:16])
			if valid := number(value[20:24]); usable(addr) && !addr.Is4In6() && valid >= shortest {
				l.Address = netip.PrefixFrom(addr, 128)
				l.setTimes(now, number(ia[4:8]), number(ia[8:12]), valid)
			}
		}
	})
	return status
}
