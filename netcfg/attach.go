package netcfg

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Attachment is a network without a bridge: its containers' links are a link of the host's under other addresses
// (ip-link(8), macvlan and ipvlan). The host itself does not reach them, nor do they it.
type Attachment struct {
	Driver string // macvlan or ipvlan
	Parent string // link of the host. eth0.50 is made if it is not there: VLAN 50 of eth0
	Alone  bool   // Parent is a dummy that is made for the network, which leads nowhere
	Mode   string // macvlan: bridge, private, vepa, passthru; ipvlan: l2, l3, l3s; empty: the first of those
	Flag   string // ipvlan: bridge, private, vepa; empty: bridge
	MTU    int    // bytes; 0: the parent's
}

// Modes and flags of the drivers, by Docker's names. The zero name is the driver's usual one.
var (
	MacvlanModes = map[string]netlink.MacvlanMode{
		"": netlink.MACVLAN_MODE_BRIDGE, "bridge": netlink.MACVLAN_MODE_BRIDGE, "private": netlink.MACVLAN_MODE_PRIVATE,
		"vepa": netlink.MACVLAN_MODE_VEPA, "passthru": netlink.MACVLAN_MODE_PASSTHRU,
	}
	IPVlanModes = map[string]netlink.IPVlanMode{
		"": netlink.IPVLAN_MODE_L2, "l2": netlink.IPVLAN_MODE_L2, "l3": netlink.IPVLAN_MODE_L3, "l3s": netlink.IPVLAN_MODE_L3S,
	}
	IPVlanFlags = map[string]netlink.IPVlanFlag{
		"": netlink.IPVLAN_FLAG_BRIDGE, "bridge": netlink.IPVLAN_FLAG_BRIDGE, "private": netlink.IPVLAN_FLAG_PRIVATE, "vepa": netlink.IPVLAN_FLAG_VEPA,
	}
)

// Routed tells whether the links have no neighbours: everywhere is reached through the link itself, without a gateway.
func (a Attachment) Routed() bool { return a.Mode == "l3" || a.Mode == "l3s" }

// Modules are those of the kernel's that it takes, if it has them as such.
func (a Attachment) Modules() []string {
	if a.Alone {
		return []string{a.Driver, "dummy"}
	}
	return []string{a.Driver, "8021q"}
}

// vlan is pure: what a parent such as eth0.50 is made of.
func (a Attachment) vlan() (of string, id int, ok bool) {
	i := strings.LastIndexByte(a.Parent, '.')
	if i <= 0 {
		return "", 0, false
	}
	id, err := strconv.Atoi(a.Parent[i+1:])
	return a.Parent[:i], id, err == nil && id >= 1 && id <= 4094
}

// MakeParent makes sure of the parent, so that a network without one is refused when it is made.
func (h *Host) MakeParent(a Attachment) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, err := h.parent(a)
	return err
}

// parent finds or makes the parent. Called with mu held.
func (h *Host) parent(a Attachment) (netlink.Link, error) {
	if l, err := netlink.LinkByName(a.Parent); err == nil {
		return l, nil
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = a.Parent, a.MTU
	var made netlink.Link = &netlink.Dummy{LinkAttrs: attrs}
	kind, option := "dummy", "CONFIG_DUMMY"
	if !a.Alone {
		of, id, ok := a.vlan()
		if !ok {
			return nil, fmt.Errorf("find parent %s: the host has no link of that name; for a VLAN of one say, for example, eth0.50", a.Parent)
		}
		base, err := netlink.LinkByName(of)
		if err != nil {
			return nil, fmt.Errorf("make parent %s, VLAN %d of %s: the host has no link %s", a.Parent, id, of, of)
		}
		attrs.ParentIndex, kind, option = base.Attrs().Index, "8021q", "CONFIG_VLAN_8021Q"
		made = &netlink.Vlan{LinkAttrs: attrs, VlanId: id, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q}
	}
	if err := netlink.LinkAdd(made); err != nil {
		return nil, fmt.Errorf("make parent %s: %w", a.Parent, without(err, kind, option))
	}
	l, err := netlink.LinkByName(a.Parent)
	if err == nil {
		err = netlink.LinkSetAlias(l, alias(h.name))
	}
	if err == nil {
		err = netlink.LinkSetUp(l)
	}
	if err != nil {
		return nil, fmt.Errorf("make parent %s: %w", a.Parent, err)
	}
	return l, nil
}

// without explains the kernel's answer to a kind of link that it does not have, which is its module's name too.
func without(err error, kind, option string) error {
	if errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("%w: the kernel has no %s (%s; is the module %[2]s loaded?)", err, kind, option)
	}
	return err
}

// Attach gives a container its link: addressed and up, in the namespace of the endpoint's process. There is no end of it on
// the host; it goes with that namespace, or by Detach.
func (h *Host) Attach(a Attachment, e Endpoint) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	parent, err := h.parent(a)
	if err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex, attrs.MTU, attrs.Namespace = e.IfName, parent.Attrs().Index, a.MTU, netlink.NsPid(e.Pid)
	var link netlink.Link
	option := "CONFIG_IPVLAN"
	if a.Driver == "macvlan" {
		attrs.HardwareAddr, option = e.MAC, "CONFIG_MACVLAN"
		link = &netlink.Macvlan{LinkAttrs: attrs, Mode: MacvlanModes[a.Mode]}
	} else {
		link = &netlink.IPVlan{LinkAttrs: attrs, Mode: IPVlanModes[a.Mode], Flag: IPVlanFlags[a.Flag]}
	}
	if err := netlink.LinkAdd(link); err != nil {
		return fmt.Errorf("make %s link on %s: %w", a.Driver, a.Parent, without(err, a.Driver, option))
	}
	return inside(e.Pid, e.setUp)
}

// setUp gives the container's end its addresses and routes.
func (e Endpoint) setUp(ns *netlink.Handle) error {
	if err := ns.LinkSetUp(loopback); err != nil {
		return fmt.Errorf("set loopback in the container up: %w", err)
	}
	link, err := ns.LinkByName(e.IfName)
	if err != nil {
		return fmt.Errorf("find %s in the container: %w", e.IfName, err)
	}
	for _, p := range []netip.Prefix{e.V4, e.V6} {
		if !p.IsValid() {
			continue
		}
		if err := ns.AddrAdd(link, address(p)); err != nil {
			return fmt.Errorf("set address %s in the container: %w", p, err)
		}
	}
	if !e.V6.IsValid() {
		if err := withoutV6(ns, link); err != nil {
			return fmt.Errorf("set up %s in the container: %w", e.IfName, err)
		}
	}
	if err := ns.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s in the container up: %w", e.IfName, err)
	}
	return errors.Join(e.Default4.set(ns, everything4), e.Default6.set(ns, everything6))
}

// Detach takes a link that Attach made out of a running container.
func (h *Host) Detach(pid int, ifName string) error {
	return inside(pid, func(ns *netlink.Handle) error {
		l, err := ns.LinkByName(ifName)
		if err == nil {
			err = ns.LinkDel(l)
		}
		if err != nil && !gone(err) {
			return fmt.Errorf("remove link %s of the container: %w", ifName, err)
		}
		return nil
	})
}
