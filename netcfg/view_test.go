package netcfg

import (
	"fmt"
	"syscall"
	"testing"

	"github.com/google/nftables"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/netcfg/nft"
	"github.com/coble-os/coble/netcfg/nstest"
)

// about makes a message about a link.
func about(kind uint16, family, index int, attributes ...*nl.RtAttr) syscall.NetlinkMessage {
	head := nl.NewIfInfomsg(family)
	head.Index = int32(index)
	b := head.Serialize()
	for _, a := range attributes {
		b = append(b, a.Serialize()...)
	}
	return syscall.NetlinkMessage{Header: syscall.NlMsghdr{Type: kind}, Data: b}
}

func name(s string) *nl.RtAttr   { return nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(s)) }
func group(g uint32) *nl.RtAttr  { return nl.NewRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(g)) }
func master(i uint32) *nl.RtAttr { return nl.NewRtAttr(unix.IFLA_MASTER, nl.Uint32Attr(i)) }

func TestPicture(t *testing.T) {
	const appears, goes = unix.RTM_NEWLINK, unix.RTM_DELLINK
	kind := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	kind.AddRtAttr(nl.IFLA_INFO_KIND, []byte("bridge\x00"))
	also := nl.NewRtAttr(unix.IFLA_PROP_LIST|unix.NLA_F_NESTED, nil)
	also.AddRtAttr(unix.IFLA_ALT_IFNAME, nl.ZeroTerminated("also"))
	also.AddRtAttr(unix.IFLA_ALT_IFNAME, nl.ZeroTerminated("and so"))
	br := &link{index: 2, mtu: 1400, group: 7, name: "br", alias: "coble:x", kind: "bridge", others: []string{"also", "and so"}}
	bridge := about(appears, unix.AF_UNSPEC, 2, name("br"), group(7), kind, also,
		nl.NewRtAttr(unix.IFLA_IFALIAS, nl.ZeroTerminated("coble:x")), nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(1400)))
	one := about(appears, unix.AF_UNSPEC, 3, name("tv1"), group(7), master(2))
	for what, c := range map[string]struct {
		told []syscall.NetlinkMessage
		want picture
	}{
		"whole":                       {[]syscall.NetlinkMessage{bridge}, picture{"br": br}},
		"a link comes":                {[]syscall.NetlinkMessage{one}, picture{"tv1": {index: 3, master: 2, group: 7, name: "tv1"}}},
		"leaves its bridge":           {[]syscall.NetlinkMessage{one, about(appears, unix.AF_UNSPEC, 3, name("tv1"), group(7))}, picture{"tv1": {index: 3, group: 7, name: "tv1"}}},
		"gets another name":           {[]syscall.NetlinkMessage{one, about(appears, unix.AF_UNSPEC, 3, name("new"), group(7))}, picture{"new": {index: 3, group: 7, name: "new"}}},
		"goes":                        {[]syscall.NetlinkMessage{one, about(goes, unix.AF_UNSPEC, 3, name("tv1"), group(7))}, picture{}},
		"another has its name":        {[]syscall.NetlinkMessage{one, about(goes, unix.AF_UNSPEC, 3, name("tv1"), group(7)), about(appears, unix.AF_UNSPEC, 4, name("tv1"), group(7))}, picture{"tv1": {index: 4, group: 7, name: "tv1"}}},
		"names change hands":          {[]syscall.NetlinkMessage{one, about(appears, unix.AF_UNSPEC, 3, name("new"), group(7)), about(appears, unix.AF_UNSPEC, 4, name("tv1"), group(7)), about(goes, unix.AF_UNSPEC, 3, name("new"), group(7))}, picture{"tv1": {index: 4, group: 7, name: "tv1"}}},
		"its bridge tells of a port":  {[]syscall.NetlinkMessage{one, about(appears, unix.AF_BRIDGE, 3, name("tv1"), master(2))}, picture{"tv1": {index: 3, master: 2, group: 7, name: "tv1"}}},
		"its bridge has no such port": {[]syscall.NetlinkMessage{one, about(goes, unix.AF_BRIDGE, 3, name("tv1"), master(2))}, picture{"tv1": {index: 3, master: 2, group: 7, name: "tv1"}}},
		"a wireless one's state":      {[]syscall.NetlinkMessage{one, about(appears, unix.AF_UNSPEC, 3, name("tv1"), nl.NewRtAttr(unix.IFLA_WIRELESS, []byte{1, 2, 3, 4}))}, picture{"tv1": {index: 3, master: 2, group: 7, name: "tv1"}}},
	} {
		p := picture{}
		for _, m := range c.told {
			require.NoError(t, p.take(m), what)
		}
		require.Equal(t, c.want, p, what)
	}
	require.Equal(t, br, picture{"br": br}.named("and so"))
	require.Nil(t, picture{"br": br}.named("so"))
	for what, m := range map[string]syscall.NetlinkMessage{
		"short":             {Header: syscall.NlMsghdr{Type: appears}, Data: make([]byte, 8)},
		"a cut attribute":   {Header: syscall.NlMsghdr{Type: appears}, Data: append(about(appears, 0, 3).Data, 40, 0, 3, 0, 'x')},
		"of something else": about(unix.RTM_NEWROUTE, unix.AF_UNSPEC, 3, name("tv1"), group(7)),
	} {
		require.Error(t, picture{}.take(m), what)
	}
}

// del removes a link that must be there.
func del(t *testing.T, link string) {
	l, err := netlink.LinkByName(link)
	require.NoError(t, err)
	require.NoError(t, netlink.LinkDel(l))
}

// dummies makes links that are nobody's.
func dummies(t *testing.T, name string, n int) {
	for i := range n {
		require.NoError(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: fmt.Sprint(name, i)}}))
	}
}

// free takes a link off its bridge, without anybody's telling the engine.
func free(t *testing.T, link string) {
	l, err := netlink.LinkByName(link)
	require.NoError(t, err)
	require.NoError(t, netlink.LinkSetNoMaster(l))
}

// followed is a host that has listed its links, with a container.
func followed(t *testing.T) (*Host, Network, Config) {
	nstest.Own(t)
	h, n := testHost()
	container(t, h, n, "tv1", "10.99.0.2/24")
	c := Config{Networks: []Network{n}, Links: map[string]Link{"tv1": {Bridge: n.Bridge}}}
	require.NoError(t, h.Set(c))
	require.NoError(t, h.Set(c))
	return h, n, c
}

// onBridge tells whether a link is on the host's bridge.
func onBridge(t *testing.T, link string) bool {
	l, err := netlink.LinkByName(link)
	require.NoError(t, err)
	b, err := netlink.LinkByName("tbr0")
	require.NoError(t, err)
	return l.Attrs().MasterIndex == b.Attrs().Index
}

// TestFollowed: links are listed anew neither for what the engine itself changes nor for what is nobody's business, and what others
// change is repaired.
func TestFollowed(t *testing.T) {
	h, n, c := followed(t)
	lists := h.view.lists
	container(t, h, n, "tv2", "10.99.0.3/24")
	c.Links["tv2"] = Link{Bridge: n.Bridge}
	require.NoError(t, h.Set(c))
	require.Empty(t, h.Missing())
	require.NoError(t, h.Unplug("tv2"))
	require.NoError(t, h.Set(c))
	require.Equal(t, []string{"tv2"}, h.Missing())
	delete(c.Links, "tv2")
	dummies(t, "his", 3)
	del(t, "his1")
	require.NoError(t, h.Set(c))
	require.Empty(t, h.Missing())
	require.Equal(t, lists, h.view.lists)
	all, err := listLinks()
	require.NoError(t, err)
	told, err := h.view.look()
	require.NoError(t, err)
	require.Len(t, told, len(all))
	for name, l := range all {
		require.Equal(t, *l, *told[name], "as the kernel lists it")
	}

	free(t, "tv1")
	require.NoError(t, h.Set(c))
	require.True(t, onBridge(t, "tv1"))
	del(t, "tbr0")
	container(t, h, n, "tv3", "10.99.0.4/24")
	require.NoError(t, h.Set(c))
	require.True(t, onBridge(t, "tv1"))
	require.False(t, Exists("tv3"), "nobody wants it")
}

// TestOverrun: what the socket had no room for is seen all the same.
func TestOverrun(t *testing.T) {
	h, _, c := followed(t)
	h.view.socket.Close()
	h.view = view{room: 1}
	require.NoError(t, h.Set(c))
	lists := h.view.lists
	dummies(t, "his", 20)
	free(t, "tv1")
	require.NoError(t, h.Set(c))
	require.True(t, onBridge(t, "tv1"))
	require.Greater(t, h.view.lists, lists)
	lists = h.view.lists
	require.NoError(t, h.Set(c)) // of its own changes some were lost too
	require.NoError(t, h.Set(c))
	require.LessOrEqual(t, h.view.lists, lists+1, "once it is known, it is followed again")
}

// TestOtherNamespace: a host is that of the namespace from which it is spoken to, whichever that was before.
func TestOtherNamespace(t *testing.T) {
	h, n, c := followed(t)
	there := nstest.NewPeer(t)
	var err error
	there.Do(func() {
		if err = h.Set(c); err == nil && !Exists(n.Bridge) {
			err = fmt.Errorf("no bridge there")
		}
	})
	require.NoError(t, err)
	free(t, "tv1")
	require.NoError(t, h.Set(c))
	require.True(t, onBridge(t, "tv1"))
}

// TestUntold: what the kernel does not tell, a group of a link that is down, is seen before anything is removed; and what is gone by
// then is none to remove.
func TestUntold(t *testing.T) {
	h, _, c := followed(t)
	link, err := netlink.LinkByName("tv1")
	require.NoError(t, err)
	require.NoError(t, netlink.LinkSetDown(link))
	require.NoError(t, h.Set(c))
	require.NoError(t, netlink.LinkSetGroup(link, 1))
	c.Links = nil
	require.NoError(t, h.Set(c))
	require.True(t, Exists("tv1"), "it is the owner's now")

	require.NoError(t, netlink.LinkSetGroup(link, nft.LinkGroup))
	links, err := h.view.list()
	require.NoError(t, err)
	s := h.survey(c, links)
	require.Len(t, s.stale, 1)
	del(t, "tv1")
	_, err = h.dropStale(s)
	require.NoError(t, err)
}

// TestRulesAtRest: rules that somebody else removed are there again after the next Set, be it before or after changes of the engine's
// own, and those alone make it read nothing.
func TestRulesAtRest(t *testing.T) {
	h, n, c := followed(t)
	remove := func() {
		conn, err := nftables.New()
		require.NoError(t, err)
		conn.DelTable(&nftables.Table{Name: "cobletest", Family: nftables.TableFamilyIPv4})
		require.NoError(t, conn.Flush())
		require.False(t, hasTable(t))
	}
	link := Link{Name: "tv9", Bridge: n.Bridge, MAC: MACFor(n.Gateway4), V4: n.Gateway4}
	own := func() {
		require.NoError(t, h.watch(link))
		require.NoError(t, h.unwatch(link.Name))
	}
	for what, f := range map[string]func(){
		"alone":      remove,
		"before own": func() { remove(); own() },
		"after own":  func() { own(); remove() },
	} {
		before := h.rest
		require.NotZero(t, before)
		f()
		require.NoError(t, h.Set(c), what)
		require.True(t, hasTable(t), what)
		require.NoError(t, h.Set(c), what)
	}
	own()
	require.Equal(t, generation(t), h.rest.generation)
}
