package netcfg

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/coble-os/coble/netcfg/nft"
)

// Listen says from where ports are reached that are published on every address.
type Listen = nft.Listen

// Where finds what names stand for at this moment: an address, or a link's name, alias or other name (ip-link(8), alias and
// property), or what zones has under it. An unspecified address is everywhere. A link that is not there yet is matched when it comes.
func Where(names []string, zones map[string][]string) (Listen, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return Listen{}, fmt.Errorf("list links: %w", err)
	}
	var l Listen
	for _, name := range names {
		a, err := netip.ParseAddr(name)
		switch {
		case err == nil && a.IsUnspecified():
			return Listen{}, nil
		case err == nil:
			l.Addrs = append(l.Addrs, a.Unmap())
			continue
		}
		// What is too long for a link stays in: it matches none, where an empty list would be everywhere.
		l.Links = append(append(l.Links, name), zones[name]...)
		for _, link := range links {
			if a := link.Attrs(); a.Alias == name || slices.Contains(a.AltNames, name) {
				l.Links = append(l.Links, a.Name)
			}
		}
	}
	slices.Sort(l.Links)
	l.Links = slices.Compact(l.Links)
	return l, nil
}

// Uplinks are the links that default routes lead through, by name.
func Uplinks() ([]string, error) {
	var names []string
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		list, err := netlink.RouteList(nil, family)
		if err != nil {
			return nil, fmt.Errorf("list routes: %w", err)
		}
		for _, r := range list {
			if r.Dst != nil {
				if ones, _ := r.Dst.Mask.Size(); ones > 0 {
					continue
				}
			}
			hops := []int{r.LinkIndex}
			for _, hop := range r.MultiPath {
				hops = append(hops, hop.LinkIndex)
			}
			for _, index := range hops {
				if link, err := netlink.LinkByIndex(index); err == nil {
					names = append(names, link.Attrs().Name)
				}
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// Entries are the links that others may come in through: all of the host's but loopback, ports of bridges and bonds, and
// engines' bridges.
func Entries() ([]string, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	var names []string
	for _, link := range links {
		if a := link.Attrs(); a.MasterIndex == 0 && a.Group != nft.LinkGroup && a.Flags&net.FlagLoopback == 0 {
			names = append(names, a.Name)
		}
	}
	return names, nil
}

// settle is how long a change of links or routes is left alone, since one seldom comes alone.
const settle = 200 * time.Millisecond

// Follow calls changed after links or routes of the host's have changed, until done is closed. It returns at once.
func Follow(done <-chan struct{}, changed func()) error {
	links, routes := make(chan netlink.LinkUpdate, 64), make(chan netlink.RouteUpdate, 64)
	if err := netlink.LinkSubscribe(links, done); err != nil {
		return fmt.Errorf("follow links: %w", err)
	}
	if err := netlink.RouteSubscribe(routes, done); err != nil {
		return fmt.Errorf("follow routes: %w", err)
	}
	go func() {
		quiet := time.NewTimer(settle)
		defer quiet.Stop()
		for {
			var ok bool
			select {
			case _, ok = <-links:
			case _, ok = <-routes:
			case <-quiet.C:
				changed()
				continue
			}
			if !ok {
				return
			}
			quiet.Reset(settle)
		}
	}()
	return nil
}
