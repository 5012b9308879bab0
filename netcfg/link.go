package netcfg

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/netcfg/nft"
)

// Endpoint is a container's link into one network.
type Endpoint struct {
	HostIf             string // name of the host's end
	IfName             string // name in the container
	Pid                int    // a process in the container's network namespace
	V4, V6             netip.Prefix
	MAC                net.HardwareAddr
	Free               bool // it may send with any address
	Default4, Default6 Way  // to everywhere else
}

// Way is where everywhere else is reached: by a gateway or, without one, through a link of the container's. The zero Way is
// none.
type Way struct {
	Gateway netip.Addr
	Link    string
}

// Plug gives a container its link: a veth pair with one end on the bridge and the other, addressed and up, in the
// namespace of the endpoint's process.
func (h *Host) Plug(n Network, e Endpoint) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	links, err := h.view.look()
	if err == nil && h.standing(n, links) == nil {
		links, err = h.view.list()
	}
	if err != nil {
		return err
	}
	bridge, err := h.ensure(n, links)
	if err != nil {
		return err
	}
	host, err := netlink.NewHandle(unix.NETLINK_ROUTE) // one socket for all
	if err != nil {
		return fmt.Errorf("reach the host's links: %w", err)
	}
	defer host.Close()
	mtu := n.MTU
	if mtu == 0 {
		mtu = int(bridge.mtu)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MasterIndex, attrs.MTU, attrs.Group = e.HostIf, int(bridge.index), mtu, nft.LinkGroup
	attrs.NumTxQueues, attrs.NumRxQueues = 1, 1 // else the kernel makes one for each processor, and takes back all but one
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: e.IfName, PeerHardwareAddr: e.MAC, PeerNamespace: netlink.NsPid(e.Pid), PeerMTU: uint32(mtu)}
	err = host.LinkAdd(veth)
	if errors.Is(err, unix.EEXIST) { // of a start that was cut short
		if old, lerr := host.LinkByName(e.HostIf); lerr == nil {
			err = errors.Join(host.LinkDel(old), host.LinkAdd(veth))
		}
	}
	if err != nil {
		return fmt.Errorf("make veth pair %s: %w", e.HostIf, without(err, "veth", "CONFIG_VETH"))
	}
	if !n.ICC { // such ports reach the bridge, and no other of their kind (bridge(8), isolated)
		if err := host.LinkSetIsolated(veth, true); err != nil {
			return fmt.Errorf("keep link %s apart from others: %w", e.HostIf, err)
		}
	}
	if !e.Free {
		if err := h.watch(Link{Name: e.HostIf, Bridge: n.Bridge, MAC: e.MAC, V4: e.V4.Addr(), V6: e.V6.Addr()}); err != nil {
			return err
		}
	}
	if err := withoutV6(host, veth); err != nil { // the bridge alone has addresses
		return fmt.Errorf("set up link %s: %w", e.HostIf, err)
	}
	if err := host.LinkSetUp(veth); err != nil {
		return fmt.Errorf("set link %s up: %w", e.HostIf, err)
	}
	return inside(e.Pid, e.setUp)
}

// withoutV6 keeps a link, which is down yet, from making itself an IPv6 address (fe80::/64), and so from what is sent for one: a
// bridge floods that to all its links, and with hundreds of them each start would be felt by all.
func withoutV6(h *netlink.Handle, l netlink.Link) error {
	err := h.LinkSetIP6AddrGenMode(l, nl.IN6_ADDR_GEN_MODE_NONE)
	if errors.Is(err, unix.EAFNOSUPPORT) {
		return nil // a kernel without IPv6
	}
	return err
}

// SetDefault makes the routes to everywhere else of a process's namespace lead these ways.
func SetDefault(pid int, v4, v6 Way) error {
	return inside(pid, func(ns *netlink.Handle) error {
		return errors.Join(v4.replace(ns, everything4), v6.replace(ns, everything6))
	})
}

var (
	everything4 = ipNet(netip.PrefixFrom(netip.IPv4Unspecified(), 0))
	everything6 = ipNet(netip.PrefixFrom(netip.IPv6Unspecified(), 0))
)

// replace is set, and where there is no way there is no such route.
func (w Way) replace(ns *netlink.Handle, to *net.IPNet) error {
	if w == (Way{}) {
		return dropDefault(ns, to)
	}
	return w.set(ns, to)
}

func (w Way) set(ns *netlink.Handle, to *net.IPNet) error {
	if w == (Way{}) {
		return nil
	}
	r := &netlink.Route{Dst: to, Gw: w.Gateway.AsSlice()}
	if !w.Gateway.IsValid() {
		link, err := ns.LinkByName(w.Link)
		if err != nil {
			return fmt.Errorf("find %s in the container: %w", w.Link, err)
		}
		r.LinkIndex, r.Scope = link.Attrs().Index, netlink.SCOPE_LINK
		if to == everything6 {
			r.Scope = netlink.SCOPE_UNIVERSE // IPv6 has no others
		}
	}
	if err := ns.RouteReplace(r); err != nil {
		return fmt.Errorf("set default route in the container: %w", err)
	}
	return nil
}

func dropDefault(ns *netlink.Handle, to *net.IPNet) error {
	err := ns.RouteDel(&netlink.Route{Dst: to})
	if err == nil || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil // there was none, or no such family
	}
	return fmt.Errorf("remove default route in the container: %w", err)
}

// loopback is that of any network namespace (include/net/flow.h, LOOPBACK_IFINDEX).
var loopback = &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: 1}}

// LoopbackUp brings up loopback in the namespace of a process, for a container with no other link.
func LoopbackUp(pid int) error {
	return inside(pid, func(ns *netlink.Handle) error {
		return ns.LinkSetUp(loopback)
	})
}

// inside calls f with a netlink socket of a process's network namespace.
func inside(pid int, f func(ns *netlink.Handle) error) error {
	ns, err := netns.GetFromPid(pid)
	if err != nil {
		return fmt.Errorf("open network namespace of process %d: %w", pid, err)
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("enter network namespace of process %d: %w", pid, err)
	}
	defer h.Close()
	return f(h)
}

// Unplug removes a container's link; one that has gone with its namespace is none to remove.
func (h *Host) Unplug(hostIf string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	dropped := h.unwatch(hostIf)
	links, err := h.view.look()
	l := links[hostIf]
	if err != nil || l == nil {
		return errors.Join(dropped, err)
	}
	if err := netlink.LinkDel(l.device()); err != nil && !gone(err) {
		return errors.Join(dropped, fmt.Errorf("remove link %s: %w", hostIf, err))
	}
	return dropped
}
