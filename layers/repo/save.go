package repo

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/coble-os/coble/layers/catalog"
	"github.com/coble-os/coble/layers/export"
	"github.com/coble-os/coble/layers/graph"
	"github.com/coble-os/coble/layers/image"
)

// Save is an archive of images that is ready to be written.
type Save struct {
	r      *Repo
	want   image.Platform
	images []*export.Image // each once, however many names it was asked for by
	pins   []string
}

// Save prepares an archive of images: by name, by id (which then has no
// name in it) or by a repository's name without a tag, which means all tags
// of it. image.ErrNotFound if there is no such image, image.ErrPlatform if one is for
// another platform than is wanted; the zero value is any. What it has found
// stays until Close.
func (r *Repo) Save(namesOrIDs []string, want image.Platform) (*Save, error) {
	s := &Save{r: r, want: want}
	err := r.view(func(g graph.Graph) error {
		s.images = nil
		for _, n := range namesOrIDs {
			if err := s.add(g, n); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, im := range s.images {
		s.pins = append(s.pins, catalog.LayerNodes(im.RootFS)...)
	}
	r.pin(s.pins)
	// What was removed between the look and the pin is missed when it is opened.
	return s, nil
}

// Close lets what Save found go.
func (s *Save) Close() error { return s.r.unpin(s.pins) }

func (s *Save) add(g graph.Graph, nameOrID string) error {
	node, name, err := catalog.Find(g, nameOrID)
	bare := !strings.HasPrefix(nameOrID, "sha256:") && image.NameOnly(nameOrID)
	if bare && (name != "" || err != nil) {
		if tags := tagsOf(g, nameOrID); len(tags) > 0 {
			for _, t := range tags {
				if err := s.addNode(g, catalog.Target(g, t, catalog.KindNames), t); err != nil {
					return err
				}
			}
			return nil
		}
	}
	if err != nil {
		return err
	}
	return s.addNode(g, node, name)
}

// tagsOf lists the name nodes of a repository that have a tag.
func tagsOf(g graph.Graph, repository string) []string {
	n, err := image.ParseName(repository)
	if err != nil {
		return nil
	}
	return g.Names(catalog.NamePrefix + n.Repo + ":")
}

func (s *Save) addNode(g graph.Graph, node, name string) error {
	var im *export.Image
	for _, have := range s.images {
		if catalog.ImagePrefix+have.ID.String() == node {
			im = have
		}
	}
	if im == nil {
		var err error
		if im, err = describe(g, node); err != nil {
			return err
		}
		if s.want != (image.Platform{}) && !s.want.Is(im.Image) {
			have := image.Platform{OS: im.OS, Architecture: im.Architecture, Variant: im.Variant}
			return fmt.Errorf("%w for %s: image %s is for %s", image.ErrPlatform, s.want, short(im.ID), have)
		}
		s.images = append(s.images, im)
	}
	if name == "" {
		return nil
	}
	n, err := image.ParseName(strings.TrimPrefix(name, catalog.NamePrefix))
	if err != nil || n.Digest != "" {
		return err
	}
	for _, have := range im.Names {
		if have == n {
			return nil
		}
	}
	im.Names = append(im.Names, n)
	return nil
}

func describe(g graph.Graph, node string) (*export.Image, error) {
	var n catalog.Image
	if err := catalog.Load(g, node, &n); err != nil {
		return nil, err
	}
	img, err := image.ParseConfig(n.Config)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", image.ErrDamaged, node, err)
	}
	return &export.Image{Image: img}, nil
}

// Write writes the archive, as package export does.
func (s *Save) Write(ctx context.Context, w io.Writer) error {
	err := export.Write(ctx, w, s.images, func(chain digest.Digest) (io.ReadCloser, int64, error) {
		return s.r.openLayer(catalog.LayerPrefix + chain.String())
	})
	if err != nil {
		return fmt.Errorf("save: %w", err)
	}
	return nil
}
