package dhcp

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The kernel has found that somebody has an address of IPv6: the server hears of it until it says so, and is asked again after a
// pause that doubles until an address has been in use. A prefix stays meanwhile.
func TestDecline6(t *testing.T) {
	const pd = "fd00:9::/60"
	a, now := netip.MustParseAddr("fd00::15"), time.Unix(1000, 0)
	for _, delegate := range []bool{false, true} {
		c := newCodec6(hw, "eth0")
		c.delegate = delegate
		m := &machine{codec: c, rand: func() uint32 { return 0xffabcdef }}
		gives := ia6(c, 80000)
		if delegate {
			gives = both(gives, pd6(c, pd, 80000, 80000))
		}
		o := m.begin(now)
		for i, pause := range []time.Duration{10, 20, 40, 60, 60} {
			if i == 0 || !delegate {
				o = m.hear(answer6(o.payload, advertise6, gives), now)
			} else {
				require.Equal(t, byte(renew6), o.payload[0])
			}
			require.Nil(t, m.hear(answer6(o.payload, reply6, gives), now))
			require.Equal(t, a, m.held.Address.Addr())
			require.Nil(t, m.taken(a.Next(), now), "another address")
			begin := now
			o = m.taken(a, now)
			told := map[uint16][]byte{}
			require.True(t, options6(o.payload[4:], func(code uint16, value []byte) { told[code] = value }))
			require.Equal(t, byte(decline6), o.payload[0])
			require.Equal(t, "server", string(told[opt6Server]))
			require.Contains(t, string(told[opt6IANA]), string(a.AsSlice()))
			require.Len(t, told, 4, "client, server, time and the address: RFC 8415, B")
			if delegate {
				require.Equal(t, pd+" invalid Prefix", m.held.Prefix.String()+" "+m.held.Address.String())
			} else {
				require.Nil(t, m.held)
			}
			require.Nil(t, m.taken(a, now), "once")
			first := o.payload[1:4]
			for _, at := range []time.Duration{1, 3, 7}[:3-i%3] {
				require.Equal(t, begin.Add(at*time.Second), m.wake)
				o = m.tick(m.wake)
				require.Equal(t, byte(decline6), o.payload[0])
				require.Equal(t, first, o.payload[1:4], "the same number")
			}
			if i%3 != 0 {
				require.Nil(t, m.hear(answer6(o.payload, reply6, func(b []byte) []byte { return option6(b, opt6Status, []byte{0, 0}) }), now))
			}
			require.Equal(t, begin.Add(pause*time.Second), m.wake)
			now = m.wake
			o = m.tick(now)
		}
		if !delegate {
			o = m.hear(answer6(o.payload, advertise6, gives), now)
		}
		m.hear(answer6(o.payload, reply6, gives), now)
		o = m.tick(m.wake)
		require.Equal(t, byte(renew6), o.payload[0])
		m.hear(answer6(o.payload, reply6, gives), now)
		require.Zero(t, m.refusals, "it was in use")
	}
	m := &machine{codec: newCodec6(hw, "eth0"), rand: func() uint32 { return 7 }, held: &Lease{Address: netip.PrefixFrom(a, 128)}}
	m.begin(now)
	require.Nil(t, m.taken(a, now), "whose server is not known yet")
	require.NotNil(t, m.held)
}
