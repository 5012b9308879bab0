package nft

import (
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// Count is what went to a container's port by way of the host's, both ways, since that was published. Packets are those that the
// kernel handles: what it has merged (GRO) is one.
type Count struct{ Packets, Bytes uint64 }

// Counts counts what goes through published ports, in tables of its own: the rules are written anew whenever something changes,
// and counts go on. A container's port is an element of a set with a counter (Linux 5.7), so that a packet's cost does not grow
// with their number. Several of the host's that lead to one are counted together. It is for one caller at a time.
type Counts struct {
	name string
	none bool // there are no such tables: Set has seen to that
}

// NewCounts describes the tables for ports of the table of that name.
func NewCounts(table string) *Counts { return &Counts{name: countsOf(table)} }

func countsOf(table string) string { return table + "-counts" }

// countMark is an empty chain, whose name changes with what the table does: one without it is made anew.
const countMark = markPrefix + "counts-1"

// ErrNoCounters says that the kernel cannot count.
var ErrNoCounters = errors.New("what goes through published ports is not counted: the kernel has no counters in nftables' sets (Linux 5.7, CONFIG_NFT_COUNTER; is the module nft_counter loaded?)")

func uncounted(err error) error {
	if errors.Is(missing(err), ErrMissing) {
		return ErrNoCounters
	}
	return err
}

// countTable is one family's.
type countTable struct {
	*nftables.Table
	ports *nftables.Set
}

func (c *Counts) table(f nftables.TableFamily) countTable {
	t := &nftables.Table{Name: c.name, Family: f}
	key := nftables.MustConcatSetType(nftables.TypeInetProto, addrType(f), nftables.TypeInetService)
	return countTable{t, &nftables.Set{Table: t, Name: "ports", KeyType: key, Concatenation: true, Counter: true}}
}

// countKey is pure: what a port's packets have in them inside of the host.
func countKey(p Port) string {
	return string(slices.Concat([]byte{protocol(p.Proto), 0, 0, 0}, p.To.Addr().AsSlice(), padPort(p.To.Port())))
}

// keysOf are those of one family's ports.
func keysOf(ports []Port, f nftables.TableFamily) map[string]bool {
	keys := map[string]bool{}
	for _, p := range ports {
		if familyOf(p.To.Addr().Is6()) == f {
			keys[countKey(p)] = true
		}
	}
	return keys
}

// Set makes these ports the ones that are counted. Those that were before go on; without any there are no tables. With nothing to
// change it asks, and sends nothing. ErrNoCounters says that the kernel cannot count.
func (c *Counts) Set(ports []Port) error {
	if len(ports) == 0 && c.none {
		return nil
	}
	conn, err := nftables.New(nftables.AsLasting(), nftables.WithSockOptions(room))
	if err != nil {
		return fmt.Errorf("reach nftables: %w", uncounted(err)) // the options open the socket
	}
	defer closeSoon(func() { conn.CloseLasting() })
	c.none = false
	change := false
	for _, f := range bothFamilies {
		changed, err := c.table(f).set(conn, keysOf(ports, f))
		if err != nil {
			return fmt.Errorf("write nftables table %s: %w", c.name, uncounted(err))
		}
		change = change || changed
	}
	if change {
		if err := conn.Flush(); err != nil {
			return fmt.Errorf("write nftables table %s: %w", c.name, uncounted(err))
		}
	}
	c.none = len(ports) == 0
	return nil
}

// set puts into the connection what makes the table one of these keys, and tells whether that is anything.
func (t countTable) set(conn *nftables.Conn, wanted map[string]bool) (changed bool, err error) {
	chains, err := chainNames(conn, t.Family, t.Name)
	if err != nil {
		return false, err
	}
	var have map[string]Count
	switch {
	case len(wanted) == 0 && len(chains) == 0:
		return false, nil
	case len(wanted) > 0 && slices.Contains(chains, countMark):
		if have, err = t.read(conn); err != nil {
			return false, err
		}
	default: // there may be one of another version
		conn.AddTable(t.Table)
		conn.DelTable(t.Table)
		if len(wanted) == 0 {
			return true, nil
		}
		if err := t.make(conn); err != nil {
			return true, err
		}
	}
	var more, less []nftables.SetElement
	for key := range wanted {
		if _, counted := have[key]; !counted {
			more = append(more, nftables.SetElement{Key: []byte(key)})
		}
	}
	for key := range have {
		if !wanted[key] {
			less = append(less, nftables.SetElement{Key: []byte(key)})
		}
	}
	changed = len(more)+len(less) > 0
	const most = 1000 // a message's list is 64 KiB at most
	for ; len(less) > 0 && err == nil; less = less[min(most, len(less)):] {
		err = conn.SetDeleteElements(t.ports, less[:min(most, len(less))])
	}
	for ; len(more) > 0 && err == nil; more = more[min(most, len(more)):] {
		err = conn.SetAddElements(t.ports, more[:min(most, len(more))])
	}
	return changed, err
}

// read returns the counts by key.
func (t countTable) read(conn *nftables.Conn) (map[string]Count, error) {
	list, err := conn.GetSetElements(t.ports)
	if err != nil {
		return nil, err
	}
	out := map[string]Count{}
	for _, e := range list {
		n := Count{}
		if e.Counter != nil {
			n = Count{Packets: e.Counter.Packets, Bytes: e.Counter.Bytes}
		}
		out[string(e.Key)] = n
	}
	return out, nil
}

// make writes, in nft's own words:
//
//	set ports { type inet_proto . ipv4_addr . inet_service; counter; }
//	chain in  { type filter hook prerouting priority filter; ct status dnat meta l4proto . ip daddr . th dport @ports;
//	            ct status dnat meta l4proto . ip saddr . th sport @ports }
//	chain out { type filter hook output priority filter; likewise }
//
// What comes in has been through dstnat by then, answers of containers come in too, and what is the host's own goes out.
func (t countTable) make(conn *nftables.Conn) error {
	conn.AddTable(t.Table)
	if err := conn.AddSet(t.ports, nil); err != nil {
		return err
	}
	conn.AddChain(&nftables.Chain{Table: t.Table, Name: countMark})
	size := addrType(t.Family).Bytes
	source, destination := offsets(t.Family)
	for name, hook := range []*nftables.ChainHook{nftables.ChainHookPrerouting, nftables.ChainHookOutput} {
		c := conn.AddChain(&nftables.Chain{
			Table: t.Table, Name: [2]string{"in", "out"}[name], Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: nftables.ChainPriorityFilter,
		})
		for port, addr := range []uint32{source, destination} { // each 2 bytes from the transport header on
			conn.AddRule(&nftables.Rule{Table: t.Table, Chain: c, Exprs: append(
				dnatted(),
				&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg0},
				&expr.Payload{DestRegister: reg0 + 1, Base: expr.PayloadBaseNetworkHeader, Offset: addr, Len: size},
				&expr.Payload{DestRegister: reg0 + 1 + size/4, Base: expr.PayloadBaseTransportHeader, Offset: uint32(2 * port), Len: 2},
				&expr.Lookup{SourceRegister: reg0, SetName: t.ports.Name, SetID: t.ports.ID},
			)})
		}
	}
	return nil
}

// Read tells what went through each of these ports; nothing through one that is not counted.
func (c *Counts) Read(ports []Port) ([]Count, error) {
	out := make([]Count, len(ports))
	conn, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("reach nftables: %w", err)
	}
	for _, f := range bothFamilies {
		if len(keysOf(ports, f)) == 0 {
			continue
		}
		have, err := c.table(f).read(conn)
		if err != nil {
			return nil, fmt.Errorf("read nftables table %s: %w", c.name, uncounted(err))
		}
		for i, p := range ports {
			if familyOf(p.To.Addr().Is6()) == f {
				out[i] = have[countKey(p)]
			}
		}
	}
	return out, nil
}
