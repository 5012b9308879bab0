package netcfg

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/netcfg/dump"
	"github.com/coble-os/coble/netcfg/nft"
)

// ensure makes the bridge, if link, what there is of its name, is nil; returns it and switches forwarding on. Called with mu held.
func (h *Host) ensure(n Network, link netlink.Link) (netlink.Link, error) {
	if link != nil && h.ready[n.Bridge] == n {
		return link, nil
	}
	if link != nil && link.Type() != "bridge" {
		return nil, fmt.Errorf("make bridge %s: there is a link of that name already, of type %s", n.Bridge, link.Type())
	}
	if err := h.Free(n); err != nil {
		return nil, err
	}
	if link == nil {
		var err error
		if link, err = makeBridge(n); err != nil {
			return nil, err
		}
		h.made = true
		if err := netlink.LinkSetAlias(link, alias(h.name)); err != nil {
			return nil, fmt.Errorf("mark bridge %s: %w", n.Bridge, errors.Join(err, netlink.LinkDel(link)))
		}
	}
	for _, p := range []netip.Prefix{netip.PrefixFrom(n.Gateway4, max(n.V4.Bits(), 0)), netip.PrefixFrom(n.Gateway6, max(n.V6.Bits(), 0))} {
		if !p.Addr().IsValid() {
			continue
		}
		if err := netlink.AddrReplace(link, address(p)); err != nil {
			return nil, fmt.Errorf("set address %s of bridge %s: %w", p, n.Bridge, err)
		}
	}
	if link.Attrs().Group != nft.LinkGroup {
		if err := netlink.LinkSetGroup(link, nft.LinkGroup); err != nil {
			return nil, fmt.Errorf("mark bridge %s: %w", n.Bridge, err)
		}
	}
	if err := netlink.LinkSetUp(link); err != nil {
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
	for _, l := range links {
		if !h.others(l) {
			continue
		}
		if l.Attrs().Name == n.Bridge {
			return fmt.Errorf("make bridge %s: it is that of %s: %w; give the bridge another name", n.Bridge, l.Attrs().Alias, ErrTaken)
		}
		addrs, err := dump.List(func() ([]netlink.Addr, error) { return netlink.AddrList(l, netlink.FAMILY_ALL) })
		if err != nil && !gone(err) {
			return fmt.Errorf("list addresses of %s: %w", l.Attrs().Name, err)
		}
		for _, a := range addrs {
			ip, _ := netip.AddrFromSlice(a.IP)
			ones, _ := a.Mask.Size()
			if p := netip.PrefixFrom(ip.Unmap(), ones); !ip.IsLinkLocalUnicast() && (n.V4.IsValid() && p.Overlaps(n.V4) || n.V6.IsValid() && p.Overlaps(n.V6)) {
				return fmt.Errorf("make bridge %s: %s has %s: %w; give the network another subnet", n.Bridge, l.Attrs().Name, p, ErrTaken)
			}
		}
	}
	return nil
}

// others tells whether a link is another engine's bridge.
func (h *Host) others(l netlink.Link) bool {
	a := l.Attrs().Alias
	return l.Type() == "bridge" && strings.HasPrefix(a, alias("")) && a != alias(h.name)
}

func makeBridge(n Network) (netlink.Link, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = n.Bridge, n.MTU
	attrs.HardwareAddr = MACFor(n.Gateway4)
	if !n.Gateway4.IsValid() {
		attrs.HardwareAddr = MACFor(n.Gateway6)
	}
	if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		if errors.Is(err, unix.EOPNOTSUPP) {
			return nil, fmt.Errorf("make bridge %s: %w: the kernel has no bridge (CONFIG_BRIDGE; is the module bridge loaded?)", n.Bridge, err)
		}
		return nil, fmt.Errorf("make bridge %s: %w", n.Bridge, err)
	}
	return netlink.LinkByName(n.Bridge)
}

// named finds a link in a list by its name or another name of its (ip-link(8), property), as the kernel does; nil if there is none.
func named(links []netlink.Link, name string) netlink.Link {
	for _, l := range links {
		if a := l.Attrs(); a.Name == name || slices.Contains(a.AltNames, name) {
			return l
		}
	}
	return nil
}

// rejoin puts links back onto a bridge that was removed and is there again. Called with mu held.
func (h *Host) rejoin(c Config, links []netlink.Link) error {
	byName := map[string]netlink.Link{}
	for _, l := range links {
		byName[l.Attrs().Name] = l
	}
	apart := map[string]bool{}
	for _, n := range c.Networks {
		apart[n.Bridge] = !n.ICC
	}
	h.gone = nil
	for name, want := range c.Links {
		link, bridge := byName[name], byName[want.Bridge]
		if link == nil {
			h.gone = append(h.gone, name)
			continue
		}
		if bridge == nil || link.Attrs().MasterIndex == bridge.Attrs().Index {
			continue
		}
		if err := netlink.LinkSetMaster(link, bridge); err != nil {
			return fmt.Errorf("put link %s back onto bridge %s: %w", name, want.Bridge, err)
		}
		if apart[want.Bridge] {
			if err := netlink.LinkSetIsolated(link, true); err != nil {
				return fmt.Errorf("keep link %s apart from others: %w", name, err)
			}
		}
	}
	return nil
}
