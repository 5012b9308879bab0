package repo

import (
	"strings"
	"time"

	"github.com/coble-os/coble/layers/catalog"
	"github.com/coble-os/coble/layers/graph"
	"github.com/coble-os/coble/layers/image"
	"github.com/coble-os/coble/layers/retention"
)

// Use notes that an image was used now: by a container, a load or a pull. It
// is written down once a day at most, since flash wears out; until the
// repository is opened again it is known exactly. An image that is not there
// is no error.
func (r *Repo) Use(id image.ID, now time.Time) error {
	node := catalog.ImagePrefix + id.String()
	r.mu.Lock()
	r.used[node] = now
	r.mu.Unlock()
	fresh := func(n catalog.Image) bool { return now.Sub(n.LastUse()).Abs() < retention.UseEvery }
	var n catalog.Image
	err := r.view(func(g graph.Graph) error {
		if !g.Has(node) {
			n.Used = now
			return nil
		}
		return catalog.Load(g, node, &n)
	})
	if err != nil || fresh(n) {
		return err
	}
	return r.update(func(g graph.Graph) error {
		var n catalog.Image
		if !g.Has(node) {
			return nil
		}
		if err := catalog.Load(g, node, &n); err != nil {
			return err
		}
		n.Used = now.UTC()
		return catalog.Store(g, node, n)
	})
}

// Holdings lists what images take, and the size in bytes of each layer that
// they have. One that a writable layer stands on is kept.
func (r *Repo) Holdings() (all []retention.Holding, sizes map[string]int64, err error) {
	err = r.view(func(g graph.Graph) error {
		all, sizes = nil, map[string]int64{}
		for _, node := range g.Names(catalog.ImagePrefix) {
			var n catalog.Image
			if err := catalog.Load(g, node, &n); err != nil {
				return err
			}
			h := retention.Holding{ID: image.ID(strings.TrimPrefix(node, catalog.ImagePrefix)), Used: n.LastUse(), Kept: len(g.Referrers(node, catalog.KindFrom)) > 0}
			r.mu.Lock()
			if t, ok := r.used[node]; ok {
				h.Used = t
			}
			r.mu.Unlock()
			for _, e := range g.Referrers(node, catalog.KindNames) {
				h.Names = append(h.Names, catalog.Familiar(e.From))
			}
			if h.Layers, err = catalog.StackOf(g, node); err != nil {
				return err
			}
			for _, l := range h.Layers {
				var ln catalog.Layer
				if err := catalog.Load(g, l, &ln); err != nil {
					return err
				}
				if ln.Place == "" { // one that is used in place is not coble's to remove
					sizes[l] = ln.Size
				}
			}
			all = append(all, h)
		}
		return nil
	})
	return all, sizes, err
}
