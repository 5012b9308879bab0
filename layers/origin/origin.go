// Package origin is where layers can be had again that are damaged here: an
// archive, an OCI layout, another store. None of them is trusted: a layer is
// checked against its diff id as it is read. Nothing is written but spools.
package origin

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"

	"github.com/coble-os/coble/layers/blob"
	"github.com/coble-os/coble/layers/image"
	"github.com/coble-os/coble/layers/source"
)

// Origin is where layers can be had again: what Open opens, or registries
// (distribution.Remote).
type Origin interface {
	// Layer opens the plain tar stream of a layer by its diff id, which is
	// checked while it is read. images are names of images that have it.
	// image.ErrNotFound if the origin has no such layer.
	Layer(ctx context.Context, diffID digest.Digest, images []string) (io.ReadCloser, error)
}

// Open makes an origin of an archive, of an OCI layout as a folder, or of the
// folder of another store, which may be read-only. Spools are in temp; when
// there is no room for one, freeUp is asked to make some, and tells whether it
// did. The caller closes it.
func Open(ctx context.Context, path, temp string, freeUp func() bool) (Origin, io.Closer, error) {
	if isStore(path) {
		o, err := openStore(path, temp)
		if err != nil {
			return nil, nil, fmt.Errorf("open the store %s to repair from: %w", path, err)
		}
		return o, io.NopCloser(nil), nil
	}
	s, err := source.Open(ctx, path, temp, freeUp)
	if err != nil {
		return nil, nil, fmt.Errorf("open %s to repair from: %w", path, err)
	}
	rs, err := source.Recipes(s, image.Platform{})
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("open %s to repair from: %w", path, err), s.Close())
	}
	o := &archiveOrigin{s: s, path: path, layers: map[digest.Digest]source.Layer{}}
	for _, rc := range rs {
		for i, id := range rc.Image.RootFS {
			o.layers[id] = rc.Layers[i]
		}
	}
	return o, closer(s.Close), nil
}

type closer func() error

// Close implements io.Closer.
func (c closer) Close() error { return c() }

type archiveOrigin struct {
	s      source.Source
	path   string
	layers map[digest.Digest]source.Layer
}

// Layer implements Origin.
func (o *archiveOrigin) Layer(ctx context.Context, diffID digest.Digest, _ []string) (io.ReadCloser, error) {
	from, ok := o.layers[diffID]
	if !ok {
		return nil, fmt.Errorf("%w: %s has no layer %.19s", image.ErrNotFound, o.path, diffID)
	}
	rc, _, err := o.s.Open(from.Name)
	if err != nil {
		return nil, err
	}
	return from.Plain(blob.WithContext(ctx, rc), rc, diffID)
}
