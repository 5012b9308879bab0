package client

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/docker/go-units"
	"github.com/spf13/pflag"
)

// netView is who is connected to what, as the engine tells it.
type netView struct {
	Firewall, Proxy, Counts string
	Advice                  []string
	Networks                []netPart
}

type netPart struct {
	Name, Driver, Link string
	Internal           bool
	Subnets, Gateways  []string
	Members            []netMember
}

type netMember struct {
	ID, Name, Link string
	Addresses      []string
	Ports          []netPort
}

type netPort struct {
	At, Proto                   string
	From                        []string
	Except                      bool
	To                          uint16
	Packets, Bytes, Connections uint64
}

func netVerb(f *pflag.FlagSet) runner {
	draw := addPictureFlags(f)
	format := f.String("format", "table", "table or json")
	return func(ctx context.Context, a *app, args []string) error {
		if err := need(args, 0, 0, "nothing"); err != nil {
			return err
		}
		var raw json.RawMessage
		if err := a.call(ctx, "GET", "/coble/net", nil, nil, &raw); err != nil {
			return err
		}
		v := &netView{}
		if err := json.Unmarshal(raw, v); err != nil {
			return fmt.Errorf("read the engine's answer: %w", err)
		}
		if drawn, err := draw(a.out, v.graph()); drawn {
			return err
		}
		switch *format {
		case "json":
			e := json.NewEncoder(a.out)
			e.SetIndent("", "    ")
			return e.Encode(raw)
		case "table":
			a.table(v.rows())
			for _, note := range v.notes() {
				fmt.Fprintln(a.out, note)
			}
			return nil
		}
		return fmt.Errorf("format %q: use table or json", *format)
	}
}

// shown tells whether there is anything to say of a network: the two that are always there and lead nowhere seldom have members.
func (n netPart) shown() bool { return len(n.Members) > 0 || n.Driver != "host" && n.Driver != "null" }

// rows is pure: each network's line, then those of its members.
func (v *netView) rows() [][]string {
	rows := [][]string{{"NETWORK", "CONTAINER", "ADDRESS", "PUBLISHED", "PACKETS", "BYTES"}}
	for _, n := range v.Networks {
		if !n.shown() {
			continue
		}
		rows = append(rows, []string{n.Name, n.about(), strings.Join(n.Subnets, " "), "", "", ""})
		for i, m := range n.Members {
			branch, below := "├─", "│"
			if i == len(n.Members)-1 {
				branch, below = "└─", ""
			}
			row := []string{branch, m.Name, strings.Join(m.Addresses, " "), "", "", ""}
			for _, p := range m.Ports {
				published := p.text()
				if from := p.from(); from != "" {
					published += " (" + from + ")"
				}
				packets, bytes := v.count(p)
				rows = append(rows, append(row[:3:3], published, packets, bytes))
				row = []string{below, "", "", "", "", ""}
			}
			if len(m.Ports) == 0 {
				rows = append(rows, row)
			}
		}
	}
	return rows
}

// about is what a network is: that of the usual driver, which leads everywhere, needs no word.
func (n netPart) about() string {
	var words []string
	if n.Driver != "bridge" && n.Driver != n.Name {
		words = append(words, n.Driver)
		if n.Link != "" {
			words = append(words, "on", n.Link)
		}
	}
	if n.Internal {
		words = append(words, "internal")
	}
	if len(words) == 0 {
		return ""
	}
	return "(" + strings.Join(words, " ") + ")"
}

func (p netPort) text() string { return fmt.Sprintf("%s->%d/%s", p.At, p.To, p.Proto) }

func (p netPort) from() string {
	switch {
	case len(p.From) == 0 && p.Except:
		return ""
	case p.Except:
		return "not from " + strings.Join(p.From, ", ")
	case len(p.From) > 0:
		return "from " + strings.Join(p.From, ", ")
	}
	return ""
}

// count is what went through a port; "-" is not known.
func (v *netView) count(p netPort) (packets, bytes string) {
	if v.Counts != "" {
		return "-", "-"
	}
	packets, bytes = strconv.FormatUint(p.Packets, 10), units.HumanSize(float64(p.Bytes))
	if v.Proxy != "" {
		packets = "-"
	}
	return packets, bytes
}

// traffic is count in words.
func (v *netView) traffic(p netPort) string {
	packets, bytes := v.count(p)
	switch {
	case v.Counts != "":
		return "not counted"
	case v.Proxy != "":
		return strconv.FormatUint(p.Connections, 10) + " connections, " + bytes
	}
	return packets + " packets, " + bytes
}

func (v *netView) notes() (out []string) {
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

// graph is pure: from published ports to containers, networks, links of the host's and the firewall.
func (v *netView) graph() *usage {
	g := &usage{}
	known := map[string]int{} // index of a container's box and of a link's
	box := func(n graphNode) (i int) {
		i, has := known[n.Name]
		if !has {
			i = len(g.Nodes)
			known[n.Name] = i
			g.Nodes = append(g.Nodes, n)
		}
		return i
	}
	for _, n := range v.Networks {
		if !n.shown() {
			continue
		}
		net := graphNode{Name: "network:" + n.Name, Kind: n.Driver + " network", Label: n.Name, Rank: 2, Lines: n.Subnets[:len(n.Subnets):len(n.Subnets)]}
		for _, gw := range n.Gateways {
			net.Lines = append(net.Lines, "gateway "+gw)
		}
		if n.Internal {
			net.Lines = append(net.Lines, "internal: leads nowhere else")
		}
		box(net)
		if n.Link != "" {
			box(graphNode{Name: "link:" + n.Link, Kind: "link", Label: n.Link, Rank: 3})
			g.Edges = append(g.Edges, use{net.Name, "on", "link:" + n.Link})
		}
		if v.Firewall != "" && n.Driver == "bridge" && !n.Internal {
			box(graphNode{Name: "firewall", Kind: "firewall", Label: strings.TrimPrefix(v.Firewall, "guest of "), Rank: 4, Lines: []string{"coble is its guest"}})
			g.Edges = append(g.Edges, use{"link:" + n.Link, "filtered", "firewall"})
		}
		for _, m := range n.Members {
			for _, p := range m.Ports {
				port := graphNode{Name: "port:" + p.At + "/" + p.Proto, Kind: "port", Label: p.At + "/" + p.Proto, Lines: []string{p.from(), v.traffic(p)}}
				switch {
				case port.Lines[0] != "":
				case strings.HasPrefix(p.At, "127.") || strings.HasPrefix(p.At, "[::1]"):
					port.Lines[0] = "from this host"
				default:
					port.Lines[0] = "from everywhere"
				}
				box(port)
				g.Edges = append(g.Edges, use{port.Name, ":" + strconv.Itoa(int(p.To)), "container:" + m.ID})
			}
			i := box(graphNode{Name: "container:" + m.ID, Kind: "container", Label: m.Name, Rank: 1})
			for _, a := range m.Addresses {
				g.Nodes[i].Lines = append(g.Nodes[i].Lines, m.Link+" "+a)
			}
			g.Edges = append(g.Edges, use{"container:" + m.ID, "", net.Name})
		}
	}
	g.index()
	return g
}
