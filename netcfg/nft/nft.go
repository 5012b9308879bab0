// Package nft writes coble's own nftables tables, one for IPv4 and, where a network has IPv6, one for that, whole and in
// one transaction. Another's is never written, and read only for whether it is a table of coble's. Each published port is an
// element of a map, so that a packet's cost does not grow with their number. A table that is already what it should be is left
// alone: connections survive an engine's restart.
package nft

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Network is a bridge whose containers are let out, published and kept apart.
type Network struct {
	Bridge     string
	V4, V6     netip.Prefix // zero: none of that family
	Internal   bool         // nothing goes out or comes in
	Masquerade bool         // what goes out gets the host's address
	ICC        bool         // containers may reach each other
}

func (n Network) subnet(f nftables.TableFamily) netip.Prefix {
	if f == nftables.TableFamilyIPv6 {
		return n.V6
	}
	return n.V4
}

// Rules are what the table should do.
type Rules struct {
	Table    string
	Networks []Network
	Ports    []Port
	// NoNAT leaves out what changes addresses: ports are published otherwise, and what goes out keeps its address.
	NoNAT bool
	// Decided4 and Decided6 say that another firewall drops what is forwarded between links that it does not know. Then
	// the guard is left to it: what it lets through is its owner's will.
	Decided4, Decided6 bool
}

func (r Rules) decided(f nftables.TableFamily) bool {
	if f == nftables.TableFamilyIPv6 {
		return r.Decided6
	}
	return r.Decided4
}

// LinkGroup is that of the bridges of every engine and of containers' links on them (ip-link(8), group): the guards of several
// leave each other's alone.
const LinkGroup = 0xc0b1e

// Ours tells whether a table with these chains is one of coble's, of whichever engine.
func Ours(_ string, chains []string) bool {
	return slices.ContainsFunc(chains, func(c string) bool { return c == guardChain || strings.HasPrefix(c, markPrefix) })
}

const (
	markPrefix = "is-"     // an empty chain's name carries the hash of what the table does
	guardChain = "guarded" // an empty chain: forwarding was off before coble came
)

// 4-byte registers, each a quarter of the 16-byte ones (linux/netfilter/nf_tables.h, NFT_REG32_00 and on).
const (
	reg0 = 8
	reg4 = reg0 + 4
)

// families are the tables that r needs: IPv4's always, IPv6's where a network has it.
func (r Rules) families() []nftables.TableFamily {
	if slices.ContainsFunc(r.Networks, func(n Network) bool { return n.V6.IsValid() }) {
		return []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyIPv6}
	}
	return []nftables.TableFamily{nftables.TableFamilyIPv4}
}

// Hash is pure: what the tables do, in a few characters.
func (r Rules) Hash() string { return r.hash(nil) }

func (r Rules) hash(guarded []bool) string {
	lines := []string{"v4", fmt.Sprint(guarded, r.Decided4, r.Decided6, r.NoNAT)}
	for _, n := range r.Networks {
		lines = append(lines, fmt.Sprint(n))
	}
	for _, p := range r.Ports {
		lines = append(lines, p.String())
	}
	slices.Sort(lines[2:])
	sum := sha256.Sum256([]byte(strings.Join(lines, "\n")))
	return hex.EncodeToString(sum[:10])
}

// Apply makes the tables do what r says, in one transaction, or changes nothing.
func Apply(r Rules) error {
	conn, err := nftables.New(nftables.AsLasting(), nftables.WithSockOptions(room)) // one socket for all
	if err != nil {
		return fmt.Errorf("reach nftables: %w", missing(err)) // the options open the socket
	}
	defer closeSoon(func() { conn.CloseLasting() })
	had := map[nftables.TableFamily][]string{}
	for _, f := range bothFamilies {
		if had[f], err = chainNames(conn, f, r.Table); err != nil {
			return err
		}
	}
	mark := markPrefix + r.hash(guarded(had))
	current := true
	for _, f := range bothFamilies {
		wanted := slices.Contains(r.families(), f)
		current = current && (wanted && slices.Contains(had[f], mark) || !wanted && len(had[f]) == 0)
	}
	if current {
		return nil
	}
	if err := r.queue(conn, had, mark); err != nil {
		return err
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("write nftables table %s: %w", r.Table, missing(err))
	}
	return nil
}

// room lets a transaction be of any size: it goes out as one message, which the usual buffer of a socket (socket(7), SO_SNDBUF) bounds
// to some 4,000 ports.
func room(c *netlink.Conn) error { return c.SetWriteBuffer(64 << 20) }

// ErrMissing says that the kernel has not what a table is made of.
var ErrMissing = errors.New("the kernel lacks a part (CONFIG_NF_TABLES, CONFIG_NF_TABLES_IPV4, NFT_CT, NFT_NAT, NFT_MASQ, NFT_FIB_IPV4, NFT_FIB_IPV6; are the modules nf_tables, nft_ct, nft_chain_nat, nft_nat, nft_masq, nft_fib_ipv4 loaded?)")

// missing adds ErrMissing to an answer that means it: no such family of sockets, no nftables among netfilter's subsystems
// (nfnetlink.c: EINVAL to a question, EOPNOTSUPP to a transaction), no such kind of chain or expression.
func missing(err error) error {
	for _, e := range []error{unix.ENOENT, unix.EOPNOTSUPP, unix.EPROTONOSUPPORT, unix.EAFNOSUPPORT, unix.EINVAL} {
		if errors.Is(err, e) {
			return fmt.Errorf("%w: %w", err, ErrMissing)
		}
	}
	return err
}

// guarded tells for each family whether these chains say that forwarding was off before.
func guarded(had map[nftables.TableFamily][]string) (list []bool) {
	for _, f := range bothFamilies {
		list = append(list, slices.Contains(had[f], guardChain))
	}
	return list
}

// queue puts into conn what makes the tables do what r says, and have the chain mark, where these chains are in them.
func (r Rules) queue(conn *nftables.Conn, had map[nftables.TableFamily][]string, mark string) error {
	guards := guarded(had)
	for i, f := range bothFamilies {
		b := &batch{Conn: conn, r: r, family: f, guarded: guards[i], t: &nftables.Table{Name: r.Table, Family: f}}
		wanted := slices.Contains(r.families(), f)
		if !wanted && len(had[f]) == 0 {
			continue
		}
		b.AddTable(b.t)
		b.DelTable(b.t)
		if !wanted {
			continue
		}
		b.AddTable(b.t)
		b.AddChain(&nftables.Chain{Table: b.t, Name: mark})
		if b.guarded {
			b.AddChain(&nftables.Chain{Table: b.t, Name: guardChain})
		}
		if err := b.build(); err != nil {
			return err
		}
	}
	return nil
}

var bothFamilies = []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyIPv6}

func familyOf(six bool) nftables.TableFamily {
	if six {
		return nftables.TableFamilyIPv6
	}
	return nftables.TableFamilyIPv4
}

// Guard notes in the table that forwarding, of IPv6 if six, was off before.
func Guard(table string, six bool) error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("reach nftables: %w", err)
	}
	t := conn.AddTable(&nftables.Table{Name: table, Family: familyOf(six)})
	conn.AddChain(&nftables.Chain{Table: t, Name: guardChain})
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("write nftables table %s: %w", table, missing(err))
	}
	return nil
}

// Guards tell for which families forwarding was off before this engine came, and before any other came that is still there.
func Guards(table string) (own, others [2]bool, err error) {
	conn, err := nftables.New()
	if err != nil {
		return own, others, fmt.Errorf("reach nftables: %w", err)
	}
	chains, err := conn.ListChains()
	if err != nil {
		return own, others, fmt.Errorf("list nftables chains: %w", missing(err))
	}
	for _, c := range chains {
		i := slices.Index(bothFamilies, c.Table.Family)
		switch {
		case i < 0 || c.Name != guardChain:
		case c.Table.Name == table:
			own[i] = true
		default:
			others[i] = true
		}
	}
	return own, others, nil
}

// Remove takes the tables away, if they are there.
func Remove(table string) error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("reach nftables: %w", err)
	}
	tables, err := conn.ListTables()
	if err != nil {
		if err = missing(err); errors.Is(err, ErrMissing) {
			return nil
		}
		return fmt.Errorf("list nftables tables: %w", err)
	}
	for _, t := range tables {
		if (t.Name == table || t.Name == countsOf(table)) && slices.Contains(bothFamilies, t.Family) {
			conn.DelTable(t)
		}
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("remove nftables table %s: %w", table, err)
	}
	return nil
}

func chainNames(conn *nftables.Conn, f nftables.TableFamily, table string) ([]string, error) {
	chains, err := conn.ListChainsOfTableFamily(f)
	if err != nil {
		return nil, fmt.Errorf("list nftables chains: %w", missing(err))
	}
	var names []string
	for _, c := range chains {
		if c.Table.Name == table {
			names = append(names, c.Name)
		}
	}
	return names, nil
}

// batch is a table under construction.
type batch struct {
	*nftables.Conn
	t       *nftables.Table
	r       Rules
	family  nftables.TableFamily
	guarded bool
	ours    *nftables.Set // the bridges
}

func (b *batch) six() bool { return b.family == nftables.TableFamilyIPv6 }

func (b *batch) chain(name string, typ nftables.ChainType, hook *nftables.ChainHook, prio nftables.ChainPriority) *nftables.Chain {
	return b.AddChain(&nftables.Chain{Table: b.t, Name: name, Type: typ, Hooknum: hook, Priority: nftables.ChainPriorityRef(prio)})
}

func (b *batch) rule(c *nftables.Chain, exprs ...[]expr.Any) {
	b.AddRule(&nftables.Rule{Table: b.t, Chain: c, Exprs: slices.Concat(exprs...)})
}

// build writes, in nft's own words (IPv6 likewise, without what is about 127.0.0.0/8):
//
//	set bridges { … }  set internal { … }  set same { pairs of a bridge with itself, where containers may reach each other }
//	chain private   { type filter hook prerouting priority raw; iifname @bridges ip daddr 127.0.0.0/8 drop }
//	chain publish   { type nat hook prerouting priority dstnat; fib daddr type local dnat to meta l4proto . [ip daddr .] th dport map @…;
//	                  for each Listen: iifname [!=] @links-N or ip daddr @addresses-N before that, and a map @ports-N }
//	chain local     { type nat hook output priority dstnat; the same, of any link }
//	chain masquerade{ type nat hook postrouting priority srcnat; for each network: ip saddr SUBNET oifname != BRIDGE masquerade;
//	                  ip saddr SUBNET oifname BRIDGE ct status dnat masquerade; then ip saddr 127.0.0.0/8 oifname @bridges masquerade }
//	chain forward   { type filter hook forward priority filter;
//	                  [if any is internal: iifname . oifname @same accept; iifname @internal drop; oifname @internal drop];
//	                  oifname @bridges goto inward;
//	                  [where forwarding was off before: iifgroup != LinkGroup oifgroup != LinkGroup drop] }
//	chain inward    { ct state established,related accept; iifname . oifname @same accept; ct status dnat accept; drop }
//
// What goes out of a bridge is left to the host's own rules.
func (b *batch) build() error {
	internal, same, err := b.sets()
	if err != nil {
		return err
	}
	if !b.six() {
		private := b.chain("private", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, *nftables.ChainPriorityRaw)
		b.rule(private, in(expr.MetaKeyIIFNAME, b.ours, false), b.daddrIn(loopback4), verdict(expr.VerdictDrop))
	}
	if !b.r.NoNAT {
		if err := b.nat(); err != nil {
			return err
		}
	}
	b.forward(internal, same)
	return nil
}

// nat is the part of build that changes addresses.
func (b *batch) nat() error {
	publish := b.chain("publish", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, *nftables.ChainPriorityNATDest)
	local := b.chain("local", nftables.ChainTypeNAT, nftables.ChainHookOutput, *nftables.ChainPriorityNATDest)
	if err := b.publish(publish, local); err != nil {
		return err
	}
	masq := b.chain("masquerade", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, *nftables.ChainPriorityNATSource)
	for _, n := range b.r.Networks {
		subnet := n.subnet(b.family)
		if !subnet.IsValid() {
			continue
		}
		if n.Masquerade && !n.Internal {
			b.rule(masq, b.saddrIn(subnet), oif(n.Bridge, expr.CmpOpNeq), []expr.Any{&expr.Masq{}})
		}
		b.rule(masq, b.saddrIn(subnet), oif(n.Bridge, expr.CmpOpEq), dnatted(), []expr.Any{&expr.Masq{}})
	}
	if !b.six() {
		b.rule(masq, b.saddrIn(loopback4), in(expr.MetaKeyOIFNAME, b.ours, false), []expr.Any{&expr.Masq{}})
	}
	return nil
}

// forward is the part of build about who reaches whom. What has been let in already comes first, and what goes elsewhere is asked
// no more than whether it does.
func (b *batch) forward(internal, same *nftables.Set) {
	forward := b.chain("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, *nftables.ChainPriorityFilter)
	inward := b.AddChain(&nftables.Chain{Table: b.t, Name: "inward"})
	neighbours := []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: reg0}, &expr.Meta{Key: expr.MetaKeyOIFNAME, Register: reg4},
		&expr.Lookup{SourceRegister: reg0, SetName: same.Name, SetID: same.ID},
	}
	if slices.ContainsFunc(b.r.Networks, func(n Network) bool { return n.Internal }) {
		b.rule(forward, neighbours, verdict(expr.VerdictAccept))
		b.rule(forward, in(expr.MetaKeyIIFNAME, internal, false), verdict(expr.VerdictDrop))
		b.rule(forward, in(expr.MetaKeyOIFNAME, internal, false), verdict(expr.VerdictDrop))
	}
	b.rule(forward, in(expr.MetaKeyOIFNAME, b.ours, false), []expr.Any{&expr.Verdict{Kind: expr.VerdictGoto, Chain: inward.Name}})
	if b.guarded && !b.r.decided(b.family) {
		b.rule(forward, otherGroup(expr.MetaKeyIIFGROUP), otherGroup(expr.MetaKeyOIFGROUP), verdict(expr.VerdictDrop))
	}
	b.rule(inward, established(), verdict(expr.VerdictAccept))
	b.rule(inward, neighbours, verdict(expr.VerdictAccept))
	b.rule(inward, dnatted(), verdict(expr.VerdictAccept))
	b.rule(inward, verdict(expr.VerdictDrop))
}

var loopback4 = netip.MustParsePrefix("127.0.0.0/8")

// sets writes the sets of bridges.
func (b *batch) sets() (internal, same *nftables.Set, err error) {
	pair, err := nftables.ConcatSetType(nftables.TypeIFName, nftables.TypeIFName)
	if err != nil {
		return nil, nil, err
	}
	b.ours = &nftables.Set{Table: b.t, Name: "bridges", KeyType: nftables.TypeIFName, KeyByteOrder: binaryutil.NativeEndian}
	internal = &nftables.Set{Table: b.t, Name: "internal", KeyType: nftables.TypeIFName, KeyByteOrder: binaryutil.NativeEndian}
	same = &nftables.Set{Table: b.t, Name: "same", KeyType: pair, Concatenation: true}
	var all, closed, pairs []nftables.SetElement
	for _, n := range b.r.Networks {
		name := padName(n.Bridge)
		all = append(all, nftables.SetElement{Key: name})
		if n.Internal {
			closed = append(closed, nftables.SetElement{Key: name})
		}
		if n.ICC {
			pairs = append(pairs, nftables.SetElement{Key: slices.Concat(name, name)})
		}
	}
	if err := errors.Join(b.AddSet(b.ours, all), b.AddSet(internal, closed), b.AddSet(same, pairs)); err != nil {
		return nil, nil, fmt.Errorf("write sets of bridges: %w", err)
	}
	return internal, same, nil
}

// isLocal matches packets to an address of the host's own.
func isLocal() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
	}
}

// in matches a link's name against a set.
func in(key expr.MetaKey, s *nftables.Set, not bool) []expr.Any {
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, &expr.Lookup{SourceRegister: 1, SetName: s.Name, SetID: s.ID, Invert: not}}
}

// otherGroup matches links that are no engine's bridges.
func otherGroup(key expr.MetaKey) []expr.Any {
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(LinkGroup)}}
}

func oif(name string, op expr.CmpOp) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1}, &expr.Cmp{Op: op, Register: 1, Data: padName(name)}}
}

func padName(name string) []byte {
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, name)
	return padded
}

// offsets are those of the source and the destination address in the network header (RFC 791, RFC 8200).
func (b *batch) offsets() (source, destination uint32) { return offsets(b.family) }

func offsets(f nftables.TableFamily) (source, destination uint32) {
	if f == nftables.TableFamilyIPv6 {
		return 8, 24
	}
	return 12, 16
}

func (b *batch) saddrIn(p netip.Prefix) []expr.Any { s, _ := b.offsets(); return addrIn(s, p) }
func (b *batch) daddrIn(p netip.Prefix) []expr.Any { _, d := b.offsets(); return addrIn(d, p) }

// addrIn compares the address at an offset of the network header.
func addrIn(offset uint32, p netip.Prefix) []expr.Any {
	size := p.Addr().BitLen() / 8
	mask := net.CIDRMask(p.Bits(), 8*size)
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: uint32(size)},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: uint32(size), Mask: mask, Xor: make([]byte, size)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: p.Masked().Addr().AsSlice()},
	}
}

// dnatted matches connections whose destination was changed (linux/netfilter/nf_conntrack_common.h, IPS_DST_NAT).
func dnatted() []expr.Any { return ctBits(expr.CtKeySTATUS, 1<<5) }

// established matches state established and related.
func established() []expr.Any {
	return ctBits(expr.CtKeySTATE, expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED)
}

func ctBits(key expr.CtKey, bits uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: key, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}

func verdict(k expr.VerdictKind) []expr.Any { return []expr.Any{&expr.Verdict{Kind: k}} }
