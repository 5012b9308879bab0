// Package dns answers the questions of containers for each other's names, and passes on all others. Each container has a
// server of its own at 127.0.0.11, so that who asks is known by where it was asked.
package dns

import (
	"net/netip"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

// Zone is what one container may know.
type Zone interface {
	// Resolve finds the addresses behind a name, in lower case and without its last dot. known is false for a name that
	// is none of a container's.
	Resolve(name string) (addrs []netip.Addr, known bool)
	// Reverse finds the name behind an address, likewise.
	Reverse(a netip.Addr) (name string, known bool)
	// Upstream are the resolvers for all else; none: there is nothing else.
	Upstream() []netip.AddrPort
}

const ttl = 600 // seconds; Docker's, though names come and go: nobody keeps them

// Answer is pure but for the zone: the reply to a query, or nil where it is for others to answer. turn chooses which of
// several addresses comes first. What is no query is nobody's to answer: ok is false.
func Answer(query []byte, z Zone, turn int) (reply []byte, ok bool) {
	var p dnsmessage.Parser
	head, err := p.Start(query)
	if err != nil || head.Response {
		return nil, false
	}
	q, err := p.Question()
	if err != nil {
		return nil, false
	}
	if _, err := p.Question(); err != dnsmessage.ErrSectionDone || head.OpCode != 0 {
		return Failure(query, dnsmessage.RCodeNotImplemented), true
	}
	if q.Class != dnsmessage.ClassINET {
		return nil, true
	}
	name := strings.ToLower(strings.TrimSuffix(q.Name.String(), "."))
	head.Response, head.Authoritative, head.RecursionAvailable, head.RCode = true, false, true, dnsmessage.RCodeSuccess
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{ID: head.ID, Response: true, RecursionDesired: head.RecursionDesired, RecursionAvailable: true})
	b.EnableCompression()
	if q.Type == dnsmessage.TypePTR {
		return pointer(b, q, name, z), true
	}
	addrs, known := z.Resolve(name)
	if !known {
		return nil, true
	}
	if b.StartQuestions() != nil || b.Question(q) != nil || b.StartAnswers() != nil {
		return Failure(query, dnsmessage.RCodeServerFailure), true
	}
	h := dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: ttl}
	for i := range addrs {
		a := addrs[(i+turn)%len(addrs)]
		switch {
		case a.Is4() && q.Type == dnsmessage.TypeA:
			err = b.AResource(h, dnsmessage.AResource{A: a.As4()})
		case a.Is6() && q.Type == dnsmessage.TypeAAAA:
			err = b.AAAAResource(h, dnsmessage.AAAAResource{AAAA: a.As16()})
		}
		if err != nil {
			return Failure(query, dnsmessage.RCodeServerFailure), true
		}
	}
	return finish(b, query), true
}

func pointer(b dnsmessage.Builder, q dnsmessage.Question, name string, z Zone) []byte {
	a, isAddr := reverseAddr(name)
	target, known := "", false
	if isAddr {
		target, known = z.Reverse(a)
	}
	if !known {
		return nil
	}
	ptr, err := dnsmessage.NewName(target + ".")
	if err != nil || b.StartQuestions() != nil || b.Question(q) != nil || b.StartAnswers() != nil ||
		b.PTRResource(dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: ttl}, dnsmessage.PTRResource{PTR: ptr}) != nil {
		return nil
	}
	return finish(b, nil)
}

func finish(b dnsmessage.Builder, query []byte) []byte {
	out, err := b.Finish()
	if err != nil {
		return Failure(query, dnsmessage.RCodeServerFailure)
	}
	return out
}

// Failure is the reply that says why there is none; nil for what is no query.
func Failure(query []byte, code dnsmessage.RCode) []byte {
	var p dnsmessage.Parser
	head, err := p.Start(query)
	if err != nil {
		return nil
	}
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: head.ID, Response: true, OpCode: head.OpCode, RecursionDesired: head.RecursionDesired, RecursionAvailable: true, RCode: code}}
	if q, err := p.Question(); err == nil {
		m.Questions = []dnsmessage.Question{q}
	}
	out, err := m.Pack()
	if err != nil {
		return nil
	}
	return out
}

// reverseAddr reads a name in in-addr.arpa (RFC 1035, section 3.5) or ip6.arpa (RFC 3596, section 2.5).
func reverseAddr(name string) (netip.Addr, bool) {
	if four, ok := strings.CutSuffix(name, ".in-addr.arpa"); ok {
		labels := strings.Split(four, ".")
		if len(labels) != 4 {
			return netip.Addr{}, false
		}
		a, err := netip.ParseAddr(labels[3] + "." + labels[2] + "." + labels[1] + "." + labels[0])
		return a, err == nil && a.Is4()
	}
	six, ok := strings.CutSuffix(name, ".ip6.arpa")
	labels := strings.Split(six, ".")
	if !ok || len(labels) != 32 {
		return netip.Addr{}, false
	}
	var b strings.Builder
	for i := range labels {
		digit := labels[31-i]
		if len(digit) != 1 {
			return netip.Addr{}, false
		}
		if i > 0 && i%4 == 0 {
			b.WriteByte(':')
		}
		b.WriteString(digit)
	}
	a, err := netip.ParseAddr(b.String())
	return a, err == nil
}
