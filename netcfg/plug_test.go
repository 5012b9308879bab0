package netcfg

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/netcfg/nft"
	"github.com/coble-os/coble/netcfg/nstest"
)

// BenchmarkPlug compares the network's part of a container's start with the same calls in a bare loop: the link, its elements of
// the sets, up, and in the container loopback, address, up and route, by sockets that are open already where they can be. Each
// turn does both, on hosts with few and with a thousand other links. The median of the ratios must be at most 1.3, with what
// Set has to look at before.
func BenchmarkPlug(b *testing.B) {
	for _, others := range []int{0, 1000} {
		b.Run(fmt.Sprint("links=", others), func(b *testing.B) {
			nstest.Own(b)
			ours, hand := newPlugger(b, others), newPlugger(b, others)
			var plug, bare, ratios, whole []float64
			for b.Loop() {
				container := nstest.NewPeer(b)
				set, all := ours.coble(b, container.Thread)
				o := hand.bare(b, nstest.NewPeer(b).Thread).Seconds()
				plug, bare = append(plug, (all-set).Seconds()), append(bare, o)
				ratios, whole = append(ratios, (all-set).Seconds()/o), append(whole, all.Seconds()/o)
			}
			b.ReportMetric(median(plug)*1e6, "plug-us")
			b.ReportMetric(median(bare)*1e6, "bare-us")
			b.ReportMetric(median(ratios), "plug-ratio")
			b.ReportMetric(median(whole), "whole-ratio")
			if r := median(whole); r > 1.3 {
				b.Errorf("%.2f of a bare loop, want at most 1.3", r)
			}
		})
	}
}

// ok is for a peer's thread, where a test cannot end.
func ok(err error) {
	if err != nil {
		panic(err)
	}
}

// plugger is a host with a bridge, on which there are links.
type plugger struct {
	*nstest.Peer
	h *Host
	n Network
	c Config
	e Endpoint
}

func newPlugger(b *testing.B, others int) *plugger {
	p := &plugger{Peer: nstest.NewPeer(b), c: Config{Links: map[string]Link{}}}
	p.h, p.n = testHost()
	a := netip.MustParsePrefix("10.99.0.2/24")
	p.e = Endpoint{HostIf: "tv0", IfName: "eth0", V4: a, MAC: MACFor(a.Addr()), Default4: Way{Gateway: p.n.Gateway4}}
	p.c.Networks = []Network{p.n}
	far := nstest.NewPeer(b).Thread // where the others' ends are
	p.Do(func() {
		ok(unix.Setpriority(unix.PRIO_PROCESS, 0, -20)) // this thread goes before other programs
		ok(sysctl("net/ipv4/ip_forward", "1"))
		ok(p.h.Set(p.c))
		bridge, err := netlink.LinkByName(p.n.Bridge)
		ok(err)
		for i := range others {
			attrs := netlink.NewLinkAttrs()
			attrs.Name, attrs.Group, attrs.MasterIndex = fmt.Sprint("other", i), nft.LinkGroup, bridge.Attrs().Index
			ok(netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: attrs.Name, PeerNamespace: netlink.NsPid(far)}))
			p.c.Links[attrs.Name] = Link{Name: attrs.Name, Bridge: p.n.Bridge}
		}
	})
	p.c.Links[p.e.HostIf] = Link{Name: p.e.HostIf, Bridge: p.n.Bridge, MAC: p.e.MAC, V4: a.Addr()}
	return p
}

func (p *plugger) coble(b *testing.B, pid int) (set, all time.Duration) {
	var err error
	p.Do(func() {
		p.open().close()
		began := time.Now()
		p.e.Pid = pid
		err = p.h.Set(p.c)
		set = time.Since(began)
		if err == nil {
			err = p.h.Plug(p.n, p.e)
		}
		all = time.Since(began)
		err = errors.Join(err, p.h.Unplug(p.e.HostIf))
	})
	require.NoError(b, err)
	return set, all
}

// opened is what the bare calls take as given.
type opened struct {
	host   *netlink.Handle
	rules  *nftables.Conn
	bridge netlink.Link
	sets   map[string]*nftables.Set
}

// open comes before either: what a processor that was asleep, and others' work in its caches, cost the first calls is not measured.
func (p *plugger) open() (o opened) {
	var err error
	o.host, err = netlink.NewHandle(unix.NETLINK_ROUTE)
	ok(err)
	o.rules, err = nftables.New(nftables.AsLasting())
	ok(err)
	o.bridge, err = o.host.LinkByName(p.n.Bridge)
	ok(err)
	o.sets = map[string]*nftables.Set{}
	all, err := o.rules.GetSets(&nftables.Table{Name: p.h.name, Family: nftables.TableFamilyBridge})
	ok(err)
	for _, s := range all {
		o.sets[s.Name] = s
	}
	return o
}

func (o opened) close() {
	o.host.Close()
	o.rules.CloseLasting()
}

func (p *plugger) bare(b *testing.B, pid int) (took time.Duration) {
	p.Do(func() {
		o := p.open()
		defer o.close()
		name := make([]byte, unix.IFNAMSIZ)
		copy(name, p.e.HostIf)
		elements := map[string][]byte{"links": {}, "macs": append(p.e.MAC[:6:6], 0, 0), "ipv4": p.e.V4.Addr().AsSlice(), "ipv6": make([]byte, 16)}

		began := time.Now()
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MasterIndex, attrs.MTU, attrs.Group = p.e.HostIf, o.bridge.Attrs().Index, 1500, nft.LinkGroup
		attrs.NumTxQueues, attrs.NumRxQueues = 1, 1
		veth := &netlink.Veth{LinkAttrs: attrs, PeerName: p.e.IfName, PeerHardwareAddr: p.e.MAC, PeerNamespace: netlink.NsPid(pid), PeerMTU: 1500}
		ok(o.host.LinkAdd(veth))
		for set, e := range elements {
			ok(o.rules.SetAddElements(o.sets[set], []nftables.SetElement{{Key: append(name[:len(name):len(name)], e...)}}))
		}
		ok(o.rules.Flush())
		ok(withoutV6(o.host, veth))
		ok(o.host.LinkSetUp(veth))
		ns, err := netns.GetFromPid(pid)
		ok(err)
		inside, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
		ok(err)
		ok(inside.LinkSetUp(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: 1}})) // loopback
		eth0, err := inside.LinkByName(p.e.IfName)
		ok(err)
		ok(inside.AddrAdd(eth0, address(p.e.V4)))
		ok(withoutV6(inside, eth0))
		ok(inside.LinkSetUp(eth0))
		ok(inside.RouteAdd(&netlink.Route{Dst: everything4, Gw: p.e.Default4.Gateway.AsSlice()}))
		took = time.Since(began)

		inside.Close()
		ns.Close()
		for set, e := range elements {
			ok(o.rules.SetDeleteElements(o.sets[set], []nftables.SetElement{{Key: append(name[:len(name):len(name)], e...)}}))
		}
		ok(o.rules.Flush())
		ok(o.host.LinkDel(veth))
	})
	return took
}
