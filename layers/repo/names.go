package repo

import (
	"errors"
	"fmt"
	"sort"
	"strings"

	"github.com/coble-os/coble/layers/catalog"
	"github.com/coble-os/coble/layers/graph"
	"github.com/coble-os/coble/layers/image"
)

// Get finds an image by name[:tag], name@digest, id, or a prefix of an id
// that only one image has. A name wins over a prefix.
func (r *Repo) Get(nameOrID string) (image.Image, error) {
	var img image.Image
	var layers []string
	err := r.view(func(g graph.Graph) error {
		node, _, err := catalog.Find(g, nameOrID)
		if err != nil {
			return err
		}
		img, layers, err = catalog.Assemble(g, node)
		return err
	})
	if err != nil {
		return image.Image{}, err
	}
	img.Damage = r.damage(layers)
	return img, nil
}

// List gives all images, the newest first.
func (r *Repo) List() ([]image.Image, error) {
	var out []image.Image
	var stacks [][]string
	err := r.view(func(g graph.Graph) error {
		for _, n := range g.Names(catalog.ImagePrefix) {
			img, layers, err := catalog.Assemble(g, n)
			if errors.Is(err, image.ErrDamaged) {
				img.Damage = err.Error()
				img.ID = image.ID(strings.TrimPrefix(n, catalog.ImagePrefix))
			} else if err != nil {
				return err
			}
			out, stacks = append(out, img), append(stacks, layers)
		}
		return nil
	})
	for i := range out {
		if out[i].Damage == "" {
			out[i].Damage = r.damage(stacks[i])
		}
	}
	sort.SliceStable(out, func(i, j int) bool { return out[i].Created.After(out[j].Created) })
	return out, err
}

// damage says what is wrong with a stack of layer nodes on disk.
func (r *Repo) damage(layers []string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, n := range layers {
		if why, bad := r.missing[n]; bad {
			return fmt.Sprintf("layer %.19s: %s; load the image again to repair it", strings.TrimPrefix(n, catalog.LayerPrefix), why)
		}
	}
	return ""
}

// Tag gives an image another name, taking it from the image that had it.
func (r *Repo) Tag(nameOrID, newRef string) error {
	n, err := image.ParseName(newRef)
	if err != nil {
		return err
	}
	if n.Digest != "" {
		return fmt.Errorf("%w: name %q: a tag can't have a digest", image.ErrInvalid, newRef)
	}
	return r.update(func(g graph.Graph) error {
		node, _, err := catalog.Find(g, nameOrID)
		if err != nil {
			return err
		}
		return catalog.SetName(g, n, node)
	})
}
