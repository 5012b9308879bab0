package repo

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
	"github.com/coble-os/coble/layers/catalog"
	"github.com/coble-os/coble/layers/graph"
	"github.com/coble-os/coble/layers/origin"
	"github.com/coble-os/coble/layers/record"
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

// CheckOptions of Check.
type CheckOptions struct {
	Image string // name or id; empty: all layers, also those that only containers stand on
	Quick bool   // whether things are there, not whether they are whole
	// Origin, if not nil, is where damaged files are brought back from.
	Origin origin.Origin
	// Progress, if not nil, hears which layer's turn it is, from 1.
	Progress func(layer digest.Digest, n, of int)

	damaged map[string]bool // layers that were looked at and are not whole
}

// Check looks for damage: of the store (edges to nothing), of layers that are
// not on disk, and, unless it is to be quick, of every path of every layer,
// down to contents. Layers are kept from being removed meanwhile. With an
// Origin it repairs what it finds, and tells of what remains. Errors are
// those of the check itself; damage is none.
func (r *Repo) Check(ctx context.Context, o CheckOptions) ([]Finding, error) {
	found, err := r.checkStore()
	if err != nil {
		return nil, err
	}
	nodes, err := r.layersToCheck(o.Image)
	if err != nil {
		return nil, err
	}
	o.damaged = map[string]bool{}
	r.pin(nodes)
	for i, node := range nodes {
		if o.Progress != nil {
			o.Progress(chainOf(node), i+1, len(nodes))
		}
		var bad []Finding
		if bad, err = r.checkAndMend(ctx, node, o); err != nil {
			err = fmt.Errorf("check layer %.19s: %w", chainOf(node), err)
			break
		}
		o.damaged[node] = slices.ContainsFunc(bad, func(f Finding) bool { return !f.Repaired })
		found = append(found, bad...)
	}
	return found, errors.Join(err, r.unpin(nodes))
}

// OpenOrigin is origin.Open of an archive, of an OCI layout as a folder, or of
// the folder of another store. The caller closes it.
func (r *Repo) OpenOrigin(ctx context.Context, path string) (origin.Origin, io.Closer, error) {
	return origin.Open(ctx, path, r.temp(), r.freed)
}

func chainOf(node string) digest.Digest {
	return digest.Digest(strings.TrimPrefix(node, catalog.LayerPrefix))
}

// checkStore looks for edges that lead to nothing, and at bbolt's own pages.
func (r *Repo) checkStore() (found []Finding, err error) {
	err = r.o.DB.View(func(tx *bbolt.Tx) error {
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
func (r *Repo) layersToCheck(img string) (nodes []string, err error) {
	err = r.view(func(g graph.Graph) error {
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

func (r *Repo) checkAndMend(ctx context.Context, node string, o CheckOptions) ([]Finding, error) {
	found, err := r.checkLayer(ctx, node, o)
	if err != nil || len(found) == 0 {
		return nil, err
	}
	if o.Origin != nil {
		if found, err = r.mendAndCheck(ctx, node, found, o); err != nil {
			return nil, err
		}
	}
	names, err := r.imagesOf(node)
	for i := range found {
		found[i].Layer, found[i].Images = chainOf(node), names
	}
	return found, err
}

// mendAndCheck repairs, and tells what remains. A path that can't be brought
// back by itself takes the whole layer with it.
func (r *Repo) mendAndCheck(ctx context.Context, node string, found []Finding, o CheckOptions) ([]Finding, error) {
	left := found
	for _, whole := range []bool{false, true} {
		if err := r.mend(ctx, node, left, o.Origin, whole); err != nil {
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			return append(found, Finding{What: "it can't be repaired: " + err.Error()}), nil
		}
		var err error
		if left, err = r.checkLayer(ctx, node, o); err != nil {
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
func (r *Repo) imagesOf(node string) (names []string, err error) {
	err = r.view(func(g graph.Graph) error {
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
func (r *Repo) checkLayer(ctx context.Context, node string, o CheckOptions) ([]Finding, error) {
	whole := func(format string, args ...any) []Finding { return []Finding{{What: fmt.Sprintf(format, args...)}} }
	var l catalog.Layer
	if err := r.view(func(g graph.Graph) error { return catalog.Load(g, node, &l) }); err != nil {
		return nil, err
	}
	r.mu.Lock()
	why, missing := r.missing[node]
	r.mu.Unlock()
	if missing {
		return whole("%s", why), nil
	}
	if l.Place != "" {
		why, err := r.checkPlace(ctx, l, o.Quick)
		if why != "" {
			return whole("%s", why), err
		}
		return nil, err
	}
	root, err := r.drv.OpenLayer(l.Folder)
	if err != nil {
		return whole("%v", err), nil
	}
	defer root.Close()
	f, err := os.Open(r.disk.RecordPath(l.Folder))
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
	compare, done, err := r.comparison(node, o.damaged)
	if err != nil {
		return nil, err
	}
	defer done()
	found, err := r.comparePaths(ctx, root, rec, compare)
	if errors.Is(err, record.ErrBroken) {
		return whole("%v", err), nil
	}
	return found, err
}

// comparison is archive.Compare or CompareWhole with what else they want.
type comparison func(ctx context.Context, root *os.File, entries func(func(*tar.Header) error) error, fn func(archive.Difference) error) error

// comparison says how a layer's folder is compared: with its record alone, or
// with the layer below too, if the folder holds that as well and it is whole.
func (r *Repo) comparison(node string, damaged map[string]bool) (compare comparison, done func(), err error) {
	marks := r.drv.Marks()
	alone := func(ctx context.Context, root *os.File, entries func(func(*tar.Header) error) error, fn func(archive.Difference) error) error {
		return archive.Compare(ctx, root, marks, entries, fn)
	}
	var below catalog.Layer
	parent := ""
	err = r.view(func(g graph.Graph) error {
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
		if tree, err = r.drv.OpenLayer(below.Folder); err != nil {
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
func (r *Repo) comparePaths(ctx context.Context, root *os.File, rec *record.Reader, compare comparison) (found []Finding, err error) {
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
