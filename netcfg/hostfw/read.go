package hostfw

import (
	"encoding/binary"
	"fmt"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// table is another's, with what is in its chains.
type table struct {
	name   string
	family nftables.TableFamily
	bases  []base
	chains map[string][]rule
	sets   map[string][]nftables.SetElement // those that rules look into
}

// base is a chain that packets come to by themselves.
type base struct {
	name string
	drop bool // what no rule decides
}

type rule []statement

// statement is an expression of a rule (linux/netfilter/nf_tables.h): those attributes of it that are looked at, in numbers of
// the host's and bytes as they are.
type statement struct {
	name    string
	numbers map[uint16]uint32
	bytes   map[uint16][]byte // of attributes that hold data
	set     string            // lookup's set; the name of an extension of xtables
	verdict *verdict
}

type verdict struct {
	code  int32
	chain string
}

// read dumps all rules of the table.
func (t *table) read(conn *nftables.Conn) error {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return fmt.Errorf("reach nftables: %w", err)
	}
	defer c.Close()
	name, err := netlink.MarshalAttributes([]netlink.Attribute{{Type: unix.NFTA_RULE_TABLE, Data: []byte(t.name + "\x00")}})
	if err != nil {
		return err
	}
	replies, err := c.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETRULE, Flags: netlink.Request | netlink.Dump},
		Data:   append([]byte{byte(t.family), unix.NFNETLINK_V0, 0, 0}, name...),
	})
	if err != nil {
		return fmt.Errorf("list rules of nftables table %s: %w", t.name, err)
	}
	for _, m := range replies {
		if len(m.Data) < 4 {
			return errShort
		}
		chain, r, err := decodeRule(m.Data[4:])
		if err != nil {
			return fmt.Errorf("read rule of nftables table %s: %w", t.name, err)
		}
		t.chains[chain] = append(t.chains[chain], r)
	}
	t.sets = map[string][]nftables.SetElement{}
	for _, rules := range t.chains {
		for _, r := range rules {
			for _, s := range r {
				if _, known := t.sets[s.set]; s.name != "lookup" || known {
					continue
				}
				elements, err := conn.GetSetElements(&nftables.Set{Table: &nftables.Table{Name: t.name, Family: t.family}, Name: s.set})
				if err != nil {
					return fmt.Errorf("read set %s of nftables table %s: %w", s.set, t.name, err)
				}
				t.sets[s.set] = elements
			}
		}
	}
	return nil
}

// each calls f for each attribute; nested ones are decoded by f with each again.
func each(b []byte, f func(typ uint16, data []byte) error) error {
	d, err := netlink.NewAttributeDecoder(b)
	if err != nil {
		return err
	}
	for d.Next() {
		if err := f(d.Type()&^unix.NLA_F_NESTED, d.Bytes()); err != nil {
			return err
		}
	}
	return d.Err()
}

func decodeRule(b []byte) (chain string, r rule, err error) {
	err = each(b, func(typ uint16, data []byte) error {
		switch typ {
		case unix.NFTA_RULE_CHAIN:
			chain = text(data)
		case unix.NFTA_RULE_EXPRESSIONS:
			return each(data, func(_ uint16, data []byte) error {
				s, err := decodeStatement(data)
				r = append(r, s)
				return err
			})
		}
		return nil
	})
	return chain, r, err
}

func text(b []byte) string { return unix.ByteSliceToString(b) }

// dataOf are the attributes of an expression that are data: a value, or a verdict.
func dataOf(name string, typ uint16) bool {
	switch name {
	case "cmp":
		return typ == unix.NFTA_CMP_DATA
	case "bitwise":
		return typ == unix.NFTA_BITWISE_MASK || typ == unix.NFTA_BITWISE_XOR
	case "immediate":
		return typ == unix.NFTA_IMMEDIATE_DATA
	}
	return false
}

func decodeStatement(b []byte) (statement, error) {
	s := statement{numbers: map[uint16]uint32{}, bytes: map[uint16][]byte{}}
	err := each(b, func(typ uint16, data []byte) error {
		if typ == unix.NFTA_EXPR_NAME {
			s.name = text(data)
			return nil
		}
		return each(data, func(typ uint16, data []byte) error {
			switch {
			case dataOf(s.name, typ):
				return each(data, func(kind uint16, data []byte) (err error) {
					if kind == unix.NFTA_DATA_VERDICT {
						s.verdict, err = decodeVerdict(data)
						return err
					}
					s.bytes[typ] = data
					return nil
				})
			case s.name == "lookup" && typ == unix.NFTA_LOOKUP_SET, (s.name == "match" || s.name == "target") && typ == unix.NFTA_MATCH_NAME:
				s.set = text(data)
			case s.name == "match" && typ == unix.NFTA_MATCH_INFO:
				s.bytes[typ] = data
			case len(data) == 4:
				s.numbers[typ] = binary.BigEndian.Uint32(data)
			}
			return nil
		})
	})
	return s, err
}

func decodeVerdict(b []byte) (*verdict, error) {
	v := &verdict{}
	return v, each(b, func(typ uint16, data []byte) error {
		switch {
		case typ == unix.NFTA_VERDICT_CODE && len(data) == 4:
			v.code = int32(binary.BigEndian.Uint32(data))
		case typ == unix.NFTA_VERDICT_CHAIN:
			v.chain = text(data)
		}
		return nil
	})
}
