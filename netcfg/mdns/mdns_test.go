package mdns

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"
)

var (
	now      = time.Unix(1000, 0)
	ours     = []netip.Prefix{netip.MustParsePrefix("10.0.0.1/24"), netip.MustParsePrefix("fd00::1/64")}
	neighbor = netip.MustParseAddrPort("10.0.0.2:5353")
)

func newMachine(host string) *machine {
	return &machine{host: host, rand: func() uint32 { return 1 << 31 }}
}

// text writes a message down: questions, answers, authorities and additionals, apart by bars.
func text(t *testing.T, msg []byte) string {
	var m dnsmessage.Message
	require.NoError(t, m.Unpack(msg))
	var parts [4][]string
	for _, q := range m.Questions {
		parts[0] = append(parts[0], fmt.Sprintf("%s %d/%x", q.Name, q.Type, uint16(q.Class)))
	}
	for i, rs := range [][]dnsmessage.Resource{m.Answers, m.Authorities, m.Additionals} {
		for _, r := range rs {
			s := fmt.Sprintf("%s %d/%x %d", r.Header.Name, r.Header.Type, uint16(r.Header.Class), r.Header.TTL)
			switch b := r.Body.(type) {
			case *dnsmessage.AResource:
				s += " " + netip.AddrFrom4(b.A).String()
			case *dnsmessage.AAAAResource:
				s += " " + netip.AddrFrom16(b.AAAA).String()
			case *dnsmessage.UnknownResource:
				s += fmt.Sprintf(" %q", b.Data)
			}
			parts[i+1] = append(parts[i+1], s)
		}
	}
	var all []string
	for _, p := range parts {
		all = append(all, strings.Join(p, ", "))
	}
	return strings.TrimRight(strings.Join(all, " | "), " |")
}

// settle probes and announces until there is nothing more to say.
func settle(m *machine, at time.Time) time.Time {
	for !m.wake.IsZero() {
		at = m.wake
		m.tick(at)
	}
	return at.Add(time.Minute)
}

func ask(name string, types ...dnsmessage.Type) []byte {
	m := dnsmessage.Message{}
	for _, t := range types {
		m.Questions = append(m.Questions, dnsmessage.Question{Name: dnsmessage.MustNewName(name), Type: t, Class: dnsmessage.ClassINET})
	}
	b, _ := m.Pack()
	return b
}

// says is a response, or with probe a query, that has a record of a name.
func says(name, addr string, probe bool) []byte {
	a := netip.MustParseAddr(addr)
	r := dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName(name), Class: dnsmessage.ClassINET, TTL: 120}, Body: &dnsmessage.AResource{A: a.As4()}}
	m := dnsmessage.Message{Header: dnsmessage.Header{Response: !probe}}
	if probe {
		m.Questions = []dnsmessage.Question{{Name: r.Header.Name, Type: dnsmessage.TypeALL, Class: dnsmessage.ClassINET}}
		m.Authorities = []dnsmessage.Resource{r}
	} else {
		m.Answers = []dnsmessage.Resource{r}
	}
	b, _ := m.Pack()
	return b
}

// What this machine has sent from an address that it has no more is not another's; soon after whoever has that address is one.
func TestEcho(t *testing.T) {
	m := newMachine("gateway")
	m.set(now, ours)
	at := settle(m, now)
	m.set(at, []netip.Prefix{netip.MustParsePrefix("10.0.0.5/24")})
	before := netip.AddrPortFrom(ours[0].Addr(), 5353)
	require.Empty(t, m.hear(at.Add(time.Second), says("gateway.local.", "10.0.0.1", false), before, false))
	require.Equal(t, announced, m.state)
	require.Len(t, m.goodbye(), 1)
	require.NotEmpty(t, m.hear(at.Add(echo), says("gateway.local.", "10.0.0.1", false), before, false))
	require.Equal(t, probing, m.state)
}

const nsec = `gateway.local. 47/8001 120 "\agateway\x05local\x00\x00\x04@\x00\x00\b"`

func TestLife(t *testing.T) {
	m := newMachine("gateway.lan")
	require.Empty(t, m.set(now, ours))
	require.Equal(t, now.Add(125*time.Millisecond), m.wake, "not in step with others")
	at := m.wake
	for range 3 {
		out := m.tick(at)
		require.Len(t, out, 1)
		require.Equal(t, "gateway.local. 255/8001 |  | gateway.local. 1/1 120 10.0.0.1, gateway.local. 28/1 120 fd00::1", text(t, out[0].data))
		require.Equal(t, 250*time.Millisecond, m.wake.Sub(at))
		at = m.wake
	}
	whole := " | gateway.local. 1/8001 120 10.0.0.1, gateway.local. 28/8001 120 fd00::1 |  | " + nsec
	out := m.tick(at)
	require.Equal(t, whole, text(t, out[0].data), "it is ours")
	require.Equal(t, time.Second, m.wake.Sub(at))
	require.Len(t, m.tick(m.wake), 1)
	require.True(t, m.wake.IsZero())

	at = at.Add(time.Minute)
	require.Empty(t, m.set(at, ours))
	out = m.set(at, ours[:1])
	require.Len(t, out, 2)
	require.Equal(t, " | gateway.local. 28/8001 0 fd00::1", text(t, out[0].data), "one that is no more")
	require.Equal(t, ` | gateway.local. 1/8001 120 10.0.0.1 |  | gateway.local. 47/8001 120 "\agateway\x05local\x00\x00\x04@\x00\x00\x00"`, text(t, out[1].data), "those that are left")
	out = m.goodbye()
	require.Regexp(t, `1/8001 0 10\.0\.0\.1`, text(t, out[0].data))
	require.Len(t, m.set(at, nil), 1)
	require.Empty(t, m.goodbye())
}

func TestAnswers(t *testing.T) {
	m := newMachine("gateway")
	m.set(now, ours)
	at := settle(m, now)
	out := m.hear(at, ask("GateWay.local.", dnsmessage.TypeA), neighbor, false)
	require.Equal(t, " | gateway.local. 1/8001 120 10.0.0.1 |  | gateway.local. 28/8001 120 fd00::1, "+nsec, text(t, out[0].data))
	require.False(t, out[0].to.IsValid())
	require.Empty(t, m.hear(at.Add(500*time.Millisecond), ask("gateway.local.", dnsmessage.TypeAAAA), neighbor, false), "everybody has just heard it")

	at = at.Add(time.Minute)
	for what, msg := range map[string][]byte{
		"another name": ask("gateway2.local.", dnsmessage.TypeA), "no question": ask("gateway.local."), "nothing": nil, "garbage": []byte("garbage of some length"),
	} {
		require.Empty(t, m.hear(at, msg, neighbor, false), what)
	}
	require.Empty(t, m.hear(at, ask("gateway.local.", dnsmessage.TypeA), netip.MustParseAddrPort("192.0.2.1:5353"), false), "who is not on the link")
	require.NotEmpty(t, m.hear(at, ask("gateway.local.", dnsmessage.TypeA), netip.MustParseAddrPort("[fe80::2%eth0]:5353"), false))

	// A resolver that knows DNS only.
	legacy := netip.MustParseAddrPort("10.0.0.3:4000")
	out = m.hear(at, ask("gateway.local.", dnsmessage.TypeA), legacy, false)
	require.Equal(t, legacy, out[0].to)
	require.Regexp(t, `^gateway.local. 1/1 \| gateway.local. 1/1 10 10.0.0.1 \|`, text(t, out[0].data))

	// What the other knows is not said again.
	q := dnsmessage.Message{
		Questions: []dnsmessage.Question{{Name: m.name(), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}},
		Answers:   []dnsmessage.Resource{{Header: dnsmessage.ResourceHeader{Name: m.name(), Class: dnsmessage.ClassINET, TTL: 100}, Body: &dnsmessage.AResource{A: [4]byte{10, 0, 0, 1}}}},
	}
	known, err := q.Pack()
	require.NoError(t, err)
	at = at.Add(time.Minute)
	require.Empty(t, m.hear(at, known, neighbor, false))
	q.Answers[0].Header.TTL = 10
	stale, err := q.Pack()
	require.NoError(t, err)
	require.NotEmpty(t, m.hear(at, stale, neighbor, false))
}

func TestConflicts(t *testing.T) {
	m := newMachine("gateway")
	m.set(now, ours)
	m.tick(m.wake)
	require.Empty(t, m.hear(now, says("gateway.local.", "10.0.0.9", false), neighbor, true), "it was this machine's own")
	require.Equal(t, "gateway", m.label())
	m.hear(now, says("gateway.local.", "10.0.0.9", false), neighbor, false)
	require.Equal(t, "gateway-2", m.label())
	settle(m, now)
	require.Equal(t, announced, m.state)

	// Later: somebody claims it; it is defended by another probe, and given up if they insist.
	at := now.Add(time.Hour)
	out := m.hear(at, says("gateway-2.local.", "10.0.0.9", false), neighbor, false)
	require.Contains(t, text(t, out[0].data), "gateway-2.local. 255/8001")
	m.hear(at, says("gateway-2.local.", "10.0.0.9", false), neighbor, false)
	require.Equal(t, "gateway-3", m.label())
	for range 20 {
		m.hear(at, says(m.label()+".local.", "10.0.0.9", false), neighbor, false)
	}
	require.Equal(t, 5*time.Second, m.wake.Sub(at), "whoever has every name does not make us shout")

	// Two probe at once: the later data win (RFC 6762, 8.2).
	m = newMachine("gateway")
	m.set(now, ours)
	m.tick(m.wake)
	m.hear(now, says("gateway.local.", "10.0.0.0", true), neighbor, false)
	require.NotEqual(t, time.Second, m.wake.Sub(now))
	m.hear(now, says("gateway.local.", "10.0.0.9", true), neighbor, false)
	require.Equal(t, time.Second, m.wake.Sub(now))
	require.Equal(t, "gateway", m.label())

	// One that is ours is defended against a probe at once.
	at = settle(m, now)
	m.last = at
	require.NotEmpty(t, m.hear(at, says("gateway.local.", "10.0.0.9", true), neighbor, false))

	m = newMachine(strings.Repeat("a", 64))
	m.n = 12
	require.Len(t, m.label(), 63)
}

// Whatever comes in is survived, and answers are well-formed.
func FuzzHear(f *testing.F) {
	f.Add(ask("gateway.local.", dnsmessage.TypeA), false)
	f.Add(says("gateway.local.", "10.0.0.9", false), true)
	f.Add(says("gateway.local.", "10.0.0.9", true), true)
	f.Fuzz(func(t *testing.T, b []byte, settled bool) {
		m := newMachine("gateway")
		m.set(now, ours)
		if settled {
			settle(m, now)
		}
		for _, p := range m.hear(now.Add(time.Hour), b, neighbor, false) {
			text(t, p.data)
		}
	})
}
