package netcfg

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/netcfg/dump"
)

// FreeSubnet finds a /16 for containers that the host does not route anywhere yet, and that is none of others.
func FreeSubnet(others ...netip.Prefix) (netip.Prefix, error) {
	routed, err := routes(netlink.FAMILY_V4)
	if err != nil {
		return netip.Prefix{}, err
	}
	return chooseSubnet(append(routed, others...))
}

// Unrouted tells whether the host has a route to nothing of an IPv4 subnet, but by default.
func Unrouted(p netip.Prefix) (bool, error) {
	routed, err := routes(netlink.FAMILY_V4)
	return !slices.ContainsFunc(routed, p.Overlaps), err
}

// routes are the destinations that the host has routes to, without the default.
func routes(family int) ([]netip.Prefix, error) {
	list, err := listRoutes(family)
	if err != nil {
		return nil, err
	}
	var out []netip.Prefix
	for _, r := range list {
		if isDefault(r) {
			continue
		}
		if a, ok := netip.AddrFromSlice(r.Dst.IP); ok {
			ones, _ := r.Dst.Mask.Size()
			out = append(out, netip.PrefixFrom(a.Unmap(), ones))
		}
	}
	return out, nil
}

func listRoutes(family int) ([]netlink.Route, error) {
	list, err := dump.List(func() ([]netlink.Route, error) { return netlink.RouteList(nil, family) })
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	return list, nil
}

// isDefault tells whether a route leads to everywhere.
func isDefault(r netlink.Route) bool {
	if r.Dst == nil {
		return true
	}
	ones, _ := r.Dst.Mask.Size()
	return ones == 0
}

// chooseSubnet is pure: the first of 10.88.0.0/16 to 10.255.0.0/16 that overlaps nothing.
func chooseSubnet(taken []netip.Prefix) (netip.Prefix, error) {
next:
	for i := 88; i < 256; i++ {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i), 0, 0}), 16)
		for _, t := range taken {
			if t.Overlaps(p) {
				continue next
			}
		}
		return p, nil
	}
	return netip.Prefix{}, errors.New("find a free subnet: the host routes all of 10.88.0.0 to 10.255.0.0; name one in [network.default]")
}

// InUse says whether a program on the host has the port already. It binds a socket and does no more: a thousand ports are asked
// for at once. Like a program that would listen it sets SO_REUSEADDR for TCP, or connections that are over would count too.
func InUse(proto, ip string, port uint16) bool {
	a, _ := netip.ParseAddr(ip)
	family, to := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Port: int(port)})
	switch {
	case a.Is4():
		to = &unix.SockaddrInet4{Port: int(port), Addr: a.As4()}
	case a.Is6():
		family, to = unix.AF_INET6, &unix.SockaddrInet6{Port: int(port), Addr: a.As16()}
	}
	kind := unix.SOCK_STREAM
	if proto == "udp" {
		kind = unix.SOCK_DGRAM
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false // what cannot be asked for is no program's
	}
	defer unix.Close(fd)
	if family == unix.AF_INET6 {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)
	}
	if kind == unix.SOCK_STREAM {
		err = errors.Join(err, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
	}
	return err == nil && unix.Bind(fd, to) == unix.EADDRINUSE
}
