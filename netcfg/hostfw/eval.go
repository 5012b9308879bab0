package hostfw

import (
	"bytes"
	"encoding/binary"
	"net"
	"slices"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// may is what can be said of a condition.
type may int

const (
	no may = iota
	perhaps
	yes
)

// outcome are the ways in which a chain or a rule can leave a packet.
type outcome struct{ accept, drop, next bool }

func (o *outcome) add(p outcome) {
	o.accept, o.drop, o.next = o.accept || p.accept, o.drop || p.drop, o.next || p.next
}

// walk is one packet's way through a table.
type walk struct {
	t    *table
	p    Packet
	done map[string]outcome // of chains
	regs map[uint32][]byte  // what is known to be in a register, by number of four bytes
}

func (t *table) sees(p Packet) bool {
	switch t.family {
	case nftables.TableFamilyIPv4:
		return !p.Six
	case nftables.TableFamilyIPv6:
		return p.Six
	}
	return true
}

// passes tells whether none of the table's chains is sure to drop the packet.
func (t *table) passes(p Packet) bool {
	w := &walk{t: t, p: p, done: map[string]outcome{}}
	return !slices.ContainsFunc(t.bases, func(b base) bool {
		o := w.chain(b.name)
		return !o.accept && (!o.next || b.drop)
	})
}

// chain follows a packet through a chain. Chains make no circle (nf_tables_api.c, nft_chain_validate).
func (w *walk) chain(name string) outcome {
	if o, done := w.done[name]; done {
		return o
	}
	o := outcome{next: true}
	w.done[name] = o
	o.next = false
	for _, r := range w.t.chains[name] {
		w.regs = map[uint32][]byte{}
		hit, left, returned := w.rule(r)
		if hit == no {
			continue
		}
		o.accept, o.drop, o.next = o.accept || left.accept, o.drop || left.drop, o.next || returned
		if hit == yes && !left.next {
			w.done[name] = o
			return o
		}
	}
	o.next = true
	w.done[name] = o
	return o
}

// rule tells whether a rule applies, how it leaves the packet if it does, and whether that may be by a return.
func (w *walk) rule(r rule) (hit may, left outcome, returned bool) {
	hit = yes
	for _, s := range r {
		m, v := w.statement(s)
		hit = min(hit, m)
		if hit == no {
			return no, left, false
		}
		if v == nil {
			continue
		}
		switch v.code {
		case unix.NFT_RETURN:
			return hit, left, true
		case unix.NFT_JUMP, unix.NFT_GOTO:
			o := w.chain(v.chain)
			left.accept, left.drop = o.accept, o.drop
			if v.code == unix.NFT_GOTO {
				return hit, left, o.next
			}
			left.next = o.next
			return hit, left, false
		case nfAccept:
			left.accept = true
		case nfDrop:
			left.drop = true
		default: // continue, queue: whoever takes it out may put it back
			left.accept, left.next = v.code != unix.NFT_CONTINUE, true
		}
		return hit, left, false
	}
	left.next = true
	return hit, left, false
}

// Verdicts (linux/netfilter.h).
const (
	nfDrop   = 0
	nfAccept = 1
)

// register is the number of the four bytes that a register begins at (nf_tables.h, enum nft_registers).
func register(n uint32) uint32 {
	if n >= unix.NFT_REG32_00 {
		return n - unix.NFT_REG32_00 + 4
	}
	return 4 * n
}

// statement tells whether an expression lets the rule go on, and the verdict that it gives.
func (w *walk) statement(s statement) (may, *verdict) {
	switch s.name {
	case "meta":
		if to, loads := s.numbers[unix.NFTA_META_DREG]; loads {
			w.load(to, w.meta(s.numbers[unix.NFTA_META_KEY]))
		}
	case "ct":
		if to, loads := s.numbers[unix.NFTA_CT_DREG]; loads {
			w.load(to, w.ct(s.numbers[unix.NFTA_CT_KEY]))
		}
	case "payload":
		w.load(s.numbers[unix.NFTA_PAYLOAD_DREG], nil)
	case "bitwise":
		w.load(s.numbers[unix.NFTA_BITWISE_DREG], masked(w.regs[register(s.numbers[unix.NFTA_BITWISE_SREG])], s))
	case "cmp":
		return compare(w.regs[register(s.numbers[unix.NFTA_CMP_SREG])], s), nil
	case "lookup":
		return w.lookup(s)
	case "immediate":
		if s.verdict == nil {
			w.load(s.numbers[unix.NFTA_IMMEDIATE_DREG], s.bytes[unix.NFTA_IMMEDIATE_DATA])
		}
		return yes, s.verdict
	case "reject":
		return yes, &verdict{code: nfDrop}
	case "counter", "log", "objref", "notrack", "flow_offload":
	case "match":
		return w.extension(s), nil
	case "target":
		if s.set == "REJECT" {
			return yes, &verdict{code: nfDrop}
		}
	default: // a limit, or what this does not know
		return perhaps, nil
	}
	return yes, nil
}

func (w *walk) load(reg uint32, value []byte) { w.regs[register(reg)] = value }

// meta is what is known of a packet (nf_tables.h, enum nft_meta_keys); nil: nothing.
func (w *walk) meta(key uint32) []byte {
	switch key {
	case unix.NFT_META_IIFNAME:
		return linkName(w.p.From)
	case unix.NFT_META_OIFNAME:
		return linkName(w.p.To)
	case unix.NFT_META_IIF:
		return linkIndex(w.p.From)
	case unix.NFT_META_OIF:
		return linkIndex(w.p.To)
	case unix.NFT_META_L4PROTO:
		return []byte{w.p.Proto}
	case unix.NFT_META_NFPROTO:
		if w.p.Six {
			return []byte{unix.NFPROTO_IPV6}
		}
		return []byte{unix.NFPROTO_IPV4}
	case unix.NFT_META_PROTOCOL:
		if w.p.Six {
			return binary.BigEndian.AppendUint16(nil, unix.ETH_P_IPV6)
		}
		return binary.BigEndian.AppendUint16(nil, unix.ETH_P_IP)
	}
	return nil
}

func linkName(name string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, name)
	return b
}

func linkIndex(name string) []byte {
	i, err := net.InterfaceByName(name)
	if err != nil {
		return make([]byte, 4) // that of none
	}
	return binary.NativeEndian.AppendUint32(nil, uint32(i.Index))
}

// Bits of ct state and ct status (linux/netfilter/nf_conntrack_common.h).
const (
	ctStateNew  = 1 << 3
	ctStatusNAT = 1 << 5
)

// ct is what is known of its connection: it is a new one.
func (w *walk) ct(key uint32) []byte {
	switch key {
	case unix.NFT_CT_STATE:
		return binary.NativeEndian.AppendUint32(nil, ctStateNew)
	case unix.NFT_CT_STATUS:
		status := uint32(0)
		if w.p.DNAT {
			status = ctStatusNAT
		}
		return binary.NativeEndian.AppendUint32(nil, status)
	case unix.NFT_CT_DIRECTION:
		return []byte{0}
	}
	return nil
}

func masked(value []byte, s statement) []byte {
	mask, xor := s.bytes[unix.NFTA_BITWISE_MASK], s.bytes[unix.NFTA_BITWISE_XOR]
	if len(mask) == 0 || len(value) < len(mask) || len(xor) < len(mask) {
		return nil
	}
	out := make([]byte, len(mask))
	for i := range mask {
		out[i] = value[i]&mask[i] ^ xor[i]
	}
	return out
}

// compare is of as many bytes as the rule has: a name without its end is the beginning of several.
func compare(value []byte, s statement) may {
	want := s.bytes[unix.NFTA_CMP_DATA]
	if len(want) == 0 || len(value) < len(want) {
		return perhaps
	}
	c := bytes.Compare(value[:len(want)], want)
	switch s.numbers[unix.NFTA_CMP_OP] {
	case unix.NFT_CMP_EQ:
		return sure(c == 0)
	case unix.NFT_CMP_NEQ:
		return sure(c != 0)
	}
	return perhaps
}

func sure(is bool) may {
	if is {
		return yes
	}
	return no
}

// lookup looks into a set of single values. One of several values, or of ranges, may hold anything.
func (w *walk) lookup(s statement) (may, *verdict) {
	value := w.regs[register(s.numbers[unix.NFTA_LOOKUP_SREG])]
	to, mapped := s.numbers[unix.NFTA_LOOKUP_DREG]
	invert := s.numbers[unix.NFTA_LOOKUP_FLAGS]&unix.NFT_LOOKUP_F_INV != 0
	for _, e := range w.t.sets[s.set] {
		switch {
		case value == nil || len(e.Key) != len(value) || e.IntervalEnd || len(e.KeyEnd) > 0:
			return w.anything(s, mapped)
		case !bytes.Equal(e.Key, value):
			continue
		case mapped && to == unix.NFT_REG_VERDICT:
			v, err := decodeVerdict(e.Val)
			if err != nil {
				return perhaps, nil
			}
			return yes, v
		case mapped:
			w.load(to, e.Val)
		}
		return sure(!invert), nil
	}
	return sure(invert), nil
}

// anything is a lookup of what is not known: a map of verdicts may accept.
func (w *walk) anything(s statement, mapped bool) (may, *verdict) {
	to := s.numbers[unix.NFTA_LOOKUP_DREG]
	if !mapped || to != unix.NFT_REG_VERDICT {
		if mapped {
			w.load(to, nil)
		}
		return perhaps, nil
	}
	all := outcome{}
	for _, e := range w.t.sets[s.set] {
		v, err := decodeVerdict(e.Val)
		if err != nil {
			continue
		}
		if v.code == nfAccept {
			return perhaps, v
		}
		if v.chain != "" {
			all.add(w.chain(v.chain))
		}
	}
	if all.accept {
		return perhaps, &verdict{code: nfAccept}
	}
	return perhaps, nil
}

// Offsets in the data of the extension conntrack (linux/netfilter/xt_conntrack.h, xt_conntrack_mtinfo3), and its flag for states.
const (
	xtFlags, xtInverted = 146, 148
	xtStates            = 150
	xtMatchState        = 1
	xtStateAlias        = 1 << 13 // it was asked for as the extension state
)

// extension is a match of xtables, which iptables writes into nftables.
func (w *walk) extension(s statement) may {
	b := s.bytes[unix.NFTA_MATCH_INFO]
	switch {
	case s.set == "comment":
		return yes
	case s.set == "conntrack" && len(b) >= xtStates+2:
		if binary.NativeEndian.Uint16(b[xtFlags:])&^xtStateAlias != xtMatchState || binary.NativeEndian.Uint16(b[xtInverted:])&xtMatchState != 0 {
			return perhaps
		}
		return sure(binary.NativeEndian.Uint16(b[xtStates:])&ctStateNew != 0)
	}
	return perhaps
}

// jump is the chain that a rule sends packets to, or "".
func (r rule) jump() string {
	for _, s := range r {
		if s.verdict != nil {
			return s.verdict.chain
		}
	}
	return ""
}

// linksOf are the links that a rule wants packets to come from.
func (t *table) linksOf(r rule) (links []string) {
	in := false
	for _, s := range r {
		switch {
		case s.name == "meta":
			in = s.numbers[unix.NFTA_META_KEY] == unix.NFT_META_IIFNAME
		case in && s.name == "cmp" && s.numbers[unix.NFTA_CMP_OP] == unix.NFT_CMP_EQ:
			links = append(links, text(s.bytes[unix.NFTA_CMP_DATA]))
		case in && s.name == "lookup":
			for _, e := range t.sets[s.set] {
				links = append(links, text(e.Key))
			}
		}
	}
	return links
}
