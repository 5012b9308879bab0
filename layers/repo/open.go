package repo

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/coble-os/coble/layers/catalog"
	"github.com/coble-os/coble/layers/graph"
	"github.com/coble-os/coble/layers/image"
	"github.com/coble-os/coble/layers/unpacked"
)

// OpenLayer gives the plain tar stream of the layer with that chain id
// exactly as it came in: its digest is the layer's diff id. Contents and the
// whole are checked while they are read; image.ErrDamaged with layer and path
// comes in place of io.EOF. A layer that an older coble unpacked is packed
// anew, and refused with image.ErrDamaged if that is not the same. image.ErrNotFound if
// there is no such layer. The layer stays until the stream is closed.
func (r *Repo) OpenLayer(chain digest.Digest) (io.ReadCloser, error) {
	rc, _, err := r.openLayer(catalog.LayerPrefix + chain.String())
	return rc, err
}

// openLayer is OpenLayer for a node, and tells the stream's length.
func (r *Repo) openLayer(node string) (rc io.ReadCloser, size int64, err error) {
	pins := []string{node}
	r.pin(pins)
	defer func() {
		if err != nil {
			err = errors.Join(err, r.unpin(pins))
		}
	}()
	var l catalog.Layer
	err = r.view(func(g graph.Graph) error {
		if !g.Has(node) {
			return fmt.Errorf("open layer: %w: no layer %s", image.ErrNotFound, strings.TrimPrefix(node, catalog.LayerPrefix))
		}
		return catalog.Load(g, node, &l)
	})
	if err != nil {
		return nil, 0, err
	}
	if bad := r.damage(pins); bad != "" {
		return nil, 0, fmt.Errorf("%w: %s", image.ErrDamaged, bad)
	}
	name := fmt.Sprintf("layer %.19s", strings.TrimPrefix(node, catalog.LayerPrefix))
	if l.Place != "" {
		err := fmt.Errorf("%w: there is no archive of it; copy the folder with %s", unpacked.ErrInPlace, l.Place)
		return nil, 0, unpacked.Explain(name, err)
	}
	s, err := r.disk.Open(l.Folder, l.DiffID, name, func() error { return r.unpin(pins) })
	if err != nil {
		return nil, 0, unpacked.Explain(name, err)
	}
	return s, s.Size(), nil
}
