package netcfg

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/netcfg/nft"
)

// Listen says from where ports are reached that are published on every address.
type Listen = nft.Listen

// Where finds what names stand for at this moment: an address, or a link's name, alias or other name (ip-link(8), alias and
// property), or what zones has under it. An unspecified address is everywhere. A link that is not there yet is matched when it comes.
func Where(names []string, zones map[string][]string) (Listen, error) {
	links, err := listLinks()
	if err != nil {
		return Listen{}, err
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
			if link.alias == name || slices.Contains(link.others, name) {
				l.Links = append(l.Links, link.name)
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
		list, err := listRoutes(family)
		if err != nil {
			return nil, err
		}
		for _, r := range list {
			if !isDefault(r) {
				continue
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
	links, err := listLinks()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, link := range links {
		if link.master == 0 && link.group != nft.LinkGroup && link.flags&unix.IFF_LOOPBACK == 0 {
			names = append(names, link.name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// settle is how long after a change of links or routes others are waited for, since one seldom comes alone.
const settle = 200 * time.Millisecond

// Follow calls changed after links or routes of the host's have changed, until done is closed. It returns at once.
func Follow(done <-chan struct{}, changed func()) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("follow links and routes: %w", err)
	}
	f := os.NewFile(uintptr(fd), "rtnetlink")
	groups := uint32(unix.RTMGRP_LINK | unix.RTMGRP_IPV4_ROUTE | unix.RTMGRP_IPV6_ROUTE)
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		f.Close()
		return fmt.Errorf("follow links and routes: %w", err)
	}
	go func() {
		<-done
		f.Close()
	}()
	go func() {
		pending, buf := false, make([]byte, 64) // what changed is not read
		for err := error(nil); ; _, err = f.Read(buf) {
			switch {
			case errors.Is(err, os.ErrDeadlineExceeded):
				pending = false
				f.SetReadDeadline(time.Time{})
				changed()
			case err != nil && !errors.Is(err, unix.ENOBUFS): // which says that some news were lost (netlink(7))
				return
			case !pending:
				pending = true
				f.SetReadDeadline(time.Now().Add(settle))
			}
		}
	}()
	return nil
}
