// Package fsck looks for damage in a repository of layers, of its store and of
// what is on disk, down to contents, and brings back what is damaged from an
// origin (package origin). What is whole it leaves alone, and nothing of
// a damaged layer changes before the origin's has been read to its end and found
// to be the same layer.
package fsck

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"go.etcd.io/bbolt"

	"github.com/coble-os/coble/layers/archive"
	"github.com/coble-os/coble/layers/blob"
	"github.com/coble-os/coble/layers/catalog"
	"github.com/coble-os/coble/layers/graph"
	"github.com/coble-os/coble/layers/origin"
	"github.com/coble-os/coble/layers/record"
	"github.com/coble-os/coble/layers/source"
	"github.com/coble-os/coble/layers/unpacked"
)

// Finding is damage, named as closely as it is known.
type Finding struct {
	Images   []string      // that the layer is a part of: names, or ids of those without; none: of the store itself
	Layer    digest.Digest // chain id; empty: of the store
	Path     string        // in the layer; empty: the layer as a whole
	What     string
	Repaired bool

	extra     bool // the layer has no such path
	inherited bool // the layer has it from below
}

// Options of Check.
type Options struct {
	Image string // name or id; empty: all layers, also those that only containers stand on
	Quick bool   // whether things are there, not whether they are whole
	// Origin, if not nil, is where damaged files are brought back from.
	Origin origin.Origin
	// Progress, if not nil, hears which layer's turn it is, from 1.
	Progress func(layer digest.Digest, n, of int)

	damaged map[string]bool // layers that were looked at and are not whole
}

// Repository is what the layers belong to. A node is a layer's name in the
// store.
type Repository interface {
	// Hold keeps layers from being removed until do has ended.
	Hold(nodes []string, do func() error) error

	// Missing says why a layer can't be used as it is; empty if nothing is
	// known against it.
	Missing(node string) string

	// MakeAgain unpacks a layer once more, under another folder, and puts it
	// in the place of the one that is there. s gives the layer's plain stream
	// under whatever name it is asked for. On an error what was there stays,
	// and stays in use unless it was missing.
	MakeAgain(ctx context.Context, node string, diffID digest.Digest, s source.Source) error
}

// Checker checks what is in DB, a store with a catalog, and its layers. All of
// it stays the caller's.
type Checker struct {
	DB         *bbolt.DB
	Layers     *unpacked.Layers
	Repository Repository
}

// Check looks for damage: of the store (edges to nothing), of layers that are
// not on disk, and, unless it is to be quick, of every path of every layer,
// down to contents. Layers are kept from being removed meanwhile. With an
// Origin it repairs what it finds, and tells of what remains. Errors are
// those of the check itself; damage is none.
func (c *Checker) Check(ctx context.Context, o Options) ([]Finding, error) {
	found, err := c.checkStore()
	if err != nil {
		return nil, err
	}
	nodes, err := c.layersToCheck(o.Image)
	if err != nil {
		return nil, err
	}
	o.damaged = map[string]bool{}
	err = c.Repository.Hold(nodes, func() error {
		for i, node := range nodes {
			if o.Progress != nil {
				o.Progress(chainOf(node), i+1, len(nodes))
			}
			bad, err := c.checkAndMend(ctx, node, o)
			if err != nil {
				return fmt.Errorf("check layer %.19s: %w", chainOf(node), err)
			}
			o.damaged[node] = slices.ContainsFunc(bad, func(f Finding) bool { return !f.Repaired })
			found = append(found, bad...)
		}
		return nil
	})
	return found, err
}

// view runs fn on the graph in a read transaction.
func (c *Checker) view(fn func(graph.Graph) error) error {
	return c.DB.View(func(tx *bbolt.Tx) error {
		g, err := catalog.Open(tx)
		if err != nil {
			return err
		}
		return fn(g)
	})
}

func chainOf(node string) digest.Digest {
	return digest.Digest(strings.TrimPrefix(node, catalog.LayerPrefix))
}

// checkStore looks for edges that lead to nothing, and at bbolt's own pages.
func (c *Checker) checkStore() (found []Finding, err error) {
	err = c.DB.View(func(tx *bbolt.Tx) error {
		for bad := range tx.Check() {
			found = append(found, Finding{What: "store: " + bad.Error()})
		}
		g, err := catalog.Open(tx)
		if err != nil {
			return err
		}
		for _, what := range g.Check() {
			found = append(found, Finding{What: "graph: " + what})
		}
		return nil
	})
	return found, err
}

// layersToCheck lists layers, the lowest of each image first: an upper one is
// mended over a whole one.
func (c *Checker) layersToCheck(img string) (nodes []string, err error) {
	err = c.view(func(g graph.Graph) error {
		tops := g.Names(catalog.LayerPrefix)
		if img != "" {
			node, _, err := catalog.Find(g, img)
			if err != nil {
				return err
			}
			tops = nil
			if top := catalog.Target(g, node, catalog.KindTop); top != "" {
				tops = []string{top}
			}
		}
		seen := map[string]bool{}
		for _, top := range tops {
			layers, err := catalog.Stack(g, top)
			if err != nil {
				return err
			}
			for _, l := range slices.Backward(layers) {
				if !seen[l] {
					seen[l] = true
					nodes = append(nodes, l)
				}
			}
		}
		return nil
	})
	return nodes, err
}

func (c *Checker) checkAndMend(ctx context.Context, node string, o Options) ([]Finding, error) {
	found, err := c.checkLayer(ctx, node, o)
	if err != nil || len(found) == 0 {
		return nil, err
	}
	if o.Origin != nil {
		if found, err = c.mendAndCheck(ctx, node, found, o); err != nil {
			return nil, err
		}
	}
	names, err := c.imagesOf(node)
	for i := range found {
		found[i].Layer, found[i].Images = chainOf(node), names
	}
	return found, err
}

// mendAndCheck repairs, and tells what remains. A path that can't be brought
// back by itself takes the whole layer with it.
func (c *Checker) mendAndCheck(ctx context.Context, node string, found []Finding, o Options) ([]Finding, error) {
	left := found
	for _, whole := range []bool{false, true} {
		if err := c.mend(ctx, node, left, o.Origin, whole); err != nil {
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			return append(found, Finding{What: "it can't be repaired: " + err.Error()}), nil
		}
		var err error
		if left, err = c.checkLayer(ctx, node, o); err != nil {
			return nil, err
		}
		if len(left) == 0 {
			break
		}
	}
	at := func(list []Finding, p string) bool {
		return slices.ContainsFunc(list, func(f Finding) bool { return f.Path == p })
	}
	for i := range found {
		found[i].Repaired = !at(left, found[i].Path)
	}
	for _, f := range left {
		if !at(found, f.Path) {
			found = append(found, f)
		}
	}
	return found, nil
}

// imagesOf names the images that a layer is a part of.
func (c *Checker) imagesOf(node string) (names []string, err error) {
	err = c.view(func(g graph.Graph) error {
		todo := []string{node}
		for len(todo) > 0 {
			n := todo[0]
			todo = todo[1:]
			for _, e := range g.Referrers(n, catalog.KindParent) {
				todo = append(todo, e.From)
			}
			for _, e := range g.Referrers(n, catalog.KindTop) {
				names = append(names, callNames(g, e.From)...)
			}
		}
		return nil
	})
	slices.Sort(names)
	return names, err
}

// callNames are an image's tags, else its digests in registries, else its id.
func callNames(g graph.Graph, img string) (names []string) {
	var digests []string
	for _, e := range g.Referrers(img, catalog.KindNames) {
		if n := catalog.Familiar(e.From); strings.Contains(n, "@") {
			digests = append(digests, n)
		} else {
			names = append(names, n)
		}
	}
	switch {
	case len(names) > 0:
		return names
	case len(digests) > 0:
		return digests
	}
	return []string{strings.TrimPrefix(img, catalog.ImagePrefix)}
}

// checkLayer finds what is wrong with one layer, one finding a path.
func (c *Checker) checkLayer(ctx context.Context, node string, o Options) ([]Finding, error) {
	whole := func(format string, args ...any) []Finding { return []Finding{{What: fmt.Sprintf(format, args...)}} }
	var l catalog.Layer
	if err := c.view(func(g graph.Graph) error { return catalog.Load(g, node, &l) }); err != nil {
		return nil, err
	}
	if why := c.Repository.Missing(node); why != "" {
		return whole("%s", why), nil
	}
	if l.Place != "" {
		why, err := c.checkPlace(ctx, l, o.Quick)
		if why != "" {
			return whole("%s", why), err
		}
		return nil, err
	}
	root, err := c.Layers.Driver.OpenLayer(l.Folder)
	if err != nil {
		return whole("%v", err), nil
	}
	defer root.Close()
	f, err := os.Open(c.Layers.RecordPath(l.Folder))
	if err != nil {
		return whole("there is no record of what it holds: %v", err), nil
	}
	defer f.Close()
	rec, err := record.NewReader(f)
	if err != nil {
		return whole("%v", err), nil
	}
	if rec.Info().DiffID != l.DiffID {
		return whole("its record is that of another layer"), nil
	}
	if o.Quick {
		return nil, nil
	}
	compare, done, err := c.comparison(node, o.damaged)
	if err != nil {
		return nil, err
	}
	defer done()
	found, err := c.comparePaths(ctx, root, rec, compare)
	if errors.Is(err, record.ErrBroken) {
		return whole("%v", err), nil
	}
	return found, err
}

// checkPlace says what is wrong with a packed layer's file, "" if nothing is.
func (c *Checker) checkPlace(ctx context.Context, l catalog.Layer, quick bool) (string, error) {
	if !c.Layers.Driver.Has(l.Folder) {
		return fmt.Sprintf("its file %s is gone or has changed: put it back", l.Place), nil
	}
	if quick {
		return "", nil
	}
	f, err := os.Open(l.Place)
	if err != nil {
		return fmt.Sprintf("its file: %v", err), nil
	}
	defer f.Close()
	_, err = io.Copy(io.Discard, blob.Verify(blob.WithContext(ctx, f), l.DiffID, -1))
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	if err != nil {
		return fmt.Sprintf("its file %s: %v", l.Place, err), nil
	}
	return "", nil
}

// comparison is archive.Compare or CompareWhole with what else they want.
type comparison func(ctx context.Context, root *os.File, entries func(func(*tar.Header) error) error, fn func(archive.Difference) error) error

// comparison says how a layer's folder is compared: with its record alone, or
// with the layer below too, if the folder holds that as well and it is whole.
func (c *Checker) comparison(node string, damaged map[string]bool) (compare comparison, done func(), err error) {
	marks := c.Layers.Driver.Marks()
	alone := func(ctx context.Context, root *os.File, entries func(func(*tar.Header) error) error, fn func(archive.Difference) error) error {
		return archive.Compare(ctx, root, marks, entries, fn)
	}
	var below catalog.Layer
	parent := ""
	err = c.view(func(g graph.Graph) error {
		if parent = catalog.Target(g, node, catalog.KindParent); parent == "" {
			return nil
		}
		return catalog.Load(g, parent, &below)
	})
	if marks == archive.OverlayMarks || damaged[parent] || err != nil {
		return alone, func() {}, err
	}
	var tree *os.File
	if parent != "" {
		if tree, err = c.Layers.Driver.OpenLayer(below.Folder); err != nil {
			return nil, nil, err
		}
	}
	whole := func(ctx context.Context, root *os.File, entries func(func(*tar.Header) error) error, fn func(archive.Difference) error) error {
		return archive.CompareWhole(ctx, root, tree, entries, fn)
	}
	return whole, func() { tree.Close() }, nil
}

// comparePaths compares the folder with the record, and contents with their
// digests.
func (c *Checker) comparePaths(ctx context.Context, root *os.File, rec *record.Reader, compare comparison) (found []Finding, err error) {
	bad := map[string]bool{}
	tell := func(d archive.Difference) {
		if !bad[d.Path] {
			bad[d.Path] = true
			found = append(found, Finding{Path: d.Path, What: d.What, extra: d.Extra, inherited: d.Inherited})
		}
	}
	err = compare(ctx, root, func(fn func(*tar.Header) error) error { return rec.Headers(fn) }, func(d archive.Difference) error {
		tell(d)
		return nil
	})
	if err != nil {
		return nil, err
	}
	sum := sha256.New()
	err = rec.Walk(func(e record.Entry) error {
		if err := context.Cause(ctx); err != nil || bad[e.Path] {
			return err
		}
		f, err := archive.OpenFile(root, e.Path)
		if err != nil {
			tell(archive.Difference{Path: e.Path, What: err.Error()})
			return nil
		}
		defer f.Close()
		sum.Reset()
		n, err := io.Copy(sum, f)
		switch {
		case err != nil:
			tell(archive.Difference{Path: e.Path, What: err.Error()})
		case n != e.Size:
			tell(archive.Difference{Path: e.Path, What: fmt.Sprintf("it has %d bytes, not %d", n, e.Size)})
		case [sha256.Size]byte(sum.Sum(nil)) != e.SHA256:
			tell(archive.Difference{Path: e.Path, What: "its content has changed"})
		}
		return nil
	})
	return found, err
}
