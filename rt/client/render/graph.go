package render

import (
	"fmt"
	"io"
	"strings"
)

// Use is an edge of the engine's graph: From uses To.
type Use struct{ From, Kind, To string }

// Node is a box of it.
type Node struct {
	Name, Kind, Label string
	Lines             []string // more to say, in pictures
	Rank              int      // column that it is in at least
}

func (n Node) text() string { return n.kind() + " " + n.Label }

func (n Node) kind() string {
	if n.Kind == "rw" {
		return "writable layer"
	}
	return n.Kind
}

// Graph is the engine's graph, or a part of it.
type Graph struct {
	About string // node that was asked for
	Nodes []Node
	Edges []Use

	byName map[string]Node
	out    map[string][]Use
	in     map[string][]Use
}

// index makes the maps of what is there now; who reads them calls it first.
func (g *Graph) index() {
	g.byName, g.out, g.in = map[string]Node{}, map[string][]Use{}, map[string][]Use{}
	for _, n := range g.Nodes {
		g.byName[n.Name] = n
	}
	for _, e := range g.Edges {
		g.out[e.From] = append(g.out[e.From], e)
		g.in[e.To] = append(g.in[e.To], e)
	}
}

// Text writes trees: of one node, what uses it and what it uses; else each node that nothing uses, with what it uses.
func (g *Graph) Text(w io.Writer) {
	g.index()
	if g.About == "" {
		seen := map[string]bool{}
		for _, n := range g.Nodes {
			if len(g.in[n.Name]) == 0 {
				g.tree(w, n.Name, "", "", seen, false)
			}
		}
		return
	}
	about := g.byName[g.About]
	fmt.Fprintf(w, "%s (%s)\n", about.text(), about.Name)
	for _, up := range []bool{true, false} {
		next, title := g.out[g.About], "uses:"
		if up {
			next, title = g.in[g.About], "is used by:"
		}
		if len(next) == 0 {
			title += " nothing"
		}
		fmt.Fprintln(w, title)
		seen := map[string]bool{g.About: true}
		for _, e := range next {
			other := e.To
			if up {
				other = e.From
			}
			g.tree(w, other, "  ", e.Kind+" ", seen, up)
		}
	}
}

// tree prints a node and, below it, what it uses or what uses it. What was printed before is not opened again.
func (g *Graph) tree(w io.Writer, name, indent, kind string, seen map[string]bool, up bool) {
	next := g.out[name]
	if up {
		next = g.in[name]
	}
	again := ""
	if seen[name] && len(next) > 0 {
		again = " (see above)"
	}
	fmt.Fprintf(w, "%s%s%s%s\n", indent, kind, g.byName[name].text(), again)
	if seen[name] {
		return
	}
	seen[name] = true
	for _, e := range next {
		other := e.To
		if up {
			other = e.From
		}
		g.tree(w, other, indent+"  ", e.Kind+" ", seen, up)
	}
}

// DOT writes it in the language of Graphviz.
func (g *Graph) DOT(w io.Writer) {
	g.index()
	fmt.Fprintln(w, "digraph coble {\n  rankdir=LR;\n  node [shape=box, fontname=\"sans-serif\"];")
	for _, n := range g.Nodes {
		style := ""
		if n.Name == g.About {
			style = ", style=bold"
		}
		label := dotText(n.kind()) + `\n` + dotText(n.Label)
		for _, l := range n.Lines {
			label += `\n` + dotText(l)
		}
		fmt.Fprintf(w, "  %q [label=\"%s\"%s];\n", n.Name, label, style)
	}
	for _, e := range g.Edges {
		fmt.Fprintf(w, "  %q -> %q [label=\"%s\"];\n", e.From, e.To, dotText(e.Kind))
	}
	fmt.Fprintln(w, "}")
}

func dotText(s string) string { return strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", " ").Replace(s) }

// ranks gives each node its column: the longest way to it from one that nothing uses.
func (g *Graph) ranks() map[string]int {
	rank := map[string]int{}
	var of func(name string, on map[string]bool) int
	of = func(name string, on map[string]bool) int {
		if r, ok := rank[name]; ok || on[name] {
			return r
		}
		on[name] = true
		r := g.byName[name].Rank
		for _, e := range g.in[name] {
			r = max(r, of(e.From, on)+1)
		}
		delete(on, name)
		rank[name] = r
		return r
	}
	for _, n := range g.Nodes {
		of(n.Name, map[string]bool{})
	}
	return rank
}

// SVG draws columns, left to right, with a line for each use. A box is not above the first that leads to it.
func (g *Graph) SVG(w io.Writer) {
	const boxW, boxH, lineH, stepX, gap, margin = 190, 36, 13, 250, 16, 16
	g.index()
	rank := g.ranks()
	type point struct{ x, y, h int }
	at, free, width, height := map[string]point{}, map[int]int{}, 0, 0
	for r, left := 0, len(g.Nodes); left > 0; r++ { // column by column
		for _, n := range g.Nodes {
			if rank[n.Name] != r {
				continue
			}
			left--
			y := max(free[r], margin)
			if in := g.in[n.Name]; len(in) > 0 {
				y = max(y, at[in[0].From].y)
			}
			p := point{margin + r*stepX, y, boxH + lineH*len(n.Lines)}
			at[n.Name], free[r] = p, p.y+p.h+gap
			width, height = max(width, p.x+boxW+margin), max(height, p.y+p.h+margin)
		}
	}
	fmt.Fprintf(w, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="12">`+"\n", width, height)
	fmt.Fprintln(w, `<rect width="100%" height="100%" fill="white"/>`)
	for _, e := range g.Edges {
		a, b := at[e.From], at[e.To]
		x1, y1, x2, y2 := a.x+boxW, a.y+boxH/2, b.x, b.y+boxH/2
		fmt.Fprintf(w, `<path d="M%d %dC%d %d %d %d %d %d" fill="none" stroke="#888"/><text x="%d" y="%d" fill="#888" font-size="10">%s</text>`+"\n",
			x1, y1, x1+30, y1, x2-30, y2, x2, y2, x1+4, y1-3, escape(e.Kind))
	}
	colour := map[string]string{
		"path": "#fff3d6", "container": "#d9ead3", "rw": "#e2f0d9", "name": "#fff3d6", "image": "#d6e4f7", "layer": "#eeeeee",
		"port": "#fff3d6", "network": "#d6e4f7", "link": "#eeeeee", "firewall": "#f7d6d6",
	}
	for _, n := range g.Nodes {
		p, fill, edge := at[n.Name], colour[n.Kind[strings.LastIndexByte(n.Kind, ' ')+1:]], 1
		if fill == "" {
			fill = "white"
		}
		if n.Name == g.About {
			edge = 3
		}
		fmt.Fprintf(w, `<g><title>%s</title><rect x="%d" y="%d" width="%d" height="%d" rx="4" fill="%s" stroke="#555" stroke-width="%d"/><text x="%d" y="%d" fill="#777" font-size="10">%s</text><text x="%d" y="%d">%s</text>`,
			escape(n.Name), p.x, p.y, boxW, p.h, fill, edge, p.x+6, p.y+13, escape(n.kind()), p.x+6, p.y+28, escape(clip(n.Label, 27)))
		for i, l := range n.Lines {
			fmt.Fprintf(w, `<text x="%d" y="%d" font-size="10">%s</text>`, p.x+6, p.y+boxH+5+i*lineH, escape(clip(l, 34)))
		}
		fmt.Fprintln(w, "</g>")
	}
	fmt.Fprintln(w, "</svg>")
}

// clip is text that fits into a box.
func clip(s string, most int) string {
	if r := []rune(s); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return s
}
