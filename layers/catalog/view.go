package catalog

import (
	"fmt"
	"slices"
	"strings"

	"github.com/docker/go-units"

	"github.com/coble-os/coble/layers/graph"
	"github.com/coble-os/coble/layers/image"
)

// Node is a node of the graph, for people.
type Node struct {
	Name  string // in the graph: image:sha256:…
	Kind  string // name, image, layer, rw, container, path
	Label string
}

// View is the graph, or the part of it that has to do with one node:
// all that leads to it, and all that it leads to.
type View struct {
	About string // the node that was asked for; empty for all
	Nodes []Node
	Edges []graph.Edge
}

// Look shows the graph around what is named, or all of it if about is
// empty. about is a container's name or path, an image's name, the id of
// either or its beginning, or a node's own name. image.ErrNotFound if it is none.
func Look(g graph.Graph, about string) (v View, err error) {
	names := g.Names("")
	if about != "" {
		node, err := findAny(g, about)
		if err != nil {
			return v, err
		}
		v.About = node
		names = around(g, node)
	}
	for _, n := range names {
		node, err := describeNode(g, n)
		if err != nil {
			return v, err
		}
		v.Nodes = append(v.Nodes, node)
		for _, e := range g.Edges(n, "") {
			if slices.Contains(names, e.To) {
				v.Edges = append(v.Edges, e)
			}
		}
	}
	return v, nil
}

func findAny(g graph.Graph, about string) (string, error) {
	if g.Has(about) {
		return about, nil
	}
	if to, err := g.Resolve("/" + strings.TrimPrefix(about, "/")); err == nil {
		return to, nil
	}
	if node, _, err := Find(g, about); err == nil {
		return node, nil // of a name, its image: that is what is used
	}
	hex, _ := image.IDPrefix(about)
	for _, prefix := range []string{containerPrefix, LayerPrefix + "sha256:", TopPrefix} {
		if found := g.Names(prefix + hex); hex != "" && len(found) == 1 {
			return found[0], nil
		}
	}
	return "", fmt.Errorf("graph: %w, container or layer: %s", image.ErrNotFound, about)
}

// around lists what leads to a node and what it leads to, sorted.
func around(g graph.Graph, node string) []string {
	seen := map[string]bool{node: true}
	walk := func(next func(string) []string) {
		done := map[string]bool{node: true}
		for todo := []string{node}; len(todo) > 0; todo = todo[1:] {
			for _, n := range next(todo[0]) {
				if !done[n] {
					done[n], seen[n] = true, true
					todo = append(todo, n)
				}
			}
		}
	}
	walk(func(n string) (out []string) {
		for _, e := range g.Referrers(n, "") {
			out = append(out, e.From)
		}
		return out
	})
	walk(func(n string) (out []string) {
		for _, e := range g.Edges(n, "") {
			out = append(out, e.To)
		}
		return out
	})
	names := make([]string, 0, len(seen))
	for n := range seen {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

func describeNode(g graph.Graph, name string) (Node, error) {
	kind, rest, _ := strings.Cut(name, ":")
	hex := strings.TrimPrefix(rest, "sha256:")
	n := Node{Name: name, Kind: kind, Label: hex[:min(12, len(hex))]}
	switch kind + ":" {
	case NamePrefix:
		n.Label = Familiar(name)
	case graph.PathPrefix:
		n.Label = rest
	case LayerPrefix:
		var l Layer
		if err := Load(g, name, &l); err != nil {
			return n, err
		}
		n.Label += " " + units.HumanSize(float64(l.Size))
	}
	return n, nil
}
