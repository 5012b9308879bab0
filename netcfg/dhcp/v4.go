package dhcp

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Options of RFC 2132, and 119 (RFC 3397), 121 (RFC 3442).
const (
	opt4Mask, opt4Router, opt4DNS, opt4Host, opt4Domain = 1, 3, 6, 12, 15
	opt4MTU, opt4Address, opt4Time, opt4Overload        = 26, 50, 51, 52
	opt4Type, opt4Server, opt4Wish, opt4T1, opt4T2      = 53, 54, 55, 58, 59
	opt4Search, opt4Routes                              = 119, 121
)

// Types of messages, RFC 2132, 9.6.
const (
	discover4 = iota + 1
	offer4
	request4
	decline4
	ack4
	nak4
)

var magic4 = []byte{99, 130, 83, 99}

const head4 = 240 // bytes before the options: the fields of RFC 951 and the magic cookie

type codec4 struct {
	hw   net.HardwareAddr
	host string
}

func (c codec4) write(a ask, xid uint32, l *Lease, since time.Duration) []byte {
	b := make([]byte, head4, 320)
	b[0], b[1], b[2] = 1, 1, byte(len(c.hw)) // BOOTREQUEST, Ethernet
	binary.BigEndian.PutUint32(b[4:], xid)
	binary.BigEndian.PutUint16(b[8:], uint16(min(since/time.Second, 0xffff)))
	copy(b[28:44], c.hw)
	copy(b[236:], magic4)
	kind := byte(request4)
	switch a {
	case askAny:
		kind = discover4
	case sayDecline:
		kind = decline4
	}
	b = append(b, opt4Type, 1, kind)
	switch a {
	case askRenew, askRebind:
		copy(b[12:16], l.Address.Addr().AsSlice()) // ciaddr
	case askOffered, sayDecline:
		b = append(append(b, opt4Server, 4), l.server...)
		fallthrough
	case askSame:
		b = append(append(b, opt4Address, 4), l.Address.Addr().AsSlice()...)
	}
	if a == sayDecline { // no more than that (RFC 2131, table 5)
		return padded4(b)
	}
	if c.host != "" {
		host := c.host[:min(len(c.host), 63)]
		b = append(append(b, opt4Host, byte(len(host))), host...)
	}
	wish := []byte{opt4Mask, opt4Routes, opt4Router, opt4DNS, opt4Domain, opt4Search, opt4MTU, opt4T1, opt4T2}
	b = append(append(b, opt4Wish, byte(len(wish))), wish...)
	return padded4(b)
}

// padded4 ends the options, and makes the message as long as BOOTP relays want it (RFC 1542, 2.1).
func padded4(b []byte) []byte {
	b = append(b, 255)
	return append(b, make([]byte, max(0, 300-len(b)))...)
}

func (c codec4) read(b []byte, xid uint32, now time.Time) (v verdict, l Lease, ok bool) {
	if len(b) < head4 || b[0] != 2 || binary.BigEndian.Uint32(b[4:]) != xid || !bytes.Equal(b[28:28+len(c.hw)], c.hw) || !bytes.Equal(b[236:head4], magic4) {
		return 0, l, false
	}
	o := options4(b)
	server := o[opt4Server]
	if len(server) != 4 || len(o[opt4Type]) != 1 {
		return 0, l, false
	}
	switch o[opt4Type][0] {
	case nak4:
		return refused, Lease{server: slices.Clone(server)}, true
	case offer4:
		v = offered
	case ack4:
		v = granted
	default:
		return 0, l, false
	}
	l, ok = lease4(b, o, now)
	return v, l, ok
}

// options4 collects them, pieces of one joined (RFC 3396), also those in fields that are lent out for it.
func options4(b []byte) map[byte][]byte {
	o := map[byte][]byte{}
	collect := func(b []byte) {
		for len(b) > 0 && b[0] != 255 {
			if b[0] == 0 {
				b = b[1:]
				continue
			}
			if len(b) < 2 || len(b) < 2+int(b[1]) {
				return
			}
			o[b[0]] = append(o[b[0]], b[2:2+int(b[1])]...)
			b = b[2+int(b[1]):]
		}
	}
	collect(b[head4:])
	if over := o[opt4Overload]; len(over) == 1 {
		if over[0]&1 != 0 {
			collect(b[108:236])
		}
		if over[0]&2 != 0 {
			collect(b[44:108])
		}
	}
	return o
}

// shortest is the shortest lease that is taken, in seconds: less would keep everybody busy with nothing else.
const shortest = 2

func lease4(b []byte, o map[byte][]byte, now time.Time) (l Lease, ok bool) {
	addr, _ := netip.AddrFromSlice(b[16:20]) // yiaddr
	if len(o[opt4Mask]) != 4 {
		return l, false
	}
	bits, total := net.IPMask(o[opt4Mask]).Size()
	valid := number(o[opt4Time])
	if !usable(addr) || total != 32 || bits == 0 || valid < shortest {
		return l, false
	}
	l = Lease{Address: netip.PrefixFrom(addr, bits), server: slices.Clone(o[opt4Server])}
	l.setTimes(now, number(o[opt4T1]), number(o[opt4T2]), valid)
	if routes, ok := routes4(o[opt4Routes]); ok && len(routes) > 0 {
		l.Routes = routes // and then routers don't count (RFC 3442)
	} else if routers := Addresses(o[opt4Router], 4); len(routers) > 0 {
		l.Routes = []Route{{netip.PrefixFrom(netip.IPv4Unspecified(), 0), routers[0]}}
	}
	l.DNS = Addresses(o[opt4DNS], 4)
	l.Search = Names(o[opt4Search])
	if l.Search == nil {
		if d := strings.TrimRight(string(o[opt4Domain]), ".\x00"); plainName(d) {
			l.Search = []string{d}
		}
	}
	if m := o[opt4MTU]; len(m) == 2 {
		if mtu := int(binary.BigEndian.Uint16(m)); mtu >= 576 { // every host can take that (RFC 791)
			l.MTU = mtu
		}
	}
	return l, true
}

// routes4 reads classless static routes: length of the prefix, as many bytes of it as it needs, the router.
func routes4(b []byte) (routes []Route, ok bool) {
	for len(b) > 0 {
		bits, n := int(b[0]), (int(b[0])+7)/8
		if bits > 32 || len(b) < 1+n+4 {
			return nil, false
		}
		var to, via [4]byte
		copy(to[:], b[1:1+n])
		copy(via[:], b[1+n:])
		r := Route{To: netip.PrefixFrom(netip.AddrFrom4(to), bits).Masked()}
		if a := netip.AddrFrom4(via); !a.IsUnspecified() {
			r.Via = a
		}
		routes, b = append(routes, r), b[1+n+4:]
	}
	return routes, true
}

func number(b []byte) uint32 {
	if len(b) != 4 {
		return 0
	}
	return binary.BigEndian.Uint32(b)
}

// usable says whether a link may have the address.
func usable(a netip.Addr) bool {
	return !a.IsUnspecified() && !a.IsMulticast() && !a.IsLoopback() && a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// Addresses reads addresses of size bytes each, those that may be a host's.
func Addresses(b []byte, size int) (all []netip.Addr) {
	for ; len(b) >= size; b = b[size:] {
		if a, _ := netip.AddrFromSlice(b[:size]); usable(a) {
			all = append(all, a)
		}
	}
	return all
}

// Names reads domain names (RFC 1035, 4.1.4, compressed against b itself), up to the first that makes no sense.
func Names(b []byte) (all []string) {
	for at := 0; at < len(b); {
		name, next := nameAt(b, at)
		if next <= at || !plainName(name) {
			break
		}
		all, at = append(all, name), next
	}
	return all
}

// nameAt reads the name at an offset; next is where the one behind it begins, 0 where it is malformed.
func nameAt(b []byte, at int) (name string, next int) {
	var labels []string
	for jumps := 0; at < len(b); {
		n := int(b[at])
		switch {
		case n == 0:
			if next == 0 {
				next = at + 1
			}
			return strings.Join(labels, "."), next
		case n >= 0xc0 && at+1 < len(b) && jumps < 16:
			if next == 0 {
				next = at + 2
			}
			at, jumps = n&0x3f<<8|int(b[at+1]), jumps+1
		case n < 64 && at+1+n <= len(b) && len(labels) < 64:
			labels, at = append(labels, string(b[at+1:at+1+n])), at+1+n
		default:
			return "", 0
		}
	}
	return "", 0
}

// plainName says whether a name may go into resolv.conf(5): a server on the wire chose it.
func plainName(s string) bool {
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '.' && c != '_' {
			return false
		}
	}
	return s != "" && len(s) < 254
}
