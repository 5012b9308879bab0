package dhcp

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var hw = net.HardwareAddr{2, 0, 0, 0, 0, 1}

// server4 answers as a DHCP server would: with the message's number and hardware address.
func server4(ask []byte, kind byte, options ...byte) []byte {
	b := make([]byte, head4)
	copy(b, ask[:head4])
	b[0] = 2
	copy(b[16:20], []byte{10, 0, 2, 15})
	b = append(b, opt4Type, 1, kind, opt4Server, 4, 10, 0, 2, 2)
	return append(append(b, options...), 255)
}

func lasting(seconds uint32) []byte {
	return append([]byte{opt4Mask, 4, 255, 255, 255, 0, opt4Time, 4}, binary.BigEndian.AppendUint32(nil, seconds)...)
}

func typeOf(t *testing.T, o *out) byte {
	require.NotNil(t, o)
	return options4(o.payload)[opt4Type][0]
}

func newMachine() *machine {
	n := uint32(0)
	return &machine{codec: codec4{hw, "gateway"}, rand: func() uint32 { n++; return n }}
}

// bind brings a machine to a lease.
func bind(t *testing.T, m *machine, now time.Time, seconds uint32) {
	o := m.begin(now)
	require.Equal(t, byte(discover4), typeOf(t, o))
	o = m.hear(server4(o.payload, offer4, lasting(seconds)...), now)
	require.Equal(t, byte(request4), typeOf(t, o))
	require.Nil(t, m.hear(server4(o.payload, ack4, lasting(seconds)...), now))
	require.Equal(t, "10.0.2.15/24", m.held.Address.String())
}

// A lease is renewed at half its time with its server, at 7/8 with any, and is gone at its end.
func TestLifeOfALease(t *testing.T) {
	now := time.Unix(1000, 0)
	m := newMachine()
	bind(t, m, now, 800)
	require.Equal(t, now.Add(400*time.Second), m.wake)
	o := m.tick(m.wake)
	require.Equal(t, askRenew, o.to)
	require.Equal(t, []byte{10, 0, 2, 15}, o.payload[12:16], "it asks from its address")
	require.NotContains(t, options4(o.payload), byte(opt4Server))
	require.Equal(t, now.Add(550*time.Second), m.wake, "again at half of what remains until T2")
	o = m.tick(m.wake)
	require.Equal(t, askRenew, o.to)
	m.tick(m.wake)
	o = m.tick(m.wake)
	for ; o.to == askRenew; o = m.tick(m.wake) {
		require.Less(t, m.wake, now.Add(701*time.Second))
	}
	require.Equal(t, askRebind, o.to)
	require.NotNil(t, m.held)
	for ; o.to == askRebind; o = m.tick(m.wake) {
		require.NotNil(t, m.held)
	}
	require.Equal(t, byte(discover4), typeOf(t, o))
	require.Nil(t, m.held, "the lease is over")

	m = newMachine()
	bind(t, m, now, 800)
	o = m.tick(m.wake)
	require.Nil(t, m.hear(server4(o.payload, ack4, lasting(800)...), now.Add(401*time.Second)))
	require.Equal(t, now.Add(1201*time.Second), m.held.Until)
	require.Equal(t, bound, m.state)
}

// probed brings a machine that probes to the moment before the address is taken.
func probed(t *testing.T, m *machine, now time.Time) time.Time {
	o := m.begin(now)
	o = m.hear(server4(o.payload, offer4, lasting(800)...), now)
	o = m.hear(server4(o.payload, ack4, lasting(800)...), now)
	for range probeCount {
		require.Equal(t, askProbe, o.to)
		require.Nil(t, m.held, "nobody knows yet whether it is free")
		now = m.wake
		if m.tries < probeCount {
			o = m.tick(now)
		}
	}
	return now
}

// An address is looked for before it is used, for a quarter of a second at most, and said to be ours then.
func TestProbe(t *testing.T) {
	begin := time.Unix(1000, 0)
	m := newMachine()
	m.probes = true
	now := probed(t, m, begin)
	require.LessOrEqual(t, now.Sub(begin), 250*time.Millisecond)
	o := m.tick(now)
	require.Equal(t, askAnnounce, o.to)
	require.Equal(t, "10.0.2.15/24", m.held.Address.String())
	o = m.tick(m.wake)
	require.Equal(t, askAnnounce, o.to)
	require.Equal(t, bound, m.state)
	require.Equal(t, m.held.Renew, m.wake)

	// One that is renewed is ours; one that comes back after the link was away is looked for while it is used.
	now = m.wake
	o = m.tick(now)
	require.Nil(t, m.hear(server4(o.payload, ack4, lasting(800)...), now))
	require.Equal(t, bound, m.state)
	o = m.begin(now)
	require.Equal(t, askSame, o.to)
	require.Nil(t, m.rival(now), "of another network maybe")
	require.NotNil(t, m.held)
	o = m.hear(server4(o.payload, ack4, lasting(800)...), now)
	require.Equal(t, askProbe, o.to)
	require.Equal(t, now.Add(800*time.Second), m.held.Until)
	o = m.rival(now)
	require.Equal(t, byte(decline4), typeOf(t, o))
	require.Nil(t, m.held)
}

// Somebody has the address: the server hears of it, and is asked again after ten seconds, and twice that the next time.
func TestDecline(t *testing.T) {
	m := newMachine()
	m.probes = true
	now := time.Unix(1000, 0)
	for _, pause := range []int{10, 20, 40, 60, 60} {
		now = probed(t, m, now)
		o := m.rival(now)
		require.Equal(t, byte(decline4), typeOf(t, o))
		all := options4(o.payload)
		require.Equal(t, []byte{10, 0, 2, 15}, all[opt4Address])
		require.Equal(t, []byte{10, 0, 2, 2}, all[opt4Server])
		require.Len(t, all, 3, "RFC 2131, table 5: nothing else")
		require.Equal(t, make([]byte, 4), o.payload[12:16])
		require.Nil(t, m.hear(server4(o.payload, offer4, lasting(800)...), now), "not before its time")
		require.Nil(t, m.rival(now))
		require.Equal(t, now.Add(time.Duration(pause)*time.Second), m.wake)
		now = m.wake
		require.Equal(t, byte(discover4), typeOf(t, m.tick(now)))
		require.Nil(t, m.held)
	}
}

// An address that is new goes to whoever claims it; one that has been used is defended once in ten seconds.
func TestDefend(t *testing.T) {
	m := newMachine()
	m.probes = true
	now := probed(t, m, time.Unix(1000, 0))
	m.tick(now)
	o := m.rival(now.Add(5 * time.Second))
	require.Equal(t, byte(decline4), typeOf(t, o))
	require.Nil(t, m.held)

	now = probed(t, m, now)
	m.tick(now)
	m.tick(m.wake)
	for range 3 {
		now = now.Add(defendEvery)
		o = m.rival(now)
		require.Equal(t, askAnnounce, o.to)
		require.NotNil(t, m.held)
	}
	o = m.rival(now.Add(defendEvery - 1))
	require.Equal(t, byte(decline4), typeOf(t, o))
	require.Nil(t, m.held)
}

// Asking goes on with pauses of a minute at most, for ever.
func TestNobodyAnswers(t *testing.T) {
	m := newMachine()
	now := time.Unix(1000, 0)
	o := m.begin(now)
	for range 50 {
		require.Equal(t, byte(discover4), typeOf(t, o))
		require.LessOrEqual(t, m.wake.Sub(now), 71*time.Second)
		require.Greater(t, m.wake, now)
		now = m.wake
		o = m.tick(now)
	}
}

// An offer that is not kept is forgotten.
func TestOfferWithoutAnAnswer(t *testing.T) {
	m := newMachine()
	now := time.Unix(1000, 0)
	o := m.begin(now)
	o = m.hear(server4(o.payload, offer4, lasting(800)...), now)
	for typeOf(t, o) == request4 {
		o = m.tick(m.wake)
	}
	require.Equal(t, selecting, m.state)
}

// After carrier is back the address is asked for again, and kept if nobody is there to say no.
func TestCarrierReturns(t *testing.T) {
	now := time.Unix(1000, 0)
	m := newMachine()
	bind(t, m, now, 80000)
	o := m.begin(now.Add(time.Second))
	require.Equal(t, askSame, o.to)
	require.Equal(t, []byte{10, 0, 2, 15}, options4(o.payload)[opt4Address])
	require.Equal(t, []byte{0, 0, 0, 0}, o.payload[12:16])
	for m.state == rebooting {
		o = m.tick(m.wake)
	}
	require.Equal(t, byte(discover4), typeOf(t, o))
	require.NotNil(t, m.held)

	o = m.begin(now.Add(time.Minute))
	o = m.hear(server4(o.payload, nak4), now.Add(time.Minute))
	require.Equal(t, byte(discover4), typeOf(t, o))
	require.Nil(t, m.held, "another network: the address is not for here")
}

func TestStrangersHaveNoSay(t *testing.T) {
	now := time.Unix(1000, 0)
	m := newMachine()
	bind(t, m, now, 800)
	o := m.tick(m.wake)
	good := server4(o.payload, nak4)
	for what, change := range map[string]func(b []byte){
		"another server": func(b []byte) { b[len(b)-2]++ },
		"another number": func(b []byte) { b[4]++ },
		"another client": func(b []byte) { b[28]++ },
		"a request":      func(b []byte) { b[0] = 1 },
		"no cookie":      func(b []byte) { b[236]++ },
	} {
		b := append([]byte(nil), good...)
		change(b)
		require.Nil(t, m.hear(b, now), what)
		require.NotNil(t, m.held, what)
	}
	m.hear(good, now)
	require.Nil(t, m.held)
}

func TestLease4(t *testing.T) {
	now := time.Unix(1000, 0)
	c := codec4{hw, ""}
	request := c.write(askAny, 7, nil, 0)
	read := func(options ...byte) (Lease, bool) {
		v, l, ok := c.read(server4(request, ack4, options...), 7, now)
		if ok {
			require.Equal(t, granted, v)
		}
		return l, ok
	}
	all := append(lasting(600), opt4Router, 4, 10, 0, 2, 2, opt4DNS, 8, 10, 0, 2, 3, 0, 0, 0, 0, opt4MTU, 2, 5, 0xdc)
	l, ok := read(append(all, append([]byte{opt4Domain, 4}, "lan\x00"...)...)...)
	require.True(t, ok)
	require.Equal(t, "10.0.2.15/24 [{0.0.0.0/0 10.0.2.2}] [10.0.2.3] [lan] 1500", fmt.Sprint(l.Address, l.Routes, l.DNS, l.Search, l.MTU))
	require.Equal(t, []time.Duration{300 * time.Second, 525 * time.Second, 600 * time.Second}, []time.Duration{l.Renew.Sub(now), l.Rebind.Sub(now), l.Until.Sub(now)})

	l, ok = read(append(all, opt4Routes, 13, 0, 10, 0, 2, 9, 8, 11, 0, 0, 0, 0, 0, 0, 0, 0)...)
	require.True(t, ok)
	require.Equal(t, "[{0.0.0.0/0 10.0.2.2}]", fmt.Sprint(l.Routes), "routes that make no sense are none")
	l, ok = read(append(all, opt4Routes, 14, 0, 10, 0, 2, 9, 8, 11, 0, 0, 0, 0, 0, 0, 0, 0)...)
	require.True(t, ok)
	require.Equal(t, "[{0.0.0.0/0 10.0.2.2}]", fmt.Sprint(l.Routes))
	l, ok = read(append(all, opt4Routes, 11, 0, 10, 0, 2, 9, 8, 11, 0, 0, 0, 0)...)
	require.True(t, ok)
	require.Equal(t, "[{0.0.0.0/0 10.0.2.9} {11.0.0.0/8 invalid IP}]", fmt.Sprint(l.Routes))

	l, ok = read(lasting(1<<32 - 1)...)
	require.True(t, ok)
	require.True(t, l.Until.IsZero() && l.Renew.IsZero(), "for ever")
	for _, bad := range [][]byte{{}, lasting(1), {opt4Time, 4, 0, 0, 1, 0}, {opt4Mask, 4, 255, 0, 255, 0, opt4Time, 4, 0, 0, 1, 0}, {opt4Mask, 4, 0, 0, 0, 0, opt4Time, 4, 0, 0, 1, 0}} {
		_, ok := read(bad...)
		require.False(t, ok, "%v", bad)
	}
}

func TestNames(t *testing.T) {
	require.Equal(t, []string{"eng.lan", "x.lan"}, Names([]byte("\x03eng\x03lan\x00\x01x\xc0\x04")))
	require.Empty(t, Names([]byte("\xc0\x00")), "a loop")
	require.Empty(t, Names([]byte("\x05a\nb c\x00")), "what would be lines of resolv.conf")
	require.Empty(t, Names([]byte("\x09ab")))
}

// answer6 makes of a client's message a server's answer.
func answer6(ask []byte, kind byte, more func([]byte) []byte) []byte {
	b := append([]byte{kind}, ask[1:4]...)
	options6(ask[4:], func(code uint16, value []byte) {
		if code == opt6Client {
			b = option6(b, code, value)
		}
	})
	return more(option6(b, opt6Server, []byte("server")))
}

func ia6(c codec6, seconds uint32, status ...byte) func([]byte) []byte {
	return func(b []byte) []byte {
		ia := binary.BigEndian.AppendUint32(nil, c.iaid)
		ia = append(ia, make([]byte, 8)...)
		a := netip.MustParseAddr("fd00::15").AsSlice()
		a = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(a, seconds), seconds)
		ia = option6(ia, opt6Addr, a)
		if status != nil {
			ia = option6(ia, opt6Status, append([]byte{0}, status...))
		}
		return option6(b, opt6IANA, ia)
	}
}

func TestIPv6(t *testing.T) {
	now := time.Unix(1000, 0)
	c := newCodec6(hw, "eth0")
	m := &machine{codec: c, rand: func() uint32 { return 0xffabcdef }}
	o := m.begin(now)
	require.Equal(t, byte(solicit6), o.payload[0])
	require.Nil(t, m.hear(answer6(o.payload, advertise6, ia6(c, 0, 2)), now), "no address to give")
	require.Equal(t, selecting, m.state)
	o = m.hear(answer6(o.payload, advertise6, ia6(c, 800)), now)
	require.Equal(t, byte(request6), o.payload[0])
	dns := func(b []byte) []byte {
		b = option6(b, opt6DNS, netip.MustParseAddr("fd00::1").AsSlice())
		return ia6(c, 800)(option6(b, opt6Search, []byte("\x03lan\x00")))
	}
	require.Nil(t, m.hear(answer6(o.payload, reply6, dns), now))
	require.Equal(t, "fd00::15/128 [fd00::1] [lan]", fmt.Sprint(m.held.Address, m.held.DNS, m.held.Search))
	o = m.tick(m.wake)
	require.Equal(t, byte(renew6), o.payload[0])
	require.Nil(t, m.hear(answer6(o.payload, reply6, ia6(c, 800, 1)), now), "a server that fails takes nothing away")
	require.NotNil(t, m.held)
	o = m.hear(answer6(o.payload, reply6, ia6(c, 800, noBinding6)), now)
	require.Equal(t, byte(solicit6), o.payload[0])
	require.Nil(t, m.held)

	m.held = &Lease{Address: netip.MustParsePrefix("fd00::15/128"), Until: now.Add(time.Minute)}
	o = m.begin(now)
	require.Equal(t, byte(rebind6), o.payload[0])
	require.True(t, strings.Contains(string(o.payload), string(m.held.Address.Addr().AsSlice())))
}

// pd6 adds a delegated prefix, or several; each is a prefix and its preferred and valid seconds.
func pd6(c codec6, all ...any) func([]byte) []byte {
	return func(b []byte) []byte {
		ia := append(binary.BigEndian.AppendUint32(nil, c.iaid), make([]byte, 8)...)
		for i := 0; i < len(all); i += 3 {
			p := netip.MustParsePrefix(all[i].(string))
			v := binary.BigEndian.AppendUint32(nil, uint32(all[i+1].(int)))
			v = append(binary.BigEndian.AppendUint32(v, uint32(all[i+2].(int))), byte(p.Bits()))
			ia = option6(ia, opt6Prefix, append(v, p.Addr().AsSlice()...))
		}
		return option6(b, opt6IAPD, ia)
	}
}

func both(f, g func([]byte) []byte) func([]byte) []byte {
	return func(b []byte) []byte { return g(f(b)) }
}

// An address and a prefix, one of them, and one that the server takes away.
func TestDelegation(t *testing.T) {
	now := time.Unix(1000, 0)
	c := newCodec6(hw, "eth0")
	c.delegate, c.hint = true, 56
	m := &machine{codec: c, rand: func() uint32 { return 0xffabcdef }}
	asked := func(o *out) (prefixes string) {
		options6(o.payload[4:], func(code uint16, value []byte) {
			if code == opt6IAPD {
				options6(value[12:], func(_ uint16, v []byte) {
					a, _ := netip.AddrFromSlice(v[9:])
					prefixes += netip.PrefixFrom(a, int(v[8])).String()
				})
			}
		})
		return prefixes
	}
	o := m.begin(now)
	require.Equal(t, "::/56", asked(o))
	require.Nil(t, m.hear(answer6(o.payload, advertise6, ia6(c, 800)), now), "another server may have a prefix too")
	o2 := m.hear(answer6(o.payload, advertise6, both(ia6(c, 800), pd6(c, "fd00:8::/56", 400, 600))), now)
	require.Equal(t, byte(request6), o2.payload[0])
	require.Equal(t, "fd00:8::/56", asked(o2))
	require.Nil(t, m.hear(answer6(o2.payload, reply6, both(ia6(c, 800), pd6(c, "fd00:7::/56", 0, 500, "fd00:8::1/56", 400, 600, "fd00:9::/80", 500, 600))), now))
	require.Equal(t, "fd00::15/128 fd00:8::/56", fmt.Sprint(m.held.Address, " ", m.held.Prefix))
	require.Equal(t, []time.Duration{200 * time.Second, 320 * time.Second, 600 * time.Second, 400 * time.Second, 600 * time.Second},
		[]time.Duration{m.held.Renew.Sub(now), m.held.Rebind.Sub(now), m.held.Until.Sub(now), m.held.PrefixPreferred.Sub(now), m.held.PrefixUntil.Sub(now)})

	// It goes: asked at once whether there is another. There is none for now, and one later.
	now = m.wake
	o = m.tick(now)
	require.Equal(t, "fd00:8::/56", asked(o))
	o = m.hear(answer6(o.payload, reply6, both(ia6(c, 8000), pd6(c, "fd00:8::/56", 0, 0))), now)
	require.Equal(t, byte(renew6), o.payload[0])
	require.False(t, m.held.Prefix.IsValid())
	require.True(t, m.held.Address.IsValid())
	require.Nil(t, m.hear(answer6(o.payload, reply6, ia6(c, 8000)), now))
	require.Equal(t, now.Add(missing), m.wake)
	o = m.tick(m.wake)
	require.Equal(t, "::/56", asked(o))
	require.Nil(t, m.hear(answer6(o.payload, reply6, both(ia6(c, 8000), pd6(c, "fd00:9::/60", 4000, 8000))), m.wake))
	require.Equal(t, "fd00:9::/60", m.held.Prefix.String())

	// A server that has prefixes only is taken when nobody offers more.
	m = &machine{codec: c, rand: func() uint32 { return 7 }}
	o = m.begin(now)
	offer := func(b []byte) []byte { return pd6(c, "fd00:9::/60", 4000, 8000)(ia6(c, 800, 2)(b)) }
	require.Nil(t, m.hear(answer6(o.payload, advertise6, offer), now))
	o = m.tick(m.wake)
	require.Equal(t, byte(request6), o.payload[0])
	require.Nil(t, m.hear(answer6(o.payload, reply6, offer), now))
	require.Equal(t, bound, m.state)
	require.Equal(t, "invalid Prefix fd00:9::/60", fmt.Sprint(m.held.Address, " ", m.held.Prefix))

	// What no site can have, or no link can have a part of, is none; a client that did not ask takes none.
	for _, bad := range []string{"ff00::/56", "fe80::/56", "::/0", "fd00:9::/65", "::ffff:10.0.0.0/64"} {
		_, l, _ := c.read(answer6(o.payload, reply6, pd6(c, bad, 400, 600)), 7, now)
		require.False(t, l.Prefix.IsValid(), bad)
	}
	c.delegate = false
	v, _, _ := c.read(answer6(o.payload, reply6, pd6(c, "fd00:9::/60", 400, 600)), 7, now)
	require.Equal(t, refused, v)
}

// Whatever comes in, a lease that is taken has an address that a link can have and names that resolv.conf can.
func FuzzRead(f *testing.F) {
	c4, c6 := codec4{hw, "x"}, newCodec6(hw, "eth0")
	f.Add(server4(c4.write(askAny, 7, nil, 0), ack4, lasting(600)...))
	c6.delegate = true
	f.Add(answer6(c6.write(askAny, 7, nil, 0), reply6, both(ia6(c6, 600), pd6(c6, "fd00:9::/60", 400, 600))))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, c := range []codec{c4, c6} {
			v, l, ok := c.read(b, 7, time.Unix(1000, 0))
			if !ok || v == refused {
				continue
			}
			if !l.Address.IsValid() && !l.Prefix.IsValid() || l.Address.IsValid() && !usable(l.Address.Addr()) || l.Prefix != l.Prefix.Masked() || l.Renew.After(l.Rebind) || l.Rebind.After(l.Until) {
				t.Fatalf("%+v", l)
			}
			for _, s := range l.Search {
				if strings.ContainsAny(s, "\n\x00 #") {
					t.Fatalf("%q", s)
				}
			}
		}
		payload4(b)
	})
}

func TestPackets(t *testing.T) {
	p, ok := payload4(flip(broadcast4(netip.MustParseAddr("10.0.0.1"), []byte("hello"))))
	require.True(t, ok)
	require.Equal(t, "hello", string(p))
	require.EqualValues(t, htons(1), binary.NativeEndian.Uint16([]byte{0, 1}))
}

// flip makes of a client's packet a server's.
func flip(b []byte) []byte {
	copy(b[20:24], []byte{0, 67, 0, 68})
	return b
}

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }
