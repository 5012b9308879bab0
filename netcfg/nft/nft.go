// Package nft writes coble's own nftables table, whole and in one transaction, and never reads or writes another. Each
// published port is an element of a map, so that a packet's cost does not grow with their number. A table that is
// already what it should be is left alone: connections survive an engine's restart.
package nft

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Port is a published port: what reaches the host there goes to a container.
type Port struct {
	Proto    string     // tcp or udp
	HostIP   netip.Addr // invalid or unspecified: every address of the host's
	HostPort uint16
	To       netip.AddrPort
}

// Rules are what the table should do.
type Rules struct {
	Table  string
	Bridge string
	Subnet netip.Prefix
	Ports  []Port
}

const (
	markPrefix = "is-"     // an empty chain's name carries the hash of what the table does
	guardChain = "guarded" // an empty chain: forwarding was off before coble came
)

// 4-byte registers, each half, quarter of the 16-byte ones (linux/netfilter/nf_tables.h, NFT_REG32_00 and on).
const (
	reg0 = 8
	reg1 = 9
	reg2 = 10
)

// hash is pure: what the table does, in a few characters.
func (r Rules) hash(guarded bool) string {
	ports := slices.Clone(r.Ports)
	lines := []string{"v1", r.Bridge, r.Subnet.String(), fmt.Sprint(guarded)}
	for _, p := range ports {
		lines = append(lines, fmt.Sprint(p))
	}
	slices.Sort(lines[4:])
	sum := sha256.Sum256([]byte(strings.Join(lines, "\n")))
	return hex.EncodeToString(sum[:10])
}

// Apply makes the table do what r says, in one transaction, or changes nothing.
func Apply(r Rules) error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("reach nftables: %w", err)
	}
	chains, err := chainNames(conn, r.Table)
	if err != nil {
		return err
	}
	guarded := slices.Contains(chains, guardChain)
	mark := markPrefix + r.hash(guarded)
	if slices.Contains(chains, mark) {
		return nil
	}
	b := &batch{Conn: conn, r: r, guarded: guarded, t: &nftables.Table{Name: r.Table, Family: nftables.TableFamilyIPv4}}
	b.AddTable(b.t)
	b.DelTable(b.t)
	b.AddTable(b.t)
	b.AddChain(&nftables.Chain{Table: b.t, Name: mark})
	if guarded {
		b.AddChain(&nftables.Chain{Table: b.t, Name: guardChain})
	}
	if err := b.build(); err != nil {
		return err
	}
	if err := b.Flush(); err != nil {
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) {
			return fmt.Errorf("write nftables table %s: %w: the kernel lacks a part (CONFIG_NF_TABLES, NFT_NAT, NFT_MASQ, NFT_FIB_IPV4; are the modules loaded?)", r.Table, err)
		}
		return fmt.Errorf("write nftables table %s: %w", r.Table, err)
	}
	return nil
}

// Guard notes in the table that forwarding was off before.
func Guard(table string) error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("reach nftables: %w", err)
	}
	t := conn.AddTable(&nftables.Table{Name: table, Family: nftables.TableFamilyIPv4})
	conn.AddChain(&nftables.Chain{Table: t, Name: guardChain})
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("write nftables table %s: %w", table, err)
	}
	return nil
}

// Remove takes the table away, if it is there.
func Remove(table string) error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("reach nftables: %w", err)
	}
	t := conn.AddTable(&nftables.Table{Name: table, Family: nftables.TableFamilyIPv4})
	conn.DelTable(t)
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("remove nftables table %s: %w", table, err)
	}
	return nil
}

func chainNames(conn *nftables.Conn, table string) ([]string, error) {
	chains, err := conn.ListChainsOfTableFamily(nftables.TableFamilyIPv4)
	if err != nil {
		return nil, fmt.Errorf("list nftables chains: %w", err)
	}
	var names []string
	for _, c := range chains {
		if c.Table.Name == table {
			names = append(names, c.Name)
		}
	}
	return names, nil
}

// batch is the table under construction.
type batch struct {
	*nftables.Conn
	t       *nftables.Table
	r       Rules
	guarded bool
}

func (b *batch) chain(name string, typ nftables.ChainType, hook *nftables.ChainHook, prio nftables.ChainPriority) *nftables.Chain {
	return b.AddChain(&nftables.Chain{Table: b.t, Name: name, Type: typ, Hooknum: hook, Priority: nftables.ChainPriorityRef(prio)})
}

func (b *batch) rule(c *nftables.Chain, exprs ...[]expr.Any) {
	b.AddRule(&nftables.Rule{Table: b.t, Chain: c, Exprs: slices.Concat(exprs...)})
}

// build writes, in nft's own words:
//
//	chain private   { type filter hook prerouting priority raw; iifname BRIDGE ip daddr 127.0.0.0/8 drop }
//	chain publish   { type nat hook prerouting priority dstnat; fib daddr type local dnat to meta l4proto . [ip daddr .] th dport map @… }
//	chain local     { type nat hook output priority dstnat; the same }
//	chain masquerade{ type nat hook postrouting priority srcnat; ip saddr SUBNET oifname != BRIDGE masquerade;
//	                  ip saddr SUBNET oifname BRIDGE ct status dnat masquerade; ip saddr 127.0.0.0/8 oifname BRIDGE masquerade }
//	chain forward   { type filter hook forward priority filter; oifname BRIDGE iifname != BRIDGE ct state established,related accept,
//	                  ct status dnat accept, drop; [where forwarding was off before: iifname != BRIDGE oifname != BRIDGE drop] }
func (b *batch) build() error {
	private := b.chain("private", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, *nftables.ChainPriorityRaw)
	b.rule(private, iif(b.r.Bridge, expr.CmpOpEq), daddrIn(netip.MustParsePrefix("127.0.0.0/8")), verdict(expr.VerdictDrop))

	publish := b.chain("publish", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, *nftables.ChainPriorityNATDest)
	local := b.chain("local", nftables.ChainTypeNAT, nftables.ChainHookOutput, *nftables.ChainPriorityNATDest)
	if err := b.ports(publish, local); err != nil {
		return err
	}

	masq := b.chain("masquerade", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, *nftables.ChainPriorityNATSource)
	b.rule(masq, saddrIn(b.r.Subnet), oif(b.r.Bridge, expr.CmpOpNeq), []expr.Any{&expr.Masq{}})
	b.rule(masq, saddrIn(b.r.Subnet), oif(b.r.Bridge, expr.CmpOpEq), dnatted(), []expr.Any{&expr.Masq{}})
	b.rule(masq, saddrIn(netip.MustParsePrefix("127.0.0.0/8")), oif(b.r.Bridge, expr.CmpOpEq), []expr.Any{&expr.Masq{}})

	forward := b.chain("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, *nftables.ChainPriorityFilter)
	in := slices.Concat(oif(b.r.Bridge, expr.CmpOpEq), iif(b.r.Bridge, expr.CmpOpNeq))
	b.rule(forward, in, established(), verdict(expr.VerdictAccept))
	b.rule(forward, in, dnatted(), verdict(expr.VerdictAccept))
	b.rule(forward, in, verdict(expr.VerdictDrop))
	if b.guarded {
		b.rule(forward, iif(b.r.Bridge, expr.CmpOpNeq), oif(b.r.Bridge, expr.CmpOpNeq), verdict(expr.VerdictDrop))
	}
	return nil
}

// ports writes the two maps, and the rules that look into them.
func (b *batch) ports(chains ...*nftables.Chain) error {
	anyKey, err1 := nftables.ConcatSetType(nftables.TypeInetProto, nftables.TypeInetService)
	addrKey, err2 := nftables.ConcatSetType(nftables.TypeInetProto, nftables.TypeIPAddr, nftables.TypeInetService)
	target, err3 := nftables.ConcatSetType(nftables.TypeIPAddr, nftables.TypeInetService)
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	var onAny, onAddr []nftables.SetElement
	for _, p := range b.r.Ports {
		proto := byte(unix.IPPROTO_TCP)
		if p.Proto == "udp" {
			proto = unix.IPPROTO_UDP
		}
		e := nftables.SetElement{Val: slices.Concat(p.To.Addr().AsSlice(), padPort(p.To.Port()))}
		if p.HostIP.IsValid() && !p.HostIP.IsUnspecified() {
			e.Key = slices.Concat([]byte{proto, 0, 0, 0}, p.HostIP.AsSlice(), padPort(p.HostPort))
			onAddr = append(onAddr, e)
		} else {
			e.Key = slices.Concat([]byte{proto, 0, 0, 0}, padPort(p.HostPort))
			onAny = append(onAny, e)
		}
	}
	addrMap := &nftables.Set{Table: b.t, Name: "ports-of-address", IsMap: true, Concatenation: true, KeyType: addrKey, DataType: target}
	anyMap := &nftables.Set{Table: b.t, Name: "ports", IsMap: true, Concatenation: true, KeyType: anyKey, DataType: target}
	if err := errors.Join(b.AddSet(addrMap, onAddr), b.AddSet(anyMap, onAny)); err != nil {
		return fmt.Errorf("write port map: %w", err)
	}
	proto := &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg0}
	for _, c := range chains {
		b.rule(c, isLocal(), []expr.Any{
			proto,
			&expr.Payload{DestRegister: reg1, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4},
			&expr.Payload{DestRegister: reg2, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
			lookup(addrMap), dnat(),
		})
		b.rule(c, isLocal(), []expr.Any{
			proto,
			&expr.Payload{DestRegister: reg1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
			lookup(anyMap), dnat(),
		})
	}
	return nil
}

func lookup(s *nftables.Set) expr.Any {
	return &expr.Lookup{SourceRegister: reg0, DestRegister: reg0, IsDestRegSet: true, SetName: s.Name, SetID: s.ID}
}

func dnat() expr.Any {
	return &expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: reg0, RegProtoMin: reg1, Specified: true}
}

func padPort(p uint16) []byte { return append(binaryutil.BigEndian.PutUint16(p), 0, 0) }

// isLocal matches packets to an address of the host's own.
func isLocal() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
	}
}

func iif(name string, op expr.CmpOp) []expr.Any { return ifName(expr.MetaKeyIIFNAME, name, op) }
func oif(name string, op expr.CmpOp) []expr.Any { return ifName(expr.MetaKeyOIFNAME, name, op) }

func ifName(key expr.MetaKey, name string, op expr.CmpOp) []expr.Any {
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, name)
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: op, Register: 1, Data: padded}}
}

func saddrIn(p netip.Prefix) []expr.Any { return addrIn(12, p) }
func daddrIn(p netip.Prefix) []expr.Any { return addrIn(16, p) }

// addrIn compares the address at an offset of the IPv4 header.
func addrIn(offset uint32, p netip.Prefix) []expr.Any {
	mask := binaryutil.BigEndian.PutUint32(^uint32(0) << (32 - p.Bits()))
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: mask, Xor: make([]byte, 4)},
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
