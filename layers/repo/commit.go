package repo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/opencontainers/go-digest"

	"github.com/coble-os/coble/layers/blob"
	"github.com/coble-os/coble/layers/catalog"
	"github.com/coble-os/coble/layers/graph"
	"github.com/coble-os/coble/layers/image"
	"github.com/coble-os/coble/layers/source"
)

// NewImage asks for an image with one layer more than another.
type NewImage struct {
	// Config makes the raw configuration out of the diff ids, lowest first.
	Config func(diffIDs []digest.Digest) ([]byte, error)
	Name   string // to give it; empty for none
}

// Commit makes an image out of what a container changed: the layers that it
// stands on, and one with its changes. Nothing is written into the container
// meanwhile, or the layer has some of it and not the rest. ErrNoLayer if
// there is no writable layer key.
func (r *Repo) Commit(ctx context.Context, key string, n NewImage) (image.ID, error) {
	id, ids, err := r.top(key)
	if err != nil {
		return "", err
	}
	below, diffs, err := r.stackBelow(key)
	if err != nil {
		return "", err
	}
	r.pin(below)
	made, err := r.newImage(ctx, diffs, n, func(w io.Writer) error { return r.drv.Diff(ctx, id, ids, w) })
	if err = errors.Join(err, r.unpin(below)); err != nil {
		return "", fmt.Errorf("commit: %w", err)
	}
	return made, nil
}

// Import makes an image of one layer out of a tar stream, itself plain,
// gzip, zstd or xz.
func (r *Repo) Import(ctx context.Context, src io.Reader, n NewImage) (image.ID, error) {
	made, err := r.newImage(ctx, nil, n, func(w io.Writer) error {
		plain, _, err := blob.Decompress(blob.WithContext(ctx, src))
		if err != nil {
			return err
		}
		defer plain.Close()
		_, err = io.Copy(w, plain)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("import: %w", err)
	}
	return made, nil
}

// stackBelow lists the layer nodes that a writable layer stands on, and
// their diff ids, lowest first.
func (r *Repo) stackBelow(key string) (nodes []string, diffs []digest.Digest, err error) {
	err = r.view(func(g graph.Graph) error {
		nodes, diffs = nil, nil
		over := catalog.Target(g, catalog.TopPrefix+key, catalog.KindOver)
		if over == "" {
			return nil
		}
		if nodes, err = catalog.Stack(g, over); err != nil {
			return err
		}
		for i := len(nodes) - 1; i >= 0; i-- {
			var l catalog.Layer
			if err := catalog.Load(g, nodes[i], &l); err != nil {
				return err
			}
			diffs = append(diffs, l.DiffID)
		}
		return nil
	})
	return nodes, diffs, err
}

// newImage puts a layer, written by write, on top of layers that are here.
func (r *Repo) newImage(ctx context.Context, below []digest.Digest, n NewImage, write func(io.Writer) error) (image.ID, error) {
	var name image.Name
	var err error
	if n.Name != "" {
		if name, err = image.ParseName(n.Name); err != nil {
			return "", err
		}
		if name.Digest != "" {
			return "", fmt.Errorf("%w: name %q: a tag can't have a digest", image.ErrInvalid, n.Name)
		}
	}
	f, err := blob.Spool(r.temp())
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum := digest.SHA256.Digester()
	if err := write(io.MultiWriter(blob.Counted(ctx, f), sum.Hash())); err != nil {
		return "", blob.NoSpace(err)
	}
	size, err := f.Seek(0, io.SeekCurrent)
	if err != nil {
		return "", err
	}
	raw, err := n.Config(append(append([]digest.Digest{}, below...), sum.Digest()))
	if err != nil {
		return "", err
	}
	rc, err := source.NewRecipe(raw, append(make([]source.Layer, len(below)), source.Layer{Name: spooled, Digest: sum.Digest(), Size: size}))
	if err != nil {
		return "", err
	}
	if name.Repo != "" {
		rc.Names = []image.Name{name}
	}
	_, err = r.loadOne(ctx, spoolSource{f, size}, rc, func(Progress) {})
	return rc.Image.ID, err
}

// spoolSource is one plain layer; those below it are here already.
type spoolSource struct {
	f    *os.File
	size int64
}

const spooled = "layer"

func (s spoolSource) Open(name string) (io.ReadCloser, int64, error) {
	if name != spooled {
		return nil, 0, errors.New("a layer below is gone; load or pull its image again")
	}
	return io.NopCloser(io.NewSectionReader(s.f, 0, s.size)), s.size, nil
}

func (s spoolSource) Has(name string) bool { return name == spooled }
func (s spoolSource) Close() error         { return nil }
