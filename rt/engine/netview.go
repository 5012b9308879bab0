package engine

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/coble-os/coble/netcfg"
	"github.com/coble-os/coble/rt/networks"
	"github.com/coble-os/coble/rt/store"
)

// NetView is who is connected to what.
type NetView struct {
	Firewall string   `json:",omitempty"` // whose guest coble is
	Advice   []string `json:",omitempty"` // what its owner has to do for published ports to be reached
	Proxy    string   `json:",omitempty"` // why ports are published by the engine itself
	Counts   string   `json:",omitempty"` // why nothing is counted
	Networks []NetPart
}

// NetPart is a network and who is in it.
type NetPart struct {
	ID, Name, Driver  string
	Internal          bool     `json:",omitempty"`
	Subnets, Gateways []string `json:",omitempty"`
	Link              string   `json:",omitempty"` // its bridge, or the link of the host's that its containers share
	Members           []NetMember
}

// NetMember is a container that runs in it.
type NetMember struct {
	ID, Name  string
	HostLink  string    `json:",omitempty"` // the host's end of its link
	Link      string    `json:",omitempty"` // its own
	Addresses []string  `json:",omitempty"`
	Ports     []NetPort `json:",omitempty"` // that lead to it through this network
}

// NetPort is a published port, and what went through it both ways since the container's start.
type NetPort struct {
	At          string   // address and port, or the port alone: at every address
	From        []string `json:",omitempty"` // links and addresses that it is reached through; none: all
	Except      bool     `json:",omitempty"` // through all but those
	To          uint16   // the container's port
	Proto       string
	Packets     uint64 // 0 where the engine publishes, which sees none
	Bytes       uint64
	Connections uint64 `json:",omitempty"` // seen where the engine publishes
}

// netting is a running container's part of the networks.
type netting struct {
	View
	ends   []store.End
	ports  []netcfg.Port
	counts []netcfg.Count // of ports
}

// netView is for `coble net`.
func (e *Engine) netView(*Job, struct{}) (NetView, error) {
	v := NetView{Proxy: e.net.Proxied(), Networks: []NetPart{}}
	v.Firewall, v.Advice = e.firewallInfo()
	all, err := e.nettings(&v)
	if err != nil {
		return v, err
	}
	for _, n := range e.networks.All() {
		part := NetPart{ID: n.ID, Name: n.Name, Driver: n.Driver, Internal: n.Internal, Members: []NetMember{}}
		for _, c := range n.IPAM.Config {
			part.Subnets = append(part.Subnets, c.Subnet.String())
		}
		if k, err := e.networks.Kernel(n.ID); err == nil {
			part.Gateways, part.Link = texts(k.Gateway4, k.Gateway6), k.Bridge
		}
		if a, ok := e.networks.Attachment(n.ID); ok {
			part.Link = a.Parent
		}
		for _, c := range all {
			if n.Name == networks.Host && c.Host.NetworkMode.IsHost() {
				part.Members = append(part.Members, NetMember{ID: c.ID, Name: c.Name})
			}
			for _, end := range c.ends {
				if end.Network == n.ID {
					part.Members = append(part.Members, c.member(end))
				}
			}
		}
		slices.SortFunc(part.Members, func(a, b NetMember) int { return strings.Compare(a.Name, b.Name) })
		v.Networks = append(v.Networks, part)
	}
	return v, nil
}

// nettings are those of all containers that run. All counts are read at once.
func (e *Engine) nettings(v *NetView) (all []netting, err error) {
	where := e.newPlaces()
	var ports []netcfg.Port
	for _, c := range e.all() {
		n := netting{View: c.view(), ends: c.ends()}
		if !isRunning(n.State) {
			continue
		}
		if n.ports, err = e.portTargets(n.View, n.ends, where); err != nil {
			return nil, err
		}
		ports = append(ports, n.ports...)
		all = append(all, n)
	}
	counts, err := e.net.Counts(ports)
	if err != nil {
		v.Counts = err.Error()
		counts = make([]netcfg.Count, len(ports))
	}
	for i := range all {
		n := len(all[i].ports)
		all[i].counts, counts = counts[:n], counts[n:]
	}
	return all, nil
}

// member is pure: a container's place in one network.
func (n netting) member(end store.End) NetMember {
	m := NetMember{ID: n.ID, Name: n.Name, HostLink: end.HostIf, Link: end.IfName, Addresses: texts(end.V4.Addr(), end.V6.Addr())}
	at := map[string]int{} // IPv4 and IPv6 are one port
	for i, p := range n.ports {
		if to := p.To.Addr(); to != end.V4.Addr() && to != end.V6.Addr() {
			continue
		}
		out := NetPort{At: strconv.Itoa(int(p.HostPort)), To: p.To.Port(), Proto: p.Proto, From: p.Listen.Links, Except: p.Listen.Except}
		if p.HostIP.IsValid() && !p.HostIP.IsUnspecified() {
			out.At = netip.AddrPortFrom(p.HostIP, p.HostPort).String()
		}
		out.From = append(out.From[:len(out.From):len(out.From)], texts(p.Listen.Addrs...)...)
		key := out.At + "/" + out.Proto
		j, known := at[key]
		if !known {
			j = len(m.Ports)
			at[key] = j
			m.Ports = append(m.Ports, out)
		}
		m.Ports[j].Packets += n.counts[i].Packets
		m.Ports[j].Bytes += n.counts[i].Bytes
		m.Ports[j].Connections += n.counts[i].Connections
	}
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
