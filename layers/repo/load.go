package repo

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/coble-os/coble/layers/blob"
	"github.com/coble-os/coble/layers/catalog"
	"github.com/coble-os/coble/layers/graph"
	"github.com/coble-os/coble/layers/image"
	"github.com/coble-os/coble/layers/source"
)

// Progress is told while loading, from the loading goroutine.
type Progress struct {
	Layer   digest.Digest // diff id; with Index 0 what the member's name has, or empty
	Index   int           // which layer of the image, from 1; 0 for what comes before its manifest
	Layers  int           // of the image; 0 for what comes before its manifest
	Status  Status
	Current int64 // bytes read of the layer's blob
	Total   int64 // bytes of the blob
}

// Status of a layer while loading.
type Status string

// Statuses, in the order in which they come.
const (
	Present   Status = "present" // the layer is here already
	Unpacking Status = "unpacking"
	Done      Status = "done" // unpacked and on stable storage
)

// Loaded is one name that an image was given, or an image without a name.
type Loaded struct {
	ID       digest.Digest
	Ref      string // familiar: busybox:latest; empty without a name
	Unpacked int    // layers that had to be unpacked
}

// Load reads a docker-archive or an OCI layout as a tar stream, itself plain,
// gzip, zstd or xz, once and from its beginning (see intake for how). On an
// error nothing of it is left. When the disk is full, what no image has is
// removed before the load fails.
func (r *Repo) Load(ctx context.Context, src io.Reader, progress func(Progress)) ([]Loaded, error) {
	return r.LoadFor(ctx, image.Platform{}, src, progress)
}

// LoadFor is Load of what the archive has for a platform. image.ErrPlatform if that
// is nothing. The zero value is this machine's, of those that an index has, and
// whatever else there is.
func (r *Repo) LoadFor(ctx context.Context, want image.Platform, src io.Reader, progress func(Progress)) ([]Loaded, error) {
	loaded, err := r.loadStream(ctx, src, loading{want: want, progress: progress})
	if err != nil {
		return nil, fmt.Errorf("load image: %w", err)
	}
	return loaded, nil
}

// loading is how a source is loaded.
type loading struct {
	name     string         // for the one image in it; empty: what the source says
	want     image.Platform // see recipes
	progress func(Progress) // may be nil
}

func (r *Repo) loadStream(ctx context.Context, src io.Reader, o loading) (out []Loaded, err error) {
	plain, c, err := blob.Decompress(blob.WithContext(ctx, src))
	if err != nil {
		return nil, err
	}
	defer plain.Close()
	from := io.NopCloser(io.Reader(plain))
	if c != blob.Plain {
		from = blob.Ahead(plain)
	}
	s := r.newIntake(o.want, o.progress)
	defer func() { err = errors.Join(err, s.Close()) }()
	err = source.Each(ctx, from, func(h *tar.Header, body io.Reader) error { return s.arrive(ctx, h, body) })
	from.Close()
	if err != nil {
		return nil, err
	}
	return r.loadFrom(ctx, s, o)
}

// LoadPath loads a file as Load does, or an OCI layout in a folder. A name,
// if given, is what the one image in it will be called in place of what the
// source says. Layers that are here are not read; a plain archive and a
// folder are read where they lie, and a packed archive is looked through first
// and unpacked only if something in it is new.
func (r *Repo) LoadPath(ctx context.Context, path, name string, progress func(Progress)) ([]Loaded, error) {
	loaded, err := r.loadPath(ctx, path, loading{name: name, progress: progress})
	if err != nil {
		return nil, fmt.Errorf("load image from %s: %w", path, err)
	}
	return loaded, nil
}

func (r *Repo) loadPath(ctx context.Context, path string, o loading) ([]Loaded, error) {
	s, f, err := source.At(ctx, path)
	if err != nil {
		return nil, err
	}
	if f != nil {
		defer f.Close()
		return r.loadPacked(ctx, f, o)
	}
	defer s.Close()
	return r.loadFrom(ctx, s, o)
}

// loadPacked looks first whether all that a packed file has is here.
func (r *Repo) loadPacked(ctx context.Context, f *os.File, o loading) ([]Loaded, error) {
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return r.loadStream(ctx, f, o)
	}
	plain, _, err := blob.Decompress(blob.WithContext(ctx, f))
	if err != nil {
		return nil, err
	}
	s, err := source.Peek(ctx, plain)
	plain.Close()
	if err != nil {
		return nil, err
	}
	if rs, err := source.Recipes(s, o.want); err == nil && source.Rename(rs, o.name) == nil && r.haveAll(rs) {
		return r.loadFrom(ctx, s, o)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	return r.loadStream(ctx, f, o)
}

func (r *Repo) haveAll(rs []source.Recipe) bool {
	for _, rc := range rs {
		for _, node := range catalog.LayerNodes(rc.Image.RootFS) {
			if ok, err := r.haveLayer(node); err != nil || !ok {
				return false
			}
		}
	}
	return true
}

func (r *Repo) loadFrom(ctx context.Context, s source.Source, o loading) (out []Loaded, err error) {
	if o.progress == nil {
		o.progress = func(Progress) {}
	}
	rs, err := source.Recipes(s, o.want)
	if err != nil {
		return nil, err
	}
	if err := source.Rename(rs, o.name); err != nil {
		return nil, err
	}
	if in, ok := s.(*intake); ok {
		if err := in.trim(rs); err != nil {
			return nil, err
		}
	}
	for _, rc := range rs {
		done, err := r.loadOne(ctx, s, rc, o.progress)
		if err != nil {
			return nil, err
		}
		out = append(out, done...)
	}
	return out, nil
}

// loadOne unpacks what is missing of an image and then names it in one
// transaction. The layers are pinned meanwhile, so that a removal elsewhere
// does not take them.
func (r *Repo) loadOne(ctx context.Context, s source.Source, rc source.Recipe, progress func(Progress)) ([]Loaded, error) {
	unpacked := 0
	err := r.withLayers(rc, func(nodes []string) (err error) {
		b := &batch{r: r}
		defer func() { err = errors.Join(err, b.close()) }()
		for i := range nodes {
			job := layerJob{nodes: nodes[:i+1], from: rc.Layers[i], diffID: rc.Image.RootFS[i], of: len(nodes), progress: progress}
			made, err := b.ensure(ctx, s, job)
			if errors.Is(err, blob.ErrNoSpace) && r.freed() {
				made, err = b.ensure(ctx, s, job)
			}
			if err != nil {
				return fmt.Errorf("layer %d of %d (%.19s): %w", i+1, len(nodes), rc.Image.RootFS[i], err)
			}
			if made {
				unpacked++
			}
		}
		if err := errors.Join(b.publish(), context.Cause(ctx)); err != nil {
			return err
		}
		return r.record(rc, nodes)
	})
	if err != nil {
		return nil, err
	}
	var out []Loaded
	for _, n := range rc.Names {
		out = append(out, Loaded{ID: rc.Image.ID, Ref: n.Familiar(), Unpacked: unpacked})
	}
	if len(out) == 0 {
		out = []Loaded{{ID: rc.Image.ID, Unpacked: unpacked}}
	}
	return out, nil
}

// record writes an image, its edge to its topmost layer and its names. What
// is recorded already is not written again: flash wears out.
func (r *Repo) record(rc source.Recipe, nodes []string) error {
	node := catalog.ImagePrefix + rc.Image.ID.String()
	if r.recorded(rc, node) {
		return nil
	}
	return r.update(func(g graph.Graph) error { return putImage(g, rc, nodes) })
}

func putImage(g graph.Graph, rc source.Recipe, nodes []string) error {
	node := catalog.ImagePrefix + rc.Image.ID.String()
	if !g.Has(node) {
		if err := catalog.Store(g, node, catalog.Image{Config: rc.Image.RawConfig, Loaded: time.Now().UTC()}); err != nil {
			return err
		}
	}
	if len(nodes) > 0 {
		if err := g.Link(graph.Edge{From: node, Kind: catalog.KindTop, To: nodes[len(nodes)-1]}); err != nil {
			return err
		}
	}
	for _, n := range rc.Names {
		if err := catalog.SetName(g, n, node); err != nil {
			return err
		}
	}
	return nil
}

func (r *Repo) recorded(rc source.Recipe, node string) bool {
	same := false
	_ = r.view(func(g graph.Graph) error {
		same = g.Has(node)
		for _, n := range rc.Names {
			same = same && catalog.Target(g, catalog.NamePrefix+n.String(), catalog.KindNames) == node
		}
		return nil
	})
	return same
}
