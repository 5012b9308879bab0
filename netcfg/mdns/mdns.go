// Package mdns says on a link what this machine's addresses are: HOST.local by multicast DNS (RFC 6762). It probes whether
// the name is free, takes HOST-2.local and so on if it is not, announces it, answers queries and says goodbye. It asks for
// nobody else's name, and answers nobody who is not on the link.
//
// The protocol is a pure function of the time and of the messages that come in; sockets are in run.go.
package mdns

import (
	"bytes"
	"net/netip"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// Bits in the class of questions and records, RFC 6762, 18.12 and 18.13.
const (
	wantsUnicast = 1 << 15
	cacheFlush   = 1 << 15
)

const (
	ttl       = 120 // seconds, of records with a host's name (RFC 6762, 10)
	legacyTTL = 10  // in answers to resolvers that know DNS only (6.7)

	probes        = 3
	probeEvery    = 250 * time.Millisecond
	announcements = 2
	announceEvery = time.Second
)

type packet struct {
	data []byte
	to   netip.AddrPort // who asked; not valid: all
}

type state int

const (
	silent    state = iota // without an address there is nothing to say
	probing                // is the name free?
	announced              // it is ours
)

type machine struct {
	host   string // the name that is wished for, without a domain
	rand   func() uint32
	state  state
	n      int // of the name: host-n from 2 on
	left   int // probes or announcements yet to send
	wake   time.Time
	last   time.Time // of the last answer to all
	addrs  []netip.Prefix
	past   []netip.Prefix // that were the link's until parted: what was sent from them may still come back
	parted time.Time
}

// echo is for how long this machine's own words may come back to it.
const echo = 5 * time.Second

// label makes the name's first part: a label of DNS has 63 bytes at most (RFC 1035, 2.3.4).
func (m *machine) label() string {
	host, _, _ := strings.Cut(m.host, ".")
	suffix := ""
	if m.n > 1 {
		suffix = "-" + strconv.Itoa(m.n)
	}
	return host[:min(len(host), 63-len(suffix))] + suffix
}

func (m *machine) name() dnsmessage.Name {
	return dnsmessage.MustNewName(m.label() + ".local.") // it has 70 bytes at most
}

// set is told the link's addresses. Those that are no more are taken back: that others of their type come does not tell.
func (m *machine) set(now time.Time, addrs []netip.Prefix) (out []packet) {
	if slices.Equal(addrs, m.addrs) {
		return nil
	}
	was := m.addrs
	if m.addrs = without(was, addrs); len(m.addrs) > 0 {
		out = m.goodbye()
	}
	m.addrs = addrs
	if gone := without(was, addrs); len(gone) > 0 {
		if now.Sub(m.parted) < echo {
			gone = append(gone, without(m.past, addrs)...)
		}
		m.past, m.parted = gone, now
	}
	switch {
	case len(addrs) == 0:
		m.state, m.wake = silent, time.Time{}
	case len(was) == 0:
		m.n = 1
		m.probe(now, time.Duration(m.rand())*probeEvery>>32)
	case m.state == announced:
		m.left, m.wake = announcements, now
		return append(out, m.tick(now)...)
	}
	return out
}

func without(all, gone []netip.Prefix) (rest []netip.Prefix) {
	for _, p := range all {
		if !slices.Contains(gone, p) {
			rest = append(rest, p)
		}
	}
	return rest
}

func (m *machine) probe(now time.Time, after time.Duration) {
	m.state, m.left, m.wake = probing, probes, now.Add(after)
}

// tick is called at wake.
func (m *machine) tick(now time.Time) []packet {
	switch {
	case m.state == probing && m.left > 0:
		m.left--
		m.wake = now.Add(probeEvery)
		return []packet{{m.question(), netip.AddrPort{}}}
	case m.state == probing:
		m.state, m.left = announced, announcements
	}
	if m.state != announced || m.left == 0 {
		m.wake = time.Time{}
		return nil
	}
	if m.left--; m.left > 0 {
		m.wake = now.Add(announceEvery)
	} else {
		m.wake = time.Time{}
	}
	m.last = now
	return []packet{{m.answer(0, nil, ttl, nil), netip.AddrPort{}}}
}

// goodbye is what is to be said at the end.
func (m *machine) goodbye() []packet {
	if m.state != announced {
		return nil
	}
	return []packet{{m.answer(0, nil, 0, nil), netip.AddrPort{}}}
}

// question is a probe: who has this name? And what we would say of it (RFC 6762, 8.1 and 8.2).
func (m *machine) question() []byte {
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{})
	b.EnableCompression()
	b.StartQuestions()
	b.Question(dnsmessage.Question{Name: m.name(), Type: dnsmessage.TypeALL, Class: dnsmessage.ClassINET | wantsUnicast})
	b.StartAuthorities()
	m.records(&b, m.header(ttl, false), nil)
	out, _ := b.Finish()
	return out
}

func (m *machine) header(ttl uint32, flush bool) dnsmessage.ResourceHeader {
	h := dnsmessage.ResourceHeader{Name: m.name(), Class: dnsmessage.ClassINET, TTL: ttl}
	if flush {
		h.Class |= cacheFlush
	}
	return h
}

// records writes the addresses of some types, nil for all.
func (m *machine) records(b *dnsmessage.Builder, h dnsmessage.ResourceHeader, types []uint16) {
	for _, p := range m.addrs {
		t := typeOf(p.Addr())
		switch {
		case types != nil && !slices.Contains(types, t):
		case p.Addr().Is4():
			b.AResource(h, dnsmessage.AResource{A: p.Addr().As4()})
		default:
			b.AAAAResource(h, dnsmessage.AAAAResource{AAAA: p.Addr().As16()})
		}
	}
}

// Types of records, as numbers: dnsmessage's own have names that would be linked in.
const (
	typeA    = uint16(dnsmessage.TypeA)
	typeAAAA = uint16(dnsmessage.TypeAAAA)
	typeALL  = uint16(dnsmessage.TypeALL)
	typeNSEC = 47
)

func typeOf(a netip.Addr) uint16 {
	if a.Is4() {
		return typeA
	}
	return typeAAAA
}

// answer says our addresses, and that there are no others. A question is repeated for resolvers that know DNS only.
func (m *machine) answer(id uint16, types []uint16, ttl uint32, legacy *dnsmessage.Question) []byte {
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{ID: id, Response: true, Authoritative: true})
	b.EnableCompression()
	if legacy != nil {
		b.StartQuestions()
		b.Question(*legacy)
	}
	h := m.header(ttl, legacy == nil)
	b.StartAnswers()
	m.records(&b, h, types)
	b.StartAdditionals()
	if types != nil {
		for _, t := range []uint16{typeA, typeAAAA} {
			if !slices.Contains(types, t) {
				m.records(&b, h, []uint16{t})
			}
		}
	}
	if ttl > 0 {
		b.UnknownResource(h, dnsmessage.UnknownResource{Type: typeNSEC, Data: m.nsec()})
	}
	out, _ := b.Finish()
	return out
}

// nsec is the data of a record that tells which types there are (RFC 6762, 6.1; RFC 4034, 4.1).
func (m *machine) nsec() []byte {
	label := m.label()
	b := append([]byte{byte(len(label))}, label...)
	b = append(b, "\x05local\x00"...)
	var bits [4]byte
	for _, p := range m.addrs {
		t := typeOf(p.Addr())
		bits[t/8] |= 0x80 >> (t % 8)
	}
	return append(append(b, 0, byte(len(bits))), bits[:]...)
}

// query is what a message asks of us, and says of our name.
type query struct {
	response      bool
	id            uint16
	types         []uint16 // that are asked for
	unicast       bool
	first         dnsmessage.Question
	known, others []netip.Addr // of our name in the answers: ours, that need not be said again, and strangers'
	rival         [][]byte     // what somebody else who probes would say, as type and data
}

// read takes out of a message what concerns our name. A malformed one is heard up to where it breaks.
func (m *machine) read(msg []byte) (q query) {
	var p dnsmessage.Parser
	h, err := p.Start(msg)
	if err != nil || h.OpCode != 0 {
		return q
	}
	q.response, q.id = h.Response, h.ID
	for {
		one, err := p.Question()
		if err != nil {
			break
		}
		if !h.Response && m.isOurs(one.Name) && one.Class&^wantsUnicast == dnsmessage.ClassINET {
			if len(q.types) == 0 {
				q.first, q.unicast = one, one.Class&wantsUnicast != 0
			}
			q.types = append(q.types, uint16(one.Type))
		}
	}
	if p.SkipAllQuestions() != nil {
		return q
	}
	for {
		h, err := p.AnswerHeader()
		if err != nil {
			break
		}
		a, err := m.address(&p, h, p.SkipAnswer)
		switch {
		case err != nil:
			return q
		case !a.IsValid():
		case !slices.ContainsFunc(m.addrs, func(p netip.Prefix) bool { return p.Addr() == a }):
			q.others = append(q.others, a)
		case h.TTL >= ttl/2:
			q.known = append(q.known, a)
		}
	}
	if p.SkipAllAnswers() != nil {
		return q
	}
	for {
		h, err := p.AuthorityHeader()
		if err != nil {
			return q
		}
		a, err := m.address(&p, h, p.SkipAuthority)
		if err != nil {
			return q
		}
		if a.IsValid() {
			q.rival = append(q.rival, rdata(a))
		}
	}
}

func (m *machine) isOurs(n dnsmessage.Name) bool {
	return strings.EqualFold(n.String(), m.label()+".local.")
}

// address is that of the next record, if it is one of our name. Only these types are read: Parser.Answer would link in
// the code for all others, 40 KiB.
func (m *machine) address(p *dnsmessage.Parser, h dnsmessage.ResourceHeader, skip func() error) (a netip.Addr, err error) {
	if !m.isOurs(h.Name) || h.Class&^cacheFlush != dnsmessage.ClassINET {
		return a, skip()
	}
	switch h.Type {
	case dnsmessage.TypeA:
		r, err := p.AResource()
		return netip.AddrFrom4(r.A), err
	case dnsmessage.TypeAAAA:
		r, err := p.AAAAResource()
		return netip.AddrFrom16(r.AAAA), err
	}
	return a, skip()
}

// rdata is how records are compared: class is the same, then type, then data as unsigned bytes (RFC 6762, 8.2).
func rdata(a netip.Addr) []byte {
	return append([]byte{byte(typeOf(a))}, a.AsSlice()...)
}

// onLink says whether somebody can be heard there (RFC 6762, 11).
func (m *machine) onLink(a netip.Addr) bool {
	a = a.WithZone("")
	return a.IsLinkLocalUnicast() || slices.ContainsFunc(m.addrs, func(p netip.Prefix) bool { return p.Contains(a) })
}

// echoes says whether what comes from an address is of this machine, which had that address a moment ago.
func (m *machine) echoes(now time.Time, a netip.Addr) bool {
	return now.Sub(m.parted) < echo && slices.ContainsFunc(m.past, func(p netip.Prefix) bool { return p.Addr() == a.WithZone("") })
}

// hear is called with what came in. own says that this machine has sent it, maybe from another link of the same network.
func (m *machine) hear(now time.Time, msg []byte, from netip.AddrPort, own bool) []packet {
	if m.state == silent || own || m.echoes(now, from.Addr().Unmap()) || !m.onLink(from.Addr().Unmap()) {
		return nil
	}
	q := m.read(msg)
	switch {
	case q.response && from.Port() == 5353 && len(q.others) > 0:
		return m.conflict(now)
	case q.response:
		return nil
	case m.state == probing:
		if len(q.rival) > 0 && m.loses(q.rival) {
			m.probe(now, time.Second) // it may turn out not to be there (RFC 6762, 8.2)
		}
		return nil
	case len(q.types) == 0:
		return nil
	}
	return m.reply(now, q, from)
}

// conflict: somebody else has the name. One that was ours is probed for again first: both may mean the same machine.
func (m *machine) conflict(now time.Time) []packet {
	if m.state == announced {
		m.probe(now, 0)
		return m.tick(now)
	}
	m.n = max(m.n, 1) + 1
	after := time.Duration(0)
	if m.n > 10 {
		after = 5 * time.Second // RFC 6762, 8.1: not more often than that
	}
	m.probe(now, after)
	return nil
}

// loses compares what two who probe at once would say: the lexicographically later data win.
func (m *machine) loses(rival [][]byte) bool {
	var ours [][]byte
	for _, p := range m.addrs {
		ours = append(ours, rdata(p.Addr()))
	}
	for _, all := range [][][]byte{ours, rival} {
		sort.Slice(all, func(i, j int) bool { return bytes.Compare(all[i], all[j]) < 0 })
	}
	return slices.CompareFunc(ours, rival, bytes.Compare) < 0
}

func (m *machine) reply(now time.Time, q query, from netip.AddrPort) []packet {
	types := q.types
	if slices.Contains(types, typeALL) {
		types = nil
	}
	if from.Port() != 5353 {
		q.first.Class &^= wantsUnicast
		return []packet{{m.answer(q.id, types, legacyTTL, &q.first), from}}
	}
	if m.knows(q, types) {
		return nil
	}
	msg := m.answer(0, types, ttl, nil)
	if q.unicast {
		return []packet{{msg, from}}
	}
	if now.Sub(m.last) < time.Second && len(q.rival) == 0 {
		return nil // everybody has just heard it (RFC 6762, 6)
	}
	m.last = now
	return []packet{{msg, netip.AddrPort{}}}
}

// knows says whether who asks has all the answers already (RFC 6762, 7.1).
func (m *machine) knows(q query, types []uint16) bool {
	for _, p := range m.addrs {
		if (types == nil || slices.Contains(types, typeOf(p.Addr()))) && !slices.Contains(q.known, p.Addr()) {
			return false
		}
	}
	return len(q.known) > 0
}
