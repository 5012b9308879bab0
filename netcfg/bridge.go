package netcfg

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"

	"github.com/coble-os/coble/netcfg/dump"
	"github.com/coble-os/coble/netcfg/nft"
)

// standing is the network's bridge if it is there as it is wanted, or nil. Called with mu held.
func (h *Host) standing(n Network, links picture) *link {
	if h.ready[n.Bridge] != n {
		return nil
	}
	return links.named(n.Bridge)
}

// ensure makes the bridge, if none of these links, which are all of the host's, is it, returns it and switches forwarding on. Called
// with mu held.
func (h *Host) ensure(n Network, links picture) (*link, error) {
	if link := h.standing(n, links); link != nil {
		return link, nil
	}
	link := links.named(n.Bridge)
	if link != nil && link.kind != "bridge" {
		return nil, fmt.Errorf("make bridge %s: there is a link of that name already, of type %s", n.Bridge, link.kind)
	}
	if err := h.free(n, links); err != nil {
		return nil, err
	}
	if link == nil {
		var err error
		if link, err = makeBridge(n); err != nil {
			return nil, err
		}
		h.made = true
		if err := netlink.LinkSetAlias(link.device(), alias(h.name)); err != nil {
			return nil, fmt.Errorf("mark bridge %s: %w", n.Bridge, errors.Join(err, netlink.LinkDel(link.device())))
		}
	}
	for _, p := range []netip.Prefix{netip.PrefixFrom(n.Gateway4, max(n.V4.Bits(), 0)), netip.PrefixFrom(n.Gateway6, max(n.V6.Bits(), 0))} {
		if !p.Addr().IsValid() {
			continue
		}
		if err := netlink.AddrReplace(link.device(), address(p)); err != nil {
			return nil, fmt.Errorf("set address %s of bridge %s: %w", p, n.Bridge, err)
		}
	}
	if link.group != nft.LinkGroup {
		if err := netlink.LinkSetGroup(link.device(), nft.LinkGroup); err != nil {
			return nil, fmt.Errorf("mark bridge %s: %w", n.Bridge, err)
		}
	}
	if err := netlink.LinkSetUp(link.device()); err != nil {
		return nil, fmt.Errorf("set bridge %s up: %w", n.Bridge, err)
	}
	// A published port is reached from the host's own 127.0.0.1 too; the rules keep others away from there.
	if err := sysctl("net/ipv4/conf/"+n.Bridge+"/route_localnet", "1"); err != nil {
		return nil, err
	}
	if err := h.forward(n); err != nil {
		return nil, err
	}
	h.ready[n.Bridge] = n
	return link, nil
}

// Free refuses, with ErrTaken, a bridge of another engine's, and addresses that one of those has.
func (h *Host) Free(n Network) error {
	links, err := listLinks()
	if err != nil {
		return err
	}
	return h.free(n, links)
}

func (h *Host) free(n Network, links picture) error {
	for _, l := range links {
		if !h.others(l) {
			continue
		}
		if l.name == n.Bridge {
			return fmt.Errorf("make bridge %s: it is that of %s: %w; give the bridge another name", n.Bridge, l.alias, ErrTaken)
		}
		addrs, err := dump.List(func() ([]netlink.Addr, error) { return netlink.AddrList(l.device(), netlink.FAMILY_ALL) })
		if err != nil && !gone(err) {
			return fmt.Errorf("list addresses of %s: %w", l.name, err)
		}
		for _, a := range addrs {
			ip, _ := netip.AddrFromSlice(a.IP)
			ones, _ := a.Mask.Size()
			if p := netip.PrefixFrom(ip.Unmap(), ones); !ip.IsLinkLocalUnicast() && (n.V4.IsValid() && p.Overlaps(n.V4) || n.V6.IsValid() && p.Overlaps(n.V6)) {
				return fmt.Errorf("make bridge %s: %s has %s: %w; give the network another subnet", n.Bridge, l.name, p, ErrTaken)
			}
		}
	}
	return nil
}

// others tells whether a link is another engine's bridge.
func (h *Host) others(l *link) bool {
	return l.kind == "bridge" && strings.HasPrefix(l.alias, alias("")) && l.alias != alias(h.name)
}

func makeBridge(n Network) (*link, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = n.Bridge, n.MTU
	attrs.HardwareAddr = MACFor(n.Gateway4)
	if !n.Gateway4.IsValid() {
		attrs.HardwareAddr = MACFor(n.Gateway6)
	}
	if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		return nil, fmt.Errorf("make bridge %s: %w", n.Bridge, without(err, "bridge", "CONFIG_BRIDGE"))
	}
	made, err := netlink.LinkByName(n.Bridge)
	if err != nil {
		return nil, fmt.Errorf("make bridge %s: %w", n.Bridge, err)
	}
	return &link{index: int32(made.Attrs().Index), mtu: int32(made.Attrs().MTU), name: n.Bridge, kind: "bridge"}, nil
}

// rejoin puts links back onto their bridges.
func rejoin(c Config, links picture, astray []*link) error {
	apart := map[string]bool{}
	for _, n := range c.Networks {
		apart[n.Bridge] = !n.ICC
	}
	for _, l := range astray {
		bridge := c.Links[l.name].Bridge
		if err := netlink.LinkSetMaster(l.device(), links[bridge].device()); err != nil {
			return fmt.Errorf("put link %s back onto bridge %s: %w", l.name, bridge, err)
		}
		if apart[bridge] {
			if err := netlink.LinkSetIsolated(l.device(), true); err != nil {
				return fmt.Errorf("keep link %s apart from others: %w", l.name, err)
			}
		}
	}
	return nil
}
