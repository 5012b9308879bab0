package links

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/netcfg/dump"
)

// protocol marks routes and rules as coble's (rtnetlink(7), RTPROT_*): the letter C, which nobody else has taken.
const protocol = 67

// read asks the kernel. Sysctls are read of the links that are wanted only: there may be a thousand containers' beside them.
func read(now time.Time, wanted []Link) (*State, error) {
	all, err := dump.List(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	s := &State{Devices: map[string]*Dev{}}
	names := map[int]string{}
	for _, l := range all {
		v := readDev(l)
		s.Devices[v.Name], names[v.Index] = v, v.Name
		if find(wanted, v.Name) != nil {
			v.RA, v.AddrGen = readText(sysctl(v.Name, "accept_ra")), readText(sysctl(v.Name, "addr_gen_mode"))
			v.Failover = readText(linkdownFile("ipv4", v.Name)) == "1"
			v.STP = v.Kind == string(Bridge) && readText(stpFile(v.Name)) != "0"
		}
	}
	addrs, err := dump.List(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addrs {
		if v := s.Devices[names[a.LinkIndex]]; v != nil {
			p := prefix(a.IPNet)
			if a.Flags&unix.IFA_F_DADFAILED != 0 {
				v.Failed[p] = true
			} else if a.Flags&unix.IFA_F_TENTATIVE != 0 {
				v.Tentative[p] = true
			}
			v.Addresses[p] = until(now, a.ValidLft)
			if a.PreferedLft != a.ValidLft {
				v.Preferred[p] = now
				if a.PreferedLft != 0 {
					v.Preferred[p] = until(now, a.PreferedLft)
				}
			}
		}
	}
	routes, err := dump.List(func() ([]netlink.Route, error) {
		own := &netlink.Route{Protocol: protocol, Table: unix.RT_TABLE_UNSPEC}
		return netlink.RouteListFiltered(netlink.FAMILY_ALL, own, netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	for _, r := range routes {
		s.Routes = append(s.Routes, readRoute(r, names)...)
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		rules, err := dump.List(func() ([]netlink.Rule, error) { return netlink.RuleList(family) })
		if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EAFNOSUPPORT) {
			continue // a kernel without policies, or without IPv6
		}
		if err != nil {
			return nil, fmt.Errorf("list rules: %w", err)
		}
		for _, r := range rules {
			if r.Protocol == protocol {
				s.Rules = append(s.Rules, Rule{From: prefix(r.Src), To: prefix(r.Dst), Table: r.Table, Priority: r.Priority})
			}
		}
	}
	return s, nil
}

func readDev(l netlink.Link) *Dev {
	a := l.Attrs()
	v := &Dev{
		Name: a.Name, Index: a.Index, Master: a.MasterIndex, Parent: a.ParentIndex, Kind: l.Type(), Alias: a.Alias, Group: a.Group,
		Up: a.Flags&net.FlagUp != 0, Carrier: a.RawFlags&unix.IFF_LOWER_UP != 0, MAC: a.HardwareAddr.String(), PermMAC: a.PermHWAddr.String(),
		MTU: a.MTU, Addresses: map[netip.Prefix]time.Time{}, Preferred: map[netip.Prefix]time.Time{},
		Tentative: map[netip.Prefix]bool{}, Failed: map[netip.Prefix]bool{}, Loopback: a.Flags&net.FlagLoopback != 0,
	}
	switch l := l.(type) {
	case *netlink.Vlan:
		v.ID = l.VlanId
	case *netlink.Bond:
		v.Mode, v.MIIMon = l.Mode.String(), time.Duration(l.Miimon)*time.Millisecond
	}
	return v
}

func sysctl(link, key string) string { return "/proc/sys/net/ipv6/conf/" + link + "/" + key }
func stpFile(link string) string     { return "/sys/class/net/" + link + "/bridge/stp_state" }

func linkdownFile(family, link string) string {
	return "/proc/sys/net/" + family + "/conf/" + link + "/ignore_routes_with_linkdown"
}

func readText(path string) string {
	b, _ := os.ReadFile(path)
	return strings.TrimSpace(string(b))
}

// until turns a lifetime in seconds into a time; zero is for ever.
func until(now time.Time, seconds int) time.Time {
	if seconds <= 0 || int64(seconds) >= 1<<32-1 {
		return time.Time{}
	}
	return now.Add(time.Duration(seconds) * time.Second)
}

func prefix(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.Prefix{}
	}
	a, _ := netip.AddrFromSlice(n.IP)
	bits, total := n.Mask.Size()
	if total == 32 {
		a = a.Unmap()
	}
	return netip.PrefixFrom(a, bits)
}

func ipNet(p netip.Prefix) *net.IPNet {
	if !p.IsValid() {
		return nil
	}
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// readRoute gives one for each of its ways.
func readRoute(r netlink.Route, names map[int]string) (all []Route) {
	to := prefix(r.Dst)
	if !to.IsValid() {
		to = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if r.Family == netlink.FAMILY_V6 {
			to = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
	}
	way := func(index int, gw net.IP, flags int) {
		via, _ := netip.AddrFromSlice(gw)
		if to.Addr().Is4() {
			via = via.Unmap()
		}
		all = append(all, Route{Dev: names[index], To: to, Via: via, Metric: r.Priority, Table: r.Table, OnLink: flags&int(netlink.FLAG_ONLINK) != 0, Unreachable: r.Type == unix.RTN_UNREACHABLE})
	}
	if len(r.MultiPath) == 0 {
		way(r.LinkIndex, r.Gw, r.Flags)
	}
	for _, n := range r.MultiPath {
		way(n.LinkIndex, n.Gw, n.Flags)
	}
	return all
}

// apply makes one change.
func apply(c Change, now time.Time) error {
	if err := do(c, now); err != nil {
		return fmt.Errorf("%s: %w", c, err)
	}
	return nil
}

func do(c Change, now time.Time) error {
	switch c.Op {
	case Create:
		return create(c.Make)
	case AddRule:
		return netlink.RuleAdd(netlinkRule(c.Rule))
	case DelRule:
		return netlink.RuleDel(netlinkRule(c.Rule))
	}
	l, err := netlink.LinkByName(c.Link)
	if _, none := err.(netlink.LinkNotFoundError); none && c.Op == Delete {
		return nil // it went with the one that it stood on
	}
	if err != nil {
		return err
	}
	switch c.Op {
	case Rename:
		return whileDown(l, func() error { return netlink.LinkSetName(l, c.Value) })
	case Delete:
		return netlink.LinkDel(l)
	case Adopt:
		return netlink.LinkSetAlias(l, mark)
	case Refuse:
		return errors.New("there is a link of that name already, which coble did not make: rename or remove one of them")
	case Free:
		return netlink.LinkSetNoMaster(l)
	case Enslave:
		m, err := netlink.LinkByName(c.Value)
		if err != nil {
			return err
		}
		return netlink.LinkSetMaster(l, m)
	case SetDown:
		return netlink.LinkSetDown(l)
	case SetUp:
		return netlink.LinkSetUp(l)
	case SetMAC:
		mac, err := net.ParseMAC(c.Value)
		if err != nil {
			return err
		}
		err = netlink.LinkSetHardwareAddr(l, mac)
		if errors.Is(err, unix.EBUSY) {
			err = whileDown(l, func() error { return netlink.LinkSetHardwareAddr(l, mac) })
		}
		return err
	case SetMTU:
		mtu, err := strconv.Atoi(c.Value)
		if err != nil {
			return err
		}
		return netlink.LinkSetMTU(l, mtu)
	case SetSTP:
		return os.WriteFile(stpFile(c.Link), []byte(c.Value), 0)
	case SetRA:
		return os.WriteFile(sysctl(c.Link, "accept_ra"), []byte(c.Value), 0)
	case SetGen:
		return os.WriteFile(sysctl(c.Link, "addr_gen_mode"), []byte(c.Value), 0)
	case SetOver:
		err := os.WriteFile(linkdownFile("ipv6", c.Link), []byte(c.Value), 0)
		if errors.Is(err, os.ErrNotExist) { // no IPv6, or not on this link
			err = nil
		}
		return errors.Join(err, os.WriteFile(linkdownFile("ipv4", c.Link), []byte(c.Value), 0))
	case SetPeers, SetEndpoint:
		return c.tunnel.set(l, c.Op == SetEndpoint)
	case AddAddr:
		return addAddress(l, c, now)
	case DelAddr:
		return netlink.AddrDel(l, &netlink.Addr{IPNet: ipNet(c.Address)})
	case AddRoute:
		return netlink.RouteAppend(netlinkRoute(l, c.Route))
	case DelRoute:
		return netlink.RouteDel(netlinkRoute(l, c.Route))
	}
	return fmt.Errorf("unknown change %q", c.Op)
}

// whileDown does what the kernel refuses for links that are up.
func whileDown(l netlink.Link, f func() error) error {
	if l.Attrs().Flags&net.FlagUp == 0 {
		return f()
	}
	if err := netlink.LinkSetDown(l); err != nil {
		return err
	}
	return errors.Join(f(), netlink.LinkSetUp(l))
}

func addAddress(l netlink.Link, c Change, now time.Time) error {
	a := &netlink.Addr{IPNet: ipNet(c.Address)}
	if c.Address.Addr().Is4() {
		// Without this the end of one address takes others of its subnet along (kernel documentation, networking/ip-sysctl).
		if err := os.WriteFile("/proc/sys/net/ipv4/conf/"+c.Link+"/promote_secondaries", []byte("1"), 0); err != nil {
			return err
		}
	}
	if !c.Until.IsZero() {
		// The kernel takes it away at its end, whoever is alive then.
		a.ValidLft = max(1, lifetime(now, c.Until))
		a.PreferedLft = min(a.ValidLft, max(0, lifetime(now, c.Preferred)))
	}
	return netlink.AddrReplace(l, a)
}

// lifetime is whole seconds until then, more rather than less; for ever: 68 years.
func lifetime(now, end time.Time) int {
	if end.IsZero() {
		return 1<<31 - 1
	}
	return int((end.Sub(now) + time.Second - 1) / time.Second)
}

func netlinkRoute(l netlink.Link, r Route) *netlink.Route {
	n := &netlink.Route{LinkIndex: l.Attrs().Index, Dst: ipNet(r.To), Priority: r.Metric, Table: r.Table, Protocol: protocol}
	if r.Via.IsValid() {
		n.Gw = r.Via.AsSlice()
	} else if r.To.Addr().Is4() {
		n.Scope = netlink.SCOPE_LINK
	}
	if r.Unreachable {
		n.Type = unix.RTN_UNREACHABLE
	}
	if r.OnLink {
		n.Flags = int(netlink.FLAG_ONLINK)
	}
	return n
}

func netlinkRule(r Rule) *netlink.Rule {
	n := netlink.NewRule()
	n.Src, n.Dst, n.Table, n.Priority, n.Protocol = ipNet(r.From), ipNet(r.To), r.Table, r.Priority, protocol
	return n
}

// create makes a link, marked as coble's and still down.
func create(l *Link) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.Group = l.Name, l.MTU, group
	var n netlink.Link
	switch l.Kind {
	case Bridge:
		n = &netlink.Bridge{LinkAttrs: attrs}
	case Bond:
		b := netlink.NewLinkBond(attrs)
		b.Mode, b.Miimon = netlink.StringToBondMode(l.Mode), int(l.MIIMon/time.Millisecond)
		n = b
	case VLAN:
		parent, err := netlink.LinkByName(l.Parent)
		if err != nil {
			return fmt.Errorf("find %s: %w", l.Parent, err)
		}
		attrs.ParentIndex = parent.Attrs().Index
		n = &netlink.Vlan{LinkAttrs: attrs, VlanId: l.ID, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q}
	case WireGuard:
		n = &netlink.Wireguard{LinkAttrs: attrs}
	}
	err := netlink.LinkAdd(n)
	if errors.Is(err, unix.EOPNOTSUPP) {
		module, _, _ := strings.Cut(l.Kind.module(), " ")
		return fmt.Errorf("this kernel makes none: it lacks %s: %w", module, err)
	}
	if err != nil {
		return err
	}
	return netlink.LinkSetAlias(n, mark)
}

// Modules are the kernel modules that a configuration needs, with parameters.
func Modules(c Config) (names []string) {
	for _, l := range c.Links {
		if m := l.Kind.module(); m != "" {
			names = append(names, m)
		}
	}
	return names
}

// module is the one that makes links of a kind. The bonding driver makes a bond0 of its own unless told not to.
func (k Kind) module() string {
	switch k {
	case Bridge:
		return "bridge"
	case Bond:
		return "bonding max_bonds=0"
	case VLAN:
		return "8021q"
	case WireGuard:
		return "wireguard"
	}
	return ""
}
