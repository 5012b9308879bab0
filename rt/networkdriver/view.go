package networkdriver

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/coble-os/coble/netcfg"
	"github.com/coble-os/coble/rt/containers"
	"github.com/coble-os/coble/rt/netview"
	"github.com/coble-os/coble/rt/networks"
	"github.com/coble-os/coble/rt/store"
)

// netting is a running container's part of the networks.
type netting struct {
	view   containers.View
	ends   []store.End
	ports  []netcfg.Port
	counts []netcfg.Count // of ports
}

// View is for `coble net`.
func (d *Driver) View() (netview.View, error) {
	v := netview.View{Proxy: d.net.Proxied(), Networks: []*netview.Network{}}
	v.Firewall, v.Advice = d.Firewall()
	all, err := d.nettings(&v)
	if err != nil {
		return v, err
	}
	for _, n := range d.networks.All() {
		part := &netview.Network{ID: n.ID, Name: n.Name, Driver: n.Driver, Internal: n.Internal, Members: []*netview.Member{}}
		for _, c := range n.IPAM.Config {
			part.Subnets = append(part.Subnets, c.Subnet.String())
		}
		if k, err := d.networks.Kernel(n.ID); err == nil {
			part.Gateways, part.Link = texts(k.Gateway4, k.Gateway6), k.Bridge
		}
		if a, ok := d.networks.Attachment(n.ID); ok {
			part.Link = a.Parent
		}
		for _, c := range all {
			if n.Name == networks.Host && c.view.Host.NetworkMode.IsHost() {
				part.Members = append(part.Members, &netview.Member{ID: c.view.ID, Name: c.view.Name})
			}
			for _, end := range c.ends {
				if end.Network == n.ID {
					part.Members = append(part.Members, c.member(end))
				}
			}
		}
		v.Networks = append(v.Networks, part)
	}
	return v, nil
}

// nettings are those of all containers that run. All counts are read at once.
func (d *Driver) nettings(v *netview.View) (all []*netting, err error) {
	where := d.newPlaces()
	var ports []netcfg.Port
	for _, c := range d.o.Containers.All() {
		n := &netting{view: c.View(), ends: d.ends(c)}
		if !n.view.State.Running() {
			continue
		}
		if n.ports, err = d.portTargets(n.view, n.ends, where); err != nil {
			return nil, err
		}
		ports = append(ports, n.ports...)
		all = append(all, n)
	}
	counts, err := d.net.Counts(ports)
	if err != nil {
		v.Counts = err.Error()
		counts = make([]netcfg.Count, len(ports))
	}
	for _, n := range all {
		n.counts, counts = counts[:len(n.ports)], counts[len(n.ports):]
	}
	slices.SortFunc(all, func(a, b *netting) int { return strings.Compare(a.view.Name, b.view.Name) })
	return all, nil
}

// member is pure: a container's place in one network.
func (n *netting) member(end store.End) *netview.Member {
	m := &netview.Member{ID: n.view.ID, Name: n.view.Name, HostLink: end.HostIf, Link: end.IfName, Addresses: texts(end.V4.Addr(), end.V6.Addr())}
	for i, p := range n.ports {
		if to := p.To.Addr(); to != end.V4.Addr() && to != end.V6.Addr() {
			continue
		}
		at := strconv.Itoa(int(p.HostPort))
		if p.HostIP.IsValid() && !p.HostIP.IsUnspecified() {
			at = netip.AddrPortFrom(p.HostIP, p.HostPort).String()
		}
		var out *netview.Port
		for _, other := range m.Ports { // IPv4 and IPv6 are one port
			if other.At == at && other.Proto == p.Proto {
				out = other
			}
		}
		if out == nil {
			out = &netview.Port{At: at, To: p.To.Port(), Proto: p.Proto, Except: p.Listen.Except, From: slices.Concat(p.Listen.Links, texts(p.Listen.Addrs...))}
			m.Ports = append(m.Ports, out)
		}
		c := n.counts[i]
		out.Packets += c.Packets
		out.Bytes += c.Bytes
		out.Connections += c.Connections
	}
	slices.SortFunc(m.Ports, func(a, b *netview.Port) int { return strings.Compare(a.At, b.At) })
	return m
}

// texts are those of the addresses that are valid.
func texts(addrs ...netip.Addr) (out []string) {
	for _, a := range addrs {
		if a.IsValid() {
			out = append(out, a.String())
		}
	}
	return out
}
