package distribution

import (
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/coble-os/coble/layers/image"
	"github.com/coble-os/coble/layers/registry"
)

// Remote asks registries for the images that a layer is a part of: it is a
// origin.Origin. open gives a session with the registry of a repository.
//
// With a neighbour, a host and port, the images are asked for there, by the
// names that an Offer has: what comes need not have come from there, since
// the layer's digest decides. Else each name leads to its own registry, and
// the manifest that it came with is asked for, if that is known.
func (l *Local) Remote(neighbour string, open func(context.Context, registry.Repository) (*registry.Session, error)) *Remote {
	return &Remote{l, neighbour, open}
}

// Remote gives layers out of registries.
type Remote struct {
	l         *Local
	neighbour string
	open      func(context.Context, registry.Repository) (*registry.Session, error)
}

// Layer opens the plain tar stream of a layer by its diff id, which is checked
// while it is read. images are names of images that have it; image.ErrNotFound
// if none of them leads to it.
func (o *Remote) Layer(ctx context.Context, diffID digest.Digest, images []string) (io.ReadCloser, error) {
	err := fmt.Errorf("%w: no image with a name has the layer", image.ErrNotFound)
	for _, name := range images {
		n, perr := image.ParseName(name)
		if perr != nil {
			continue
		}
		rc, oerr := o.layerOf(ctx, n, diffID)
		if oerr == nil {
			return rc, nil
		}
		err = fmt.Errorf("ask for %s: %w", name, oerr)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, err
}

// layerOf finds the layer in what a name means in its registry.
func (o *Remote) layerOf(ctx context.Context, n image.Name, diffID digest.Digest) (io.ReadCloser, error) {
	img, err := o.l.store.Get(n.String())
	if err != nil {
		return nil, err
	}
	at := registry.Split(n.Repo)
	if o.neighbour != "" {
		at = registry.Repository{Host: o.neighbour, Path: shownAs(n.Repo)}
	} else {
		for _, known := range img.RepoDigests {
			if d, err := image.ParseName(known); err == nil && d.Repo == n.Repo && d.Digest != "" {
				n = d
			}
		}
	}
	s, err := o.open(ctx, at)
	if err != nil {
		return nil, err
	}
	p := &pull{l: o.l, s: s, o: PullOptions{Name: n, Platform: image.Platform{OS: img.OS, Architecture: img.Architecture, Variant: img.Variant}}}
	_, m, err := p.resolve(ctx)
	if err != nil {
		return nil, err
	}
	rc, mf, err := p.recipe(ctx, m)
	if err != nil {
		return nil, err
	}
	i := slices.Index(rc.Image.RootFS, diffID)
	if i < 0 {
		return nil, fmt.Errorf("%w: what the name means there now has no layer %.19s", image.ErrNotFound, diffID)
	}
	body := s.Blob(ctx, mf.Layers[i], 0)
	return rc.Layers[i].Plain(body, body, diffID)
}
