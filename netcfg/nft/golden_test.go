package nft

import (
	"encoding/binary"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

var update = flag.Bool("update", false, "write the golden files")

// sent is what f has a connection send in one transaction, without the kernel's answers.
func sent(t *testing.T, f func(c *nftables.Conn) error) []netlink.Message {
	var all []netlink.Message
	c, err := nftables.New(nftables.WithTestDial(func(req []netlink.Message) ([]netlink.Message, error) {
		all = append(all, req...)
		return req, nil
	}))
	require.NoError(t, err)
	require.NoError(t, f(c))
	require.NoError(t, c.Flush())
	return all
}

var messageTypes = map[netlink.HeaderType]string{
	unix.NFNL_MSG_BATCH_BEGIN: "batch begins", unix.NFNL_MSG_BATCH_END: "batch ends",
	nfType(unix.NFT_MSG_NEWTABLE): "new table", nfType(unix.NFT_MSG_DELTABLE): "delete table", nfType(unix.NFT_MSG_NEWCHAIN): "new chain",
	nfType(unix.NFT_MSG_NEWRULE): "new rule", nfType(unix.NFT_MSG_NEWSET): "new set", nfType(unix.NFT_MSG_NEWSETELEM): "new elements",
}

func nfType(t int) netlink.HeaderType { return netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | t) }

// dump writes messages as text: each attribute's number and bytes, those inside of another in braces. Sets have numbers that
// the library counts up; they are told from the first one of these messages.
type dump struct {
	strings.Builder
	message    string
	expression string
	sets       map[uint32]int
}

func (d *dump) all(messages []netlink.Message) string {
	d.sets = map[uint32]int{}
	for _, m := range messages {
		d.message = messageTypes[m.Header.Type]
		if d.message == "" {
			d.message = fmt.Sprintf("type %#x", m.Header.Type)
		}
		fmt.Fprintf(d, "%s, flags %#x, family %d, resource %d\n", d.message, uint16(m.Header.Flags), m.Data[0], binary.BigEndian.Uint16(m.Data[2:]))
		d.attributes(m.Data[4:], "")
	}
	return d.String()
}

func (d *dump) attributes(b []byte, path string) {
	for len(b) >= 4 {
		size, typ := int(binary.NativeEndian.Uint16(b)), binary.NativeEndian.Uint16(b[2:])
		value := b[4:size]
		b = b[min(len(b), (size+3)&^3):]
		at := path + "/" + fmt.Sprint(typ&^unix.NLA_F_NESTED)
		depth := strings.Count(at, "/")
		end := "\n"
		if depth <= 2 { // an attribute of the message, an element of its list
			fmt.Fprint(d, strings.Repeat("  ", depth))
		} else {
			end = " "
		}
		if d.message == "new rule" && at == "/4/1/1" {
			d.expression = string(value)
		}
		switch {
		case typ&unix.NLA_F_NESTED == 0:
			fmt.Fprintf(d, "%d=%s%s", typ, d.value(at, value), end)
		case depth == 1:
			fmt.Fprintf(d, "%d:\n", typ&^unix.NLA_F_NESTED)
			d.attributes(value, at)
		default:
			fmt.Fprintf(d, "%d{ ", typ&^unix.NLA_F_NESTED)
			d.attributes(value, at)
			fmt.Fprintf(d, "}%s", end)
		}
	}
}

// value is an attribute's: a set's number, or bytes and what of them is text.
func (d *dump) value(at string, b []byte) string {
	set := d.message == "new set" && at == "/10" || d.message == "new elements" && at == "/4" ||
		d.message == "new rule" && at == "/4/1/2/4" && d.expression == "lookup\x00"
	if set {
		id := binary.BigEndian.Uint32(b)
		if _, known := d.sets[id]; !known {
			d.sets[id] = len(d.sets) + 1
		}
		return fmt.Sprintf("set %d", d.sets[id])
	}
	text := strings.TrimRight(string(b), "\x00")
	for _, c := range []byte(text) {
		if c < ' ' || c > '~' {
			return fmt.Sprintf("%x", b)
		}
	}
	if len(text) < 2 {
		return fmt.Sprintf("%x", b)
	}
	return fmt.Sprintf("%x %q", b, text)
}

// TestGolden: what goes to the kernel, byte by byte. What the bytes do is for the tests of netcfg.
func TestGolden(t *testing.T) {
	one := Network{Bridge: "br0", V4: netip.MustParsePrefix("10.9.0.0/24"), Masquerade: true, ICC: true}
	apart := Network{Bridge: "br1", V4: netip.MustParsePrefix("10.9.1.0/24"), Masquerade: true}
	six := Network{Bridge: "br2", V4: netip.MustParsePrefix("10.9.2.0/24"), V6: netip.MustParsePrefix("fd00:9::/64"), ICC: true, Masquerade: true}
	inside := Network{Bridge: "br3", V4: netip.MustParsePrefix("10.9.3.0/24"), Internal: true, ICC: true}
	port := func(proto, ip string, host uint16, to string, l Listen) Port {
		a, _ := netip.ParseAddr(ip)
		return Port{Proto: proto, HostIP: a, HostPort: host, To: netip.MustParseAddrPort(to), Listen: l}
	}
	var many []Port
	for i := range uint16(5) {
		many = append(many, port("tcp", "", 8000+i, "10.9.0.2:80", Listen{}))
	}
	many = append(many, port("udp", "", 53, "10.9.0.3:53", Listen{}), port("tcp", "127.0.0.1", 22, "10.9.0.3:22", Listen{}))
	lan := Listen{Links: []string{"br-lan", "wg0"}, Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}}
	listen := []Port{
		port("tcp", "", 80, "10.9.0.2:80", lan), port("udp", "", 53, "10.9.0.2:53", lan),
		port("tcp", "", 81, "10.9.0.2:81", Listen{Except: true, Links: []string{"wan"}}), port("tcp", "", 80, "[fd00:9::2]:80", lan),
	}
	four, both := nftables.TableFamilyIPv4, map[nftables.TableFamily][]string{nftables.TableFamilyIPv4: {guardChain}, nftables.TableFamilyIPv6: {guardChain}}
	for name, c := range map[string]struct {
		rules Rules
		had   map[nftables.TableFamily][]string
	}{
		"bridge":    {Rules{Networks: []Network{one}}, nil},
		"isolation": {Rules{Networks: []Network{one, apart}}, nil},
		"ipv6":      {Rules{Networks: []Network{six}, Ports: []Port{port("tcp", "", 80, "[fd00:9::2]:80", Listen{}), port("tcp", "2001:db8::1", 81, "[fd00:9::2]:80", Listen{})}}, nil},
		"internal":  {Rules{Networks: []Network{one, inside}}, nil},
		"ports":     {Rules{Networks: []Network{one}, Ports: many}, nil},
		"listen":    {Rules{Networks: []Network{one, six}, Ports: listen}, nil},
		"guarded":   {Rules{Networks: []Network{one}}, map[nftables.TableFamily][]string{four: {guardChain}}},
		"no-nat":    {Rules{Networks: []Network{one, inside}, NoNAT: true}, nil},
		"decided":   {Rules{Networks: []Network{six}, Decided4: true}, both},
	} {
		t.Run(name, func(t *testing.T) {
			c.rules.Table = "coble"
			golden(t, name, sent(t, func(conn *nftables.Conn) error {
				return c.rules.queue(conn, c.had, markPrefix+c.rules.hash(guarded(c.had)))
			}))
		})
	}
	t.Run("counts", func(t *testing.T) {
		golden(t, "counts", sent(t, func(conn *nftables.Conn) error {
			for _, f := range bothFamilies {
				table := NewCounts("coble").table(f)
				if err := table.make(conn); err != nil {
					return err
				}
				for key := range keysOf(append(many[:1:1], port("udp", "", 53, "[fd00:9::2]:53", lan)), f) {
					if err := conn.SetAddElements(table.ports, []nftables.SetElement{{Key: []byte(key)}}); err != nil {
						return err
					}
				}
			}
			return nil
		}))
	})
	t.Run("links", func(t *testing.T) {
		links := []Link{
			{Name: "cv1", MAC: net.HardwareAddr{2, 0x42, 10, 9, 0, 2}, V4: netip.MustParseAddr("10.9.0.2")},
			{Name: "cv2", MAC: net.HardwareAddr{2, 0x43, 1, 2, 3, 4}, V4: netip.MustParseAddr("10.9.0.3"), V6: netip.MustParseAddr("fd00:9::3")},
		}
		golden(t, "links", sent(t, func(conn *nftables.Conn) error { return NewLinks("coble").queue(conn, links) }))
	})
}

func golden(t *testing.T, name string, messages []netlink.Message) {
	text := new(dump).all(messages)
	file := filepath.Join("testdata", name+".txt")
	if *update {
		require.NoError(t, os.WriteFile(file, []byte(text), 0o644))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	have := strings.Split(text, "\n")
	for i, line := range strings.Split(string(want), "\n") {
		require.Less(t, i, len(have), "%s: line %d is missing: %s", file, i+1, line)
		require.Equal(t, line, have[i], "%s, line %d", file, i+1)
	}
	require.Equal(t, len(want), len(text), "%s ends earlier", file)
}
