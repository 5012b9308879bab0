package nft

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Link is a container's end of a bridge, and who it may say that it is.
type Link struct {
	Name   string // of the host's end
	Bridge string // that it is on; netcfg's to know
	MAC    net.HardwareAddr
	V4, V6 netip.Addr // not valid: none
}

// ErrNoBridgeFilter says that the kernel cannot look into a bridge.
var ErrNoBridgeFilter = errors.New("containers can pretend to have each other's addresses: the kernel has no nftables for bridges (CONFIG_NF_TABLES_BRIDGE, NFT_BRIDGE_META; are the modules loaded?)")

// Links is the table in which a bridge's frames are looked at: what comes from a link and does not have its addresses is
// dropped, be it IPv4, IPv6, ARP or an advertisement of a neighbour (RFC 4861); so is what is none of them, and what only routers
// say. Of IPv6 a link also has the address that its kernel makes of its MAC address. Links that are not in it may send anything.
type Links struct {
	table                     *nftables.Table
	links, macs, fours, sixes *nftables.Set
}

// NewLinks describes the table of that name.
func NewLinks(name string) *Links {
	l := &Links{table: &nftables.Table{Name: name, Family: nftables.TableFamilyBridge}}
	set := func(name string, of ...nftables.SetDatatype) *nftables.Set {
		key := nftables.TypeIFName
		if len(of) > 0 {
			key = nftables.MustConcatSetType(append([]nftables.SetDatatype{key}, of...)...)
		}
		return &nftables.Set{Table: l.table, Name: name, KeyType: key, Concatenation: len(of) > 0}
	}
	l.links = set("links")
	l.macs, l.fours, l.sixes = set("macs", nftables.TypeEtherAddr), set("ipv4", nftables.TypeIPAddr), set("ipv6", nftables.TypeIP6Addr)
	return l
}

// elements are a link's, by set.
func (l *Links) elements(k Link) map[*nftables.Set][]nftables.SetElement {
	name := padName(k.Name)
	one := func(b ...[]byte) []nftables.SetElement {
		return []nftables.SetElement{{Key: slices.Concat(append([][]byte{name}, b...)...)}}
	}
	out := map[*nftables.Set][]nftables.SetElement{l.links: one(), l.macs: one(k.MAC, []byte{0, 0})}
	if k.V4.IsValid() {
		out[l.fours] = one(k.V4.AsSlice())
	}
	own := localAddr(k.MAC)
	out[l.sixes] = one(own[:])
	if k.V6.IsValid() {
		out[l.sixes] = append(out[l.sixes], one(k.V6.AsSlice())...)
	}
	return out
}

// localAddr is the link-local address of a MAC address (RFC 4291, appendix A).
func localAddr(mac net.HardwareAddr) (a [16]byte) {
	a[0], a[1] = 0xfe, 0x80
	if len(mac) == 6 {
		a[8], a[9], a[10], a[11], a[12], a[13], a[14], a[15] = mac[0]^2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]
	}
	return a
}

// Set makes the table one of these links, and writes nothing if it is that already.
func (l *Links) Set(links []Link) error {
	if l.current(links) {
		return nil
	}
	err := l.change(func(c *nftables.Conn) error { return l.queue(c, links) })
	if errors.Is(err, unix.ENOENT) { // nothing that it needs has to be there but the kernel's parts
		return ErrNoBridgeFilter
	}
	return err
}

// queue puts into c what makes the table one of these links.
func (l *Links) queue(c *nftables.Conn, links []Link) error {
	c.AddTable(l.table)
	c.DelTable(l.table)
	c.AddTable(l.table)
	for _, s := range []*nftables.Set{l.links, l.macs, l.fours, l.sixes} {
		if err := c.AddSet(s, nil); err != nil {
			return err
		}
	}
	l.rules(c)
	for _, k := range links {
		if err := l.each(k, c.SetAddElements); err != nil {
			return err
		}
	}
	return nil
}

// current tells whether the table is there with just these links.
func (l *Links) current(links []Link) bool {
	want := map[*nftables.Set][]string{l.links: nil, l.macs: nil, l.fours: nil, l.sixes: nil}
	for _, k := range links {
		for s, elements := range l.elements(k) {
			for _, e := range elements {
				want[s] = append(want[s], string(e.Key))
			}
		}
	}
	c, err := nftables.New()
	if err != nil {
		return false
	}
	for s, keys := range want {
		have, err := c.GetSetElements(s)
		if err != nil {
			return false
		}
		var found []string
		for _, e := range have {
			found = append(found, string(e.Key))
		}
		slices.Sort(keys)
		slices.Sort(found)
		if !slices.Equal(keys, found) {
			return false
		}
	}
	return true
}

// Add puts a link into the table, before it is up.
func (l *Links) Add(k Link) error {
	return l.change(func(c *nftables.Conn) error { return l.each(k, c.SetAddElements) })
}

// Drop takes one out; what is not there is none to take out.
func (l *Links) Drop(k Link) error {
	err := l.change(func(c *nftables.Conn) error { return l.each(k, c.SetDeleteElements) })
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

func (l *Links) each(k Link, f func(*nftables.Set, []nftables.SetElement) error) error {
	elements := l.elements(k)
	for _, s := range []*nftables.Set{l.links, l.macs, l.fours, l.sixes} {
		if e := elements[s]; e != nil {
			if err := f(s, e); err != nil {
				return err
			}
		}
	}
	return nil
}

// Remove takes the table away, if it is there.
func (l *Links) Remove() error {
	err := l.change(func(c *nftables.Conn) error {
		c.AddTable(l.table)
		c.DelTable(l.table)
		return nil
	})
	if errors.Is(err, ErrNoBridgeFilter) {
		return nil
	}
	return err
}

// change is one transaction.
func (l *Links) change(f func(c *nftables.Conn) error) error {
	c, err := nftables.New(nftables.AsLasting()) // which opens the socket
	if err == nil {
		defer closeSoon(func() { c.CloseLasting() })
		if err = f(c); err == nil {
			err = c.Flush()
		}
	}
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EPROTONOSUPPORT) {
		return ErrNoBridgeFilter
	}
	if err != nil {
		return fmt.Errorf("write nftables table %s of bridges: %w", l.table.Name, err)
	}
	return nil
}

// Offsets in an ARP packet for IPv4 over Ethernet (RFC 826).
const (
	arpSenderMAC = 8
	arpSenderIP  = 14
)

// Types of neighbour discovery's messages (RFC 4861, 4.2 to 4.5); the target of an advertisement is 8 bytes in.
const (
	ndRouterAdvert   = 134
	ndNeighborAdvert = 136
	ndRedirect       = 137
)

func icmpv6(typ byte) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_ICMPV6}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{typ}},
	}
}

// rules writes, in nft's own words:
//
//	chain from { type filter hook prerouting priority filter;
//	  iifname != @links accept
//	  iifname . ether saddr != @macs drop
//	  ether type ip iifname . ip saddr @ipv4 accept
//	  ether type arp iifname . arp saddr ether != @macs drop
//	  ether type arp arp saddr ip 0.0.0.0 accept              # who asks whether an address is free
//	  ether type arp iifname . arp saddr ip @ipv4 accept
//	  ether type ip6 icmpv6 type nd-router-advert drop
//	  ether type ip6 icmpv6 type nd-redirect drop
//	  ether type ip6 icmpv6 type nd-neighbor-advert iifname . icmpv6 taddr != @ipv6 drop
//	  ether type ip6 ip6 saddr :: accept                       # likewise
//	  ether type ip6 iifname . ip6 saddr @ipv6 accept
//	  drop }
func (l *Links) rules(c *nftables.Conn) {
	chain := c.AddChain(&nftables.Chain{Table: l.table, Name: "from", Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityFilter})
	rule := func(v expr.VerdictKind, exprs ...[]expr.Any) {
		c.AddRule(&nftables.Rule{Table: l.table, Chain: chain, Exprs: append(slices.Concat(exprs...), &expr.Verdict{Kind: v})})
	}
	owned := func(s *nftables.Set, base expr.PayloadBase, offset, size uint32, not bool) []expr.Any {
		return []expr.Any{
			&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: reg0},
			&expr.Payload{DestRegister: reg4, Base: base, Offset: offset, Len: size},
			&expr.Lookup{SourceRegister: reg0, SetName: s.Name, SetID: s.ID, Invert: not},
		}
	}
	is := func(protocol uint16) []expr.Any {
		return []expr.Any{&expr.Meta{Key: expr.MetaKeyPROTOCOL, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(protocol)}}
	}
	field := func(offset, size uint32, want []byte) []expr.Any {
		return []expr.Any{
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: want},
		}
	}
	const header = expr.PayloadBaseNetworkHeader
	rule(expr.VerdictAccept, in(expr.MetaKeyIIFNAME, l.links, true))
	rule(expr.VerdictDrop, owned(l.macs, expr.PayloadBaseLLHeader, 6, 6, true))
	rule(expr.VerdictAccept, is(unix.ETH_P_IP), owned(l.fours, header, 12, 4, false))
	rule(expr.VerdictDrop, is(unix.ETH_P_ARP), owned(l.macs, header, arpSenderMAC, 6, true))
	rule(expr.VerdictAccept, is(unix.ETH_P_ARP), field(arpSenderIP, 4, make([]byte, 4)))
	rule(expr.VerdictAccept, is(unix.ETH_P_ARP), owned(l.fours, header, arpSenderIP, 4, false))
	rule(expr.VerdictDrop, is(unix.ETH_P_IPV6), icmpv6(ndRouterAdvert))
	rule(expr.VerdictDrop, is(unix.ETH_P_IPV6), icmpv6(ndRedirect))
	rule(expr.VerdictDrop, is(unix.ETH_P_IPV6), icmpv6(ndNeighborAdvert), owned(l.sixes, expr.PayloadBaseTransportHeader, 8, 16, true))
	rule(expr.VerdictAccept, is(unix.ETH_P_IPV6), field(8, 16, make([]byte, 16)))
	rule(expr.VerdictAccept, is(unix.ETH_P_IPV6), owned(l.sixes, header, 8, 16, false))
	rule(expr.VerdictDrop)
}
