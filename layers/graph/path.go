package graph

import (
	"fmt"
	"path"
	"strings"
)

// Paths are names such as /web/db that mean a node. Each is a node of its
// own, "path:/web/db", with an edge "is" to what it means and, below another
// path, an edge "in" to that. So a path never means what is gone, and one
// that has others below it can't be dropped.
const (
	PathPrefix = "path:"
	kindIs     = "is" // path to what it means: one
	kindIn     = "in" // path to the one above; acyclic
)

// TakenError says that a path means another node already.
type TakenError struct{ Path, Holder string }

func (e *TakenError) Error() string { return fmt.Sprintf("%s is taken by %s", e.Path, e.Holder) }

func cleanPath(p string) (string, error) {
	if p == "" || p[0] != '/' || p == "/" || path.Clean(p) != p || strings.IndexByte(p, 0) >= 0 {
		return "", fmt.Errorf("%w: path %q", ErrName, p)
	}
	return p, nil
}

// SetPath makes a path mean a node. The path above it has to be there.
// *TakenError if it means another node.
func (g Graph) SetPath(p, to string) error {
	p, err := cleanPath(p)
	if err != nil {
		return err
	}
	if old, err := g.Resolve(p); err == nil && old != to {
		return &TakenError{p, old}
	}
	above := path.Dir(p)
	if above != "/" && !g.Has(PathPrefix+above) {
		return fmt.Errorf("set path %s: %w: %s", p, ErrNotFound, above)
	}
	if !g.Has(to) {
		return fmt.Errorf("set path %s: %w: %s", p, ErrNotFound, to)
	}
	if err := g.Put(PathPrefix+p, nil); err != nil {
		return err
	}
	if above != "/" {
		if err := g.LinkAcyclic(Edge{PathPrefix + p, kindIn, PathPrefix + above}); err != nil {
			return err
		}
	}
	return g.Link(Edge{PathPrefix + p, kindIs, to})
}

// Resolve gives the node that a path means. ErrNotFound if it means none.
func (g Graph) Resolve(p string) (string, error) {
	if e := g.Edges(PathPrefix+p, kindIs); len(e) > 0 {
		return e[0].To, nil
	}
	return "", fmt.Errorf("path %s: %w", p, ErrNotFound)
}

// Paths lists the paths that mean a node.
func (g Graph) Paths(to string) []string {
	var out []string
	for _, e := range g.Referrers(to, kindIs) {
		out = append(out, strings.TrimPrefix(e.From, PathPrefix))
	}
	return out
}

// DropPath forgets a path. ErrReferenced while there are others below it.
func (g Graph) DropPath(p string) error { return g.Delete(PathPrefix + p) }

// MovePath gives a path, and all below it, another name.
func (g Graph) MovePath(from, to string) error {
	if _, err := g.Resolve(from); err != nil {
		return err
	}
	if strings.HasPrefix(to, from+"/") {
		return fmt.Errorf("move path %s to %s: %w", from, to, ErrCycle)
	}
	if to == from {
		return nil
	}
	moved := append([]string{PathPrefix + from}, g.Names(PathPrefix+from+"/")...) // sorted: each after the one above
	for _, n := range moved {
		old := strings.TrimPrefix(n, PathPrefix)
		means, err := g.Resolve(old)
		if err != nil {
			return err
		}
		fresh := to + strings.TrimPrefix(old, from)
		if held, err := g.Resolve(fresh); err == nil {
			return &TakenError{fresh, held}
		}
		if err := g.SetPath(fresh, means); err != nil {
			return err
		}
	}
	for i := len(moved) - 1; i >= 0; i-- {
		if err := g.Delete(moved[i]); err != nil {
			return err
		}
	}
	return nil
}
