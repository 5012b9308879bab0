package repo

import (
	"errors"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/coble-os/coble/layers/catalog"
	"github.com/coble-os/coble/layers/graph"
	"github.com/coble-os/coble/layers/image"
)

// Removed is one thing that Remove did: a name taken away, or an image or
// layer deleted. One of the two is set.
type Removed struct {
	Untagged string // familiar name
	Deleted  string // sha256:… of an image or, after it, of its layers (chain ids)
}

// InUseError says which writable layers stand on an image, or which names
// it has besides. It is ErrInUse.
type InUseError struct {
	Image image.ID
	Keys  []string // of writable layers
	Names []string // familiar; set if the image was named by its id
}

func (e *InUseError) Error() string {
	if len(e.Keys) > 0 {
		return fmt.Sprintf("remove image %s: %s by writable layer %s", short(e.Image), ErrInUse, strings.Join(e.Keys, ", "))
	}
	return fmt.Sprintf("remove image %s: it has several names: %s", short(e.Image), strings.Join(e.Names, ", "))
}

// Is makes errors.Is(err, ErrInUse) true.
func (e *InUseError) Is(target error) bool { return target == ErrInUse }

// Remove takes a name off an image; the image itself goes with its last
// name, and layers that no other image or container needs go with it. An
// image that has several names can be removed by its id only with force,
// which takes all of them; one tag, and names by digest beside it, count as
// one. While a writable layer stands on the image, its
// last name and the image stay: *InUseError. Force does not change that,
// except that a name is taken off an image that then stays without one.
func (r *Repo) Remove(nameOrID string, force bool) ([]Removed, error) {
	var out []Removed
	err := r.update(func(g graph.Graph) error {
		out = nil
		node, name, err := catalog.Find(g, nameOrID)
		if err != nil {
			return err
		}
		names, err := namesToDrop(g, node, name, force)
		if err != nil {
			return err
		}
		last := len(g.Referrers(node, catalog.KindNames)) == len(names)
		if used := inUse(g, node); used != nil && last {
			if !force || name == "" {
				return used
			}
			last = false
		}
		for _, n := range names {
			if err := g.Delete(n); err != nil {
				return err
			}
			out = append(out, Removed{Untagged: catalog.Familiar(n)})
		}
		if !last {
			return nil
		}
		out = append(out, Removed{Deleted: strings.TrimPrefix(node, catalog.ImagePrefix)})
		return g.Delete(node)
	})
	if err != nil {
		return nil, err
	}
	if id := out[len(out)-1].Deleted; id != "" {
		r.mu.Lock()
		delete(r.used, catalog.ImagePrefix+id)
		r.mu.Unlock()
	}
	gone, err := r.collect()
	for _, n := range gone {
		out = append(out, Removed{Deleted: strings.TrimPrefix(n, catalog.LayerPrefix)})
	}
	return out, err
}

// namesToDrop decides which names go: the one that was given, or all when
// the image was named by its id. With its last tag in a repository go the
// names by digest there.
func namesToDrop(g graph.Graph, node, name string, force bool) ([]string, error) {
	if name != "" {
		return withDigests(g, node, name), nil
	}
	var names, shown []string
	for _, e := range g.Referrers(node, catalog.KindNames) {
		names = append(names, e.From)
		shown = append(shown, catalog.Familiar(e.From))
	}
	if !oneReference(names) && !force {
		return nil, &InUseError{Image: image.ID(strings.TrimPrefix(node, catalog.ImagePrefix)), Names: shown}
	}
	return names, nil
}

// oneReference tells whether names are one tag at most, and names by digest
// in the same repository: what one pull gives.
func oneReference(names []string) bool {
	tags, repository := 0, ""
	for i, s := range names {
		n, err := image.ParseName(strings.TrimPrefix(s, catalog.NamePrefix))
		if err != nil || i > 0 && n.Repo != repository {
			return false
		}
		repository = n.Repo
		if n.Digest == "" {
			tags++
		}
	}
	return tags <= 1
}

func withDigests(g graph.Graph, node, name string) []string {
	out := []string{name}
	given, err := image.ParseName(strings.TrimPrefix(name, catalog.NamePrefix))
	if err != nil || given.Digest != "" {
		return out
	}
	for _, e := range g.Referrers(node, catalog.KindNames) {
		n, err := image.ParseName(strings.TrimPrefix(e.From, catalog.NamePrefix))
		switch {
		case err != nil || n.Repo != given.Repo || e.From == name:
		case n.Digest == "":
			return []string{name}
		default:
			out = append(out, e.From)
		}
	}
	return out
}

// inUse gives an *InUseError if writable layers stand on the image.
func inUse(g graph.Graph, node string) error {
	var keys []string
	for _, e := range g.Referrers(node, catalog.KindFrom) {
		keys = append(keys, strings.TrimPrefix(e.From, catalog.TopPrefix))
	}
	if len(keys) == 0 {
		return nil
	}
	return &InUseError{Image: image.ID(strings.TrimPrefix(node, catalog.ImagePrefix)), Keys: keys}
}

// pin keeps layers from being collected, whether they are here yet or not.
func (r *Repo) pin(nodes []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, n := range nodes {
		r.pins[n]++
	}
}

// unpin ends pin, and collects what nobody needs.
func (r *Repo) unpin(nodes []string) error {
	r.mu.Lock()
	for _, n := range nodes {
		if r.pins[n]--; r.pins[n] == 0 {
			delete(r.pins, n)
		}
	}
	r.mu.Unlock()
	_, err := r.collect()
	return err
}

// hold has nodes pinned while it does something.
func (r *Repo) hold(nodes []string, do func() error) (err error) {
	r.pin(nodes)
	defer func() { err = errors.Join(err, r.unpin(nodes)) }()
	return do()
}

// collect removes the layers that no image, container, other layer or pin
// needs, and names them. The store forgets them first, then the disk.
func (r *Repo) collect() ([]string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var gone, ids []string
	idle := true
	err := r.view(func(g graph.Graph) error {
		for _, n := range g.Names(catalog.LayerPrefix) {
			idle = idle && (r.pins[n] > 0 || len(g.Referrers(n, "")) > 0)
		}
		return nil
	})
	if err != nil || idle {
		return nil, err
	}
	err = r.update(func(g graph.Graph) error {
		gone, ids = nil, nil
		for again := true; again; {
			again = false
			for _, n := range g.Names(catalog.LayerPrefix) {
				if r.pins[n] > 0 || len(g.Referrers(n, "")) > 0 {
					continue
				}
				var l catalog.Layer
				if err := catalog.Load(g, n, &l); err != nil {
					return err
				}
				if err := g.Delete(n); err != nil {
					return err
				}
				gone, ids, again = append(gone, n), append(ids, l.Folder), true
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for i, id := range ids {
		delete(r.missing, gone[i])
		err = errors.Join(err, r.disk.Drop(id))
	}
	return gone, err
}

// short is a digest for people.
func short(d digest.Digest) string { return strings.TrimPrefix(d.String(), "sha256:")[:12] }
