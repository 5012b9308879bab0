// Package graph is a small graph database over bbolt: named nodes that carry
// a value, and edges with a kind between them. It answers "what does this
// lead to?" and "what uses this?" with one range scan each.
//
// It holds two promises for its callers: there is no dangling edge (an edge
// needs both its nodes, and a node that something points at can't be
// deleted), and edges of an acyclic kind never close a circle.
//
// All functions work inside the caller's transaction, so that one operation
// of the caller, however many nodes it touches, is one transaction. Names
// and kinds are any strings without a zero byte, values any bytes.
package graph

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"go.etcd.io/bbolt"
)

// Errors.
var (
	ErrNotFound   = errors.New("no such node")
	ErrReferenced = errors.New("node is in use")
	ErrCycle      = errors.New("edge would close a circle")
	ErrName       = errors.New("bad name")
)

// Edge leads from one node to another.
type Edge struct{ From, Kind, To string }

// Graph is one graph in a transaction; it is valid as long as that is.
type Graph struct {
	nodes, out, in *bbolt.Bucket
}

// Open finds the graph of that name, whose buckets are name/nodes, name/out
// and name/in. In a writable transaction they are made if missing; in
// another, a graph that was never written to is empty.
func Open(tx *bbolt.Tx, name string) (Graph, error) {
	var g Graph
	for suffix, b := range map[string]**bbolt.Bucket{"/nodes": &g.nodes, "/out": &g.out, "/in": &g.in} {
		*b = tx.Bucket([]byte(name + suffix))
		if *b != nil || !tx.Writable() {
			continue
		}
		made, err := tx.CreateBucket([]byte(name + suffix))
		if err != nil {
			return Graph{}, fmt.Errorf("make bucket %s%s: %w", name, suffix, err)
		}
		*b = made
	}
	return g, nil
}

// Put makes a node, or gives it another value.
func (g Graph) Put(name string, value []byte) error {
	if name == "" || strings.IndexByte(name, 0) >= 0 {
		return fmt.Errorf("%w: node %q", ErrName, name)
	}
	if value == nil {
		value = []byte{} // bbolt takes nil for no key at all
	}
	if err := g.nodes.Put([]byte(name), value); err != nil {
		return fmt.Errorf("store node %s: %w", name, err)
	}
	return nil
}

// Get gives a copy of a node's value.
func (g Graph) Get(name string) ([]byte, error) {
	if g.nodes == nil {
		return nil, fmt.Errorf("%w: %s", ErrNotFound, name)
	}
	v := g.nodes.Get([]byte(name))
	if v == nil {
		return nil, fmt.Errorf("%w: %s", ErrNotFound, name)
	}
	return bytes.Clone(v), nil
}

// Has tells whether a node exists.
func (g Graph) Has(name string) bool {
	return g.nodes != nil && g.nodes.Get([]byte(name)) != nil
}

// Names lists the nodes whose names begin with prefix, sorted.
func (g Graph) Names(prefix string) []string {
	if g.nodes == nil {
		return nil
	}
	var out []string
	c := g.nodes.Cursor()
	for k, _ := c.Seek([]byte(prefix)); k != nil && bytes.HasPrefix(k, []byte(prefix)); k, _ = c.Next() {
		out = append(out, string(k))
	}
	return out
}

// Link makes an edge; one that is there already stays.
func (g Graph) Link(e Edge) error {
	if e.Kind == "" || strings.IndexByte(e.Kind, 0) >= 0 {
		return fmt.Errorf("%w: kind %q", ErrName, e.Kind)
	}
	for _, n := range []string{e.From, e.To} {
		if !g.Has(n) {
			return fmt.Errorf("link %s to %s: %w: %s", e.From, e.To, ErrNotFound, n)
		}
	}
	if err := g.out.Put(key(e.From, e.Kind, e.To), []byte{}); err != nil {
		return fmt.Errorf("store edge: %w", err)
	}
	if err := g.in.Put(key(e.To, e.Kind, e.From), []byte{}); err != nil {
		return fmt.Errorf("store edge: %w", err)
	}
	return nil
}

// LinkAcyclic is Link for kinds that must not go in circles.
func (g Graph) LinkAcyclic(e Edge) error {
	back := false
	err := g.Walk(e.To, e.Kind, func(n string) error {
		back = back || n == e.From
		return nil
	})
	if err != nil {
		return err
	}
	if back {
		return fmt.Errorf("link %s to %s: %w", e.From, e.To, ErrCycle)
	}
	return g.Link(e)
}

// Unlink removes an edge; one that is not there is no error.
func (g Graph) Unlink(e Edge) error {
	if err := g.out.Delete(key(e.From, e.Kind, e.To)); err != nil {
		return fmt.Errorf("remove edge: %w", err)
	}
	if err := g.in.Delete(key(e.To, e.Kind, e.From)); err != nil {
		return fmt.Errorf("remove edge: %w", err)
	}
	return nil
}

// Delete removes a node and the edges that leave it. ErrReferenced if any
// lead to it.
func (g Graph) Delete(name string) error {
	if !g.Has(name) {
		return fmt.Errorf("%w: %s", ErrNotFound, name)
	}
	if r := g.Referrers(name, ""); len(r) > 0 {
		return fmt.Errorf("delete %s: %w by %s", name, ErrReferenced, r[0].From)
	}
	for _, e := range g.Edges(name, "") {
		if err := g.Unlink(e); err != nil {
			return err
		}
	}
	if err := g.nodes.Delete([]byte(name)); err != nil {
		return fmt.Errorf("delete node %s: %w", name, err)
	}
	return nil
}

// Edges lists the edges that leave a node, of one kind or, if kind is
// empty, of all.
func (g Graph) Edges(from, kind string) []Edge {
	return scan(g.out, from, kind, func(a, k, b string) Edge { return Edge{a, k, b} })
}

// Referrers lists the edges that lead to a node.
func (g Graph) Referrers(to, kind string) []Edge {
	return scan(g.in, to, kind, func(a, k, b string) Edge { return Edge{b, k, a} })
}

// Walk calls fn for the node and everything that edges of the kind lead to,
// each once.
func (g Graph) Walk(from, kind string, fn func(name string) error) error {
	seen := map[string]bool{from: true}
	for todo := []string{from}; len(todo) > 0; {
		n := todo[0]
		todo = todo[1:]
		if err := fn(n); err != nil {
			return err
		}
		for _, e := range g.Edges(n, kind) {
			if !seen[e.To] {
				seen[e.To] = true
				todo = append(todo, e.To)
			}
		}
	}
	return nil
}

func key(a, kind, b string) []byte { return []byte(a + "\x00" + kind + "\x00" + b) }

func scan(b *bbolt.Bucket, name, kind string, edge func(a, k, b string) Edge) []Edge {
	if b == nil {
		return nil
	}
	prefix := name + "\x00"
	if kind != "" {
		prefix += kind + "\x00"
	}
	var out []Edge
	c := b.Cursor()
	for k, _ := c.Seek([]byte(prefix)); k != nil && bytes.HasPrefix(k, []byte(prefix)); k, _ = c.Next() {
		f := strings.SplitN(string(k), "\x00", 3)
		if len(f) == 3 {
			out = append(out, edge(f[0], f[1], f[2]))
		}
	}
	return out
}
