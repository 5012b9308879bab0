package netcfg

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/netcfg/nstest"
)

// TestSpoofing: what a container sends under another's IP or MAC address, or says to be in ARP, goes nowhere; a new engine
// finds it kept so, and one that may administer its network is left alone.
func TestSpoofing(t *testing.T) {
	nstest.Own(t)
	h, n := testHost()
	require.NoError(t, h.Set(Config{Networks: []Network{n}}))
	require.NoError(t, h.Loose())
	victim, thief := container(t, h, n, "tv1", "10.99.0.2/24"), container(t, h, n, "tv2", "10.99.0.3/24")
	container(t, h, n, "tv3", "10.99.0.4/24")
	links := map[string]Link{}
	for i, a := range []string{"10.99.0.2", "10.99.0.3", "10.99.0.4"} {
		name := fmt.Sprintf("tv%d", i+1)
		links[name] = Link{Name: name, MAC: MACFor(netip.MustParseAddr(a)), V4: netip.MustParseAddr(a)}
	}
	require.NoError(t, dialFrom(t, thief, "10.99.0.2:80"))

	// in does one thing to eth0 of the thief.
	in := func(f func(eth0 netlink.Link) error) {
		require.NoError(t, nstest.Visit(thief, func() error {
			link, err := netlink.LinkByName("eth0")
			if err == nil {
				err = f(link)
			}
			return err
		}))
	}
	// Another's IP address, as the one that is chosen as source.
	alias := address(netip.MustParsePrefix("10.99.0.77/24"))
	in(func(eth0 netlink.Link) error { return netlink.AddrAdd(eth0, alias) })
	heard := ear(t, victim, "10.99.0.2:7777")
	require.True(t, hears(t, heard, func() { say(t, thief, netip.MustParseAddr("10.99.0.3"), "10.99.0.2:7777") }))
	require.False(t, hears(t, heard, func() { say(t, thief, netip.MustParseAddr("10.99.0.77"), "10.99.0.2:7777") }))
	before := generation(t)
	later := New("cobletest")
	require.NoError(t, later.Set(Config{Networks: []Network{n}, Links: links}))
	require.Equal(t, before, generation(t), "a new engine has nothing to send")
	require.False(t, hears(t, heard, func() { say(t, thief, netip.MustParseAddr("10.99.0.77"), "10.99.0.2:7777") }))
	in(func(eth0 netlink.Link) error { return netlink.AddrDel(eth0, alias) })
	require.NoError(t, dialFrom(t, thief, "10.99.0.2:80"))

	// A lie in ARP about an address that the victim knows.
	require.NoError(t, dialFrom(t, victim, "10.99.0.4:80"))
	time.Sleep(1200 * time.Millisecond) // what was heard just now is not overwritten (arp(7), locktime)
	liar, believer := MACFor(netip.MustParseAddr("10.99.0.3")), MACFor(netip.MustParseAddr("10.99.0.2"))
	send(t, thief, slices.Concat(believer, liar, []byte{0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 2}, liar, []byte{10, 99, 0, 4}, believer, []byte{10, 99, 0, 2}))
	require.NoError(t, nstest.Visit(victim, func() error {
		list, err := netlink.NeighList(0, netlink.FAMILY_V4)
		for _, n := range list {
			if n.IP.Equal(net.IPv4(10, 99, 0, 4)) {
				assert.Equal(t, MACFor(netip.MustParseAddr("10.99.0.4")), n.HardwareAddr, "the victim believes the lie")
				return err
			}
		}
		return errors.New("the victim knows no neighbour")
	}))

	// Another's MAC address.
	in(func(eth0 netlink.Link) error {
		return errors.Join(netlink.LinkSetHardwareAddr(eth0, MACFor(netip.MustParseAddr("10.99.0.4"))), netlink.NeighSet(&netlink.Neigh{
			LinkIndex: eth0.Attrs().Index, State: netlink.NUD_PERMANENT, IP: net.IPv4(10, 99, 0, 2), HardwareAddr: believer,
		}))
	})
	require.False(t, hears(t, heard, func() { say(t, thief, netip.Addr{}, "10.99.0.2:7777") }))

	free := links["tv2"]
	free.MAC = nil
	links["tv2"] = free
	require.NoError(t, New("cobletest").Set(Config{Networks: []Network{n}, Links: links}))
	in(func(eth0 netlink.Link) error {
		return netlink.LinkSetHardwareAddr(eth0, net.HardwareAddr{2, 0, 0, 0, 0, 9})
	})
	require.NoError(t, dialFrom(t, thief, "10.99.0.2:80"))
}

// neighbourDiscovery is a frame with a message of it that no stack would send (RFC 4861), from and to, with the hop limit that
// it must have, in as many hop-by-hop headers as want.
func neighbourDiscovery(from, to net.HardwareAddr, src, dst netip.Addr, headers int, message []byte) []byte {
	sum := uint32(0)
	add := func(b []byte) {
		for i := 0; i+1 < len(b); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(b[i:]))
		}
	}
	add(slices.Concat(src.AsSlice(), dst.AsSlice(), []byte{0, 0, 0, byte(len(message)), 0, 0, 0, unix.IPPROTO_ICMPV6}, message))
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	binary.BigEndian.PutUint16(message[2:], ^uint16(sum))
	next, options := byte(unix.IPPROTO_ICMPV6), []byte{}
	for range headers {
		options = append([]byte{next, 0, 1, 4, 0, 0, 0, 0}, options...) // PadN
		next = unix.IPPROTO_DSTOPTS
	}
	ip := []byte{0x60, 0, 0, 0, 0, byte(len(options) + len(message)), next, 255}
	return slices.Concat(to, from, []byte{0x86, 0xdd}, ip, src.AsSlice(), dst.AsSlice(), options, message)
}

// TestSpoofedNeighbours: a container that says that another's IPv6 address is its own, or that it is a router, is not heard.
func TestSpoofedNeighbours(t *testing.T) {
	nstest.Own(t)
	h, n := testHost()
	n.V6, n.Gateway6 = netip.MustParsePrefix("fd00:99::/64"), netip.MustParseAddr("fd00:99::1")
	require.NoError(t, h.Set(Config{Networks: []Network{n}}))
	victim, thief := container(t, h, n, "tv1", "fd00:99::2/64"), container(t, h, n, "tv2", "fd00:99::3/64")
	container(t, h, n, "tv3", "fd00:99::4/64")
	at := netip.MustParseAddr("fd00:99::2")
	thiefs, victims, thirds := MACFor(netip.MustParseAddr("fd00:99::3")), MACFor(at), MACFor(netip.MustParseAddr("fd00:99::4"))
	require.NoError(t, reaches(t, victim, "[fd00:99::4]:80"))
	require.NoError(t, reaches(t, victim, "[fd00:99::3]:80"))
	known := func(of string) (mac string) {
		require.NoError(t, nstest.Visit(victim, func() error {
			list, err := netlink.NeighList(0, netlink.FAMILY_V6)
			for _, n := range list {
				if n.IP.Equal(net.ParseIP(of)) {
					mac = n.HardwareAddr.String()
				}
			}
			return err
		}))
		return mac
	}
	require.Equal(t, thirds.String(), known("fd00:99::4"))
	advert := func(target netip.Addr, mac net.HardwareAddr) []byte { // solicited no, override yes
		return slices.Concat([]byte{136, 0, 0, 0, 0x20, 0, 0, 0}, target.AsSlice(), []byte{2, 1}, mac)
	}
	own := netip.MustParseAddr("fd00:99::3")
	for headers := range 3 {
		send(t, thief, neighbourDiscovery(thiefs, victims, own, at, headers, advert(netip.MustParseAddr("fd00:99::4"), thiefs)))
		require.Equal(t, thirds.String(), known("fd00:99::4"), "the victim believes the lie, in %d headers", headers)
		send(t, thief, neighbourDiscovery(thiefs, victims, own, at, headers, advert(n.Gateway6, thiefs)))
		require.NotEqual(t, thiefs.String(), known("fd00:99::1"))
	}
	// The same of its own address is heard: the test would notice the lie.
	other := net.HardwareAddr{2, 0, 0, 0, 0, 9}
	send(t, thief, neighbourDiscovery(thiefs, victims, own, at, 1, advert(own, other)))
	require.Equal(t, other.String(), known("fd00:99::3"))

	routes := func() (list []netlink.Route) {
		require.NoError(t, nstest.Visit(victim, func() (err error) {
			list, err = netlink.RouteListFiltered(netlink.FAMILY_V6, &netlink.Route{Protocol: unix.RTPROT_RA}, netlink.RT_FILTER_PROTOCOL)
			return err
		}))
		return list
	}
	router := slices.Concat([]byte{134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0}, []byte{1, 1}, thiefs)
	var local [16]byte
	copy(local[:], []byte{0xfe, 0x80, 0, 0, 0, 0, 0, 0, thiefs[0] ^ 2, thiefs[1], thiefs[2], 0xff, 0xfe, thiefs[3], thiefs[4], thiefs[5]})
	say := func() {
		send(t, thief, neighbourDiscovery(thiefs, victims, netip.AddrFrom16(local), at, 0, slices.Clone(router)))
		time.Sleep(200 * time.Millisecond)
	}
	say()
	require.Empty(t, routes(), "the victim takes the thief for a router")
	links := map[string]Link{"tv1": {}, "tv2": {}, "tv3": {}} // all free to send
	require.NoError(t, New("cobletest").Set(Config{Networks: []Network{n}, Links: links}))
	say()
	require.NotEmpty(t, routes(), "the test would notice")
}
