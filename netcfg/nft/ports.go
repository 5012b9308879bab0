package nft

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"

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
	Listen   Listen // from where it is reached, if it is published on every address
}

// String is all of it in words. There may be thousands to write: fmt would take ten times as long.
func (p Port) String() string {
	return p.Proto + " " + p.HostIP.String() + " " + strconv.Itoa(int(p.HostPort)) + " " + p.To.String() + " " + p.Listen.String()
}

// Listen says from where a port is reached: from the host itself, and through these links, or at these addresses. Links are
// matched by name: one may come, go and come back. Its zero value is from everywhere.
type Listen struct {
	Links  []string // one of more than 15 bytes matches none
	Except bool     // through all but those links
	Addrs  []netip.Addr
}

// String is all of it in words, "" if that is everywhere.
func (l Listen) String() string {
	if l.everywhere() {
		return ""
	}
	return fmt.Sprint(l.Links, l.Except, l.Addrs)
}

func (l Listen) everywhere() bool { return !l.Except && len(l.Links) == 0 && len(l.Addrs) == 0 }

// group is the ports that are reached from one place.
type group struct {
	Listen
	suffix   string // of the names of its sets
	elements []nftables.SetElement
}

// keyTypes are those of the maps: protocol and port, or protocol, address and port, to an address and a port. Numbers are in network order, each
// padded to four bytes.
func (b *batch) keyTypes() (anyKey, addrKey, target nftables.SetDatatype, err error) {
	anyKey, err1 := nftables.ConcatSetType(nftables.TypeInetProto, nftables.TypeInetService)
	addrKey, err2 := nftables.ConcatSetType(nftables.TypeInetProto, b.addrType(), nftables.TypeInetService)
	target, err3 := nftables.ConcatSetType(b.addrType(), nftables.TypeInetService)
	return anyKey, addrKey, target, errors.Join(err1, err2, err3)
}

func (b *batch) addrType() nftables.SetDatatype { return addrType(b.family) }

func addrType(f nftables.TableFamily) nftables.SetDatatype {
	if f == nftables.TableFamilyIPv6 {
		return nftables.TypeIP6Addr
	}
	return nftables.TypeIPAddr
}

// groups sorts the family's ports: those of one address, and the others by where they are reached from.
func (b *batch) groups() (onAddr []nftables.SetElement, groups []*group) {
	byPlace := map[string]*group{}
	for _, p := range b.r.Ports {
		if p.To.Addr().Is6() != b.six() {
			continue
		}
		proto := protocol(p.Proto)
		e := nftables.SetElement{Val: slices.Concat(p.To.Addr().AsSlice(), padPort(p.To.Port()))}
		if p.HostIP.IsValid() && !p.HostIP.IsUnspecified() {
			e.Key = slices.Concat([]byte{proto, 0, 0, 0}, p.HostIP.AsSlice(), padPort(p.HostPort))
			onAddr = append(onAddr, e)
			continue
		}
		e.Key = slices.Concat([]byte{proto, 0, 0, 0}, padPort(p.HostPort))
		place := p.Listen.String()
		g := byPlace[place]
		if g == nil {
			g = &group{Listen: p.Listen}
			if !g.everywhere() {
				g.suffix = "-" + strconv.Itoa(len(groups)+1)
			}
			byPlace[place] = g
			groups = append(groups, g)
		}
		g.elements = append(g.elements, e)
	}
	return onAddr, groups
}

// publish writes the maps of ports, and the rules that look into them: as many as there are places to be reached from. The
// chain of what comes in asks through which link, that of the host's own connections does not.
func (b *batch) publish(incoming, own *nftables.Chain) error {
	anyKey, addrKey, target, err := b.keyTypes()
	if err != nil {
		return err
	}
	onAddr, groups := b.groups()
	size := b.addrType().Bytes
	addrMap := &nftables.Set{Table: b.t, Name: "ports-of-address", IsMap: true, Concatenation: true, KeyType: addrKey, DataType: target}
	if err := b.addMap(addrMap, onAddr); err != nil {
		return err
	}
	proto := &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg0}
	port := func(register uint32) expr.Any {
		return &expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}
	}
	dnat := &expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(b.family), RegAddrMin: reg0, RegProtoMin: reg0 + size/4, Specified: true}
	_, daddr := b.offsets()
	for _, c := range []*nftables.Chain{incoming, own} {
		b.rule(c, isLocal(), []expr.Any{
			proto, &expr.Payload{DestRegister: reg0 + 1, Base: expr.PayloadBaseNetworkHeader, Offset: daddr, Len: size},
			port(reg0 + 1 + size/4), lookup(addrMap), dnat,
		})
	}
	for _, g := range groups {
		m := &nftables.Set{Table: b.t, Name: "ports" + g.suffix, IsMap: true, Concatenation: true, KeyType: anyKey, DataType: target}
		if err := b.addMap(m, g.elements); err != nil {
			return err
		}
		through, at, err := b.place(g)
		if err != nil {
			return err
		}
		to := []expr.Any{proto, port(reg0 + 1), lookup(m), dnat}
		if g.everywhere() || through != nil {
			b.rule(incoming, through, isLocal(), to)
			b.rule(own, isLocal(), to)
		}
		if at != nil {
			b.rule(incoming, at, isLocal(), to)
			b.rule(own, at, isLocal(), to)
		}
	}
	return nil
}

// addMap writes a map of ports. A message's list of elements has room for 64 KiB (netlink(7), nla_len), so there are several.
func (b *batch) addMap(m *nftables.Set, elements []nftables.SetElement) error {
	const most = 500 // of at most 72 bytes
	first := min(most, len(elements))
	err := b.AddSet(m, elements[:first])
	for part := range slices.Chunk(elements[first:], most) {
		err = errors.Join(err, b.SetAddElements(m, part))
	}
	if err != nil {
		return fmt.Errorf("write port map: %w", err)
	}
	return nil
}

// place writes the sets of a group's links and addresses, and returns what matches them, nil for none.
func (b *batch) place(g *group) (through, at []expr.Any, err error) {
	if g.Except || len(g.Links) > 0 {
		s := &nftables.Set{Table: b.t, Name: "links" + g.suffix, KeyType: nftables.TypeIFName, KeyByteOrder: binaryutil.NativeEndian}
		var names []nftables.SetElement
		for _, name := range g.Links {
			names = append(names, nftables.SetElement{Key: padName(name)})
		}
		err = b.AddSet(s, names)
		through = in(expr.MetaKeyIIFNAME, s, g.Except)
	}
	var addrs []nftables.SetElement
	for _, a := range g.Addrs {
		if a.Is6() == b.six() {
			addrs = append(addrs, nftables.SetElement{Key: a.AsSlice()})
		}
	}
	if len(addrs) > 0 {
		s := &nftables.Set{Table: b.t, Name: "addresses" + g.suffix, KeyType: b.addrType()}
		err = errors.Join(err, b.AddSet(s, addrs))
		_, daddr := b.offsets()
		at = []expr.Any{
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: daddr, Len: b.addrType().Bytes},
			&expr.Lookup{SourceRegister: 1, SetName: s.Name, SetID: s.ID},
		}
	}
	if err != nil {
		return nil, nil, fmt.Errorf("write sets of where ports are reached from: %w", err)
	}
	return through, at, nil
}

func lookup(s *nftables.Set) expr.Any {
	return &expr.Lookup{SourceRegister: reg0, DestRegister: reg0, IsDestRegSet: true, SetName: s.Name, SetID: s.ID}
}

func protocol(name string) byte {
	if name == "udp" {
		return unix.IPPROTO_UDP
	}
	return unix.IPPROTO_TCP
}

func padPort(p uint16) []byte { return append(binaryutil.BigEndian.PutUint16(p), 0, 0) }
