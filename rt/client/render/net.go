package render

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/docker/go-units"

	"github.com/coble-os/coble/rt/netview"
)

// shown tells whether there is anything to say of a network: the two that are always there and lead nowhere seldom have members.
func shown(n *netview.Network) bool {
	return len(n.Members) > 0 || n.Driver != "host" && n.Driver != "null"
}

// NetRows is pure: each network's line, then those of its members.
func NetRows(v *netview.View) [][]string {
	rows := [][]string{{"NETWORK", "CONTAINER", "ADDRESS", "PUBLISHED", "PACKETS", "BYTES"}}
	add := func(cells ...string) { rows = append(rows, append(cells, "", "", "")[:6]) }
	for _, n := range v.Networks {
		if !shown(n) {
			continue
		}
		add(n.Name, netAbout(n), strings.Join(n.Subnets, " "))
		for i, m := range n.Members {
			branch, below := "├─", "│"
			if i == len(n.Members)-1 {
				branch, below = "└─", ""
			}
			name, addresses := m.Name, strings.Join(m.Addresses, " ")
			if len(m.Ports) == 0 {
				add(branch, name, addresses)
			}
			for _, p := range m.Ports {
				published := fmt.Sprintf("%s->%d/%s", p.At, p.To, p.Proto)
				if from := portFrom(p); from != "" {
					published += " (" + from + ")"
				}
				packets, bytes := portCount(v, p)
				add(branch, name, addresses, published, packets, bytes)
				branch, name, addresses = below, "", ""
			}
		}
	}
	return rows
}

// netAbout is what a network is: that of the usual driver, which leads everywhere, needs no word.
func netAbout(n *netview.Network) string {
	about := ""
	if n.Driver != "bridge" && n.Driver != n.Name {
		about = n.Driver + " on " + n.Link
	}
	if n.Internal {
		about = strings.TrimPrefix(about+", internal", ", ")
	}
	if about == "" {
		return ""
	}
	return "(" + about + ")"
}

// portFrom is empty for everywhere.
func portFrom(p *netview.Port) string {
	switch {
	case len(p.From) == 0:
		return ""
	case p.Except:
		return "not from " + strings.Join(p.From, ", ")
	}
	return "from " + strings.Join(p.From, ", ")
}

// portCount is what went through a port; "-" is not known.
func portCount(v *netview.View, p *netview.Port) (packets, bytes string) {
	if v.Counts != "" {
		return "-", "-"
	}
	packets, bytes = strconv.FormatUint(p.Packets, 10), units.HumanSize(float64(p.Bytes))
	if v.Proxy != "" {
		packets = "-"
	}
	return packets, bytes
}

// traffic is portCount in words.
func traffic(v *netview.View, p *netview.Port) string {
	packets, bytes := portCount(v, p)
	switch {
	case v.Counts != "":
		return "not counted"
	case v.Proxy != "":
		return fmt.Sprintf("%d connections, %s", p.Connections, bytes)
	}
	return packets + " packets, " + bytes
}

// NetNotes is what there is to say beside the table.
func NetNotes(v *netview.View) (out []string) {
	if v.Firewall != "" {
		out = append(out, "firewall: "+v.Firewall)
	}
	out = append(out, v.Advice...)
	if v.Proxy != "" {
		out = append(out, "ports are published by the engine: "+v.Proxy)
	}
	if v.Counts != "" {
		out = append(out, v.Counts)
	}
	return out
}

// NetGraph is pure: from published ports to containers, networks, links of the host's and the firewall.
func NetGraph(v *netview.View) *Graph {
	g := &Graph{}
	known := map[string]int{}
	box := func(rank int, kind, id, label string, lines ...string) (name string) {
		name = kind[strings.LastIndexByte(kind, ' ')+1:] + ":" + id
		i, has := known[name]
		if !has {
			i = len(g.Nodes)
			known[name] = i
			g.Nodes = append(g.Nodes, Node{Name: name, Kind: kind, Label: label, Rank: rank})
		}
		g.Nodes[i].Lines = append(g.Nodes[i].Lines, lines...) // of a container, in each network
		return name
	}
	edge := func(from, kind, to string) { g.Edges = append(g.Edges, Use{from, kind, to}) }
	for _, n := range v.Networks {
		if !shown(n) {
			continue
		}
		net := box(2, n.Driver+" network", n.Name, n.Name, n.Subnets...)
		for _, gateway := range n.Gateways {
			box(2, "network", n.Name, "", "gateway "+gateway)
		}
		if n.Internal {
			box(2, "network", n.Name, "", "internal: leads nowhere else")
		}
		if n.Link != "" {
			edge(net, "on", box(3, "link", n.Link, n.Link))
			if v.Firewall != "" && n.Driver == "bridge" && !n.Internal {
				if _, has := known["firewall:"]; !has {
					box(4, "firewall", "", strings.TrimPrefix(v.Firewall, "guest of "), "coble is its guest")
				}
				edge("link:"+n.Link, "filtered", "firewall:")
			}
		}
		for _, m := range n.Members {
			for _, p := range m.Ports {
				from := portFrom(p)
				switch {
				case from != "":
				case strings.HasPrefix(p.At, "127.") || strings.HasPrefix(p.At, "[::1]"):
					from = "from this host"
				default:
					from = "from everywhere"
				}
				at := p.At + "/" + p.Proto
				edge(box(0, "port", at, at, from, traffic(v, p)), fmt.Sprint(":", p.To), "container:"+m.ID)
			}
			c := box(1, "container", m.ID, m.Name)
			for _, a := range m.Addresses {
				box(1, "container", m.ID, "", m.Link+" "+a)
			}
			edge(c, "", net)
		}
	}
	return g
}
