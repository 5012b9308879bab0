package repo

import (
	"errors"
	"fmt"
	"sort"
	"strings"

	"github.com/coble-os/coble/layers/graph"
	"github.com/coble-os/coble/layers/image"
)

// notFound reads like Docker's message and is image.ErrNotFound.
type notFound struct{ name string }

func (n notFound) Error() string        { return "No such image: " + n.name }
func (n notFound) Is(target error) bool { return target == image.ErrNotFound }

// Get finds an image by name[:tag], name@digest, id, or a prefix of an id
// that only one image has. A name wins over a prefix.
func (r *Repo) Get(nameOrID string) (image.Image, error) {
	var img image.Image
	var layers []string
	err := r.view(func(g graph.Graph) error {
		node, _, err := find(g, nameOrID)
		if err != nil {
			return err
		}
		img, layers, err = assemble(g, node)
		return err
	})
	if err != nil {
		return image.Image{}, err
	}
	img.Damage = r.damage(layers)
	return img, nil
}

// find gives the node of an image, and the name's node if a name was given.
func find(g graph.Graph, s string) (node, name string, err error) {
	if strings.HasPrefix(s, "sha256:") || !validName(s) {
		node, err = findID(g, s)
		return node, "", err
	}
	n, err := image.ParseName(s)
	if err == nil {
		name = namePrefix + n.String()
		if to := target(g, name, kindNames); to != "" {
			return to, name, nil
		}
	}
	node, idErr := findID(g, s)
	if idErr != nil && !errors.Is(idErr, ErrAmbiguous) && err == nil {
		return "", "", notFound{n.Familiar()}
	}
	return node, "", idErr
}

func validName(s string) bool {
	_, err := image.ParseName(s)
	return err == nil
}

func findID(g graph.Graph, s string) (string, error) {
	hex, ok := image.IDPrefix(s)
	if !ok {
		return "", notFound{s}
	}
	found := g.Names(imagePrefix + "sha256:" + hex)
	switch len(found) {
	case 0:
		return "", notFound{s}
	case 1:
		return found[0], nil
	}
	return "", fmt.Errorf("%w: %s", ErrAmbiguous, s)
}

// List gives all images, the newest first.
func (r *Repo) List() ([]image.Image, error) {
	var out []image.Image
	var stacks [][]string
	err := r.view(func(g graph.Graph) error {
		for _, n := range g.Names(imagePrefix) {
			img, layers, err := assemble(g, n)
			if errors.Is(err, image.ErrDamaged) {
				img.Damage = err.Error()
				img.ID = image.ID(strings.TrimPrefix(n, imagePrefix))
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
			return fmt.Sprintf("layer %.19s: %s; load the image again to repair it", strings.TrimPrefix(n, layerPrefix), why)
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
		node, _, err := find(g, nameOrID)
		if err != nil {
			return err
		}
		return setName(g, n, node)
	})
}

// setName makes the name mean the image, and no other.
func setName(g graph.Graph, n image.Name, node string) error {
	name := namePrefix + n.String()
	if target(g, name, kindNames) == node {
		return nil
	}
	for _, e := range g.Edges(name, kindNames) {
		if err := g.Unlink(e); err != nil {
			return err
		}
	}
	if err := g.Put(name, []byte("{}")); err != nil {
		return err
	}
	return g.Link(graph.Edge{From: name, Kind: kindNames, To: node})
}
