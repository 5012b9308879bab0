package repo

import (
	"strings"
	"time"

	"github.com/coble-os/coble/layers/graph"
	"github.com/coble-os/coble/layers/image"
	"github.com/coble-os/coble/layers/retention"
)

// Use notes that an image was used now: by a container, a load or a pull. It
// is written down once a day at most, since flash wears out; until the
// repository is opened again it is known exactly. An image that is not there
// is no error.
func (r *Repo) Use(id image.ID, now time.Time) error {
	node := imagePrefix + id.String()
	r.mu.Lock()
	r.used[node] = now
	r.mu.Unlock()
	fresh := func(n imageNode) bool { return now.Sub(n.lastUse()).Abs() < retention.UseEvery }
	var n imageNode
	err := r.view(func(g graph.Graph) error {
		if !g.Has(node) {
			n.Used = now
			return nil
		}
		return load(g, node, &n)
	})
	if err != nil || fresh(n) {
		return err
	}
	return r.update(func(g graph.Graph) error {
		var n imageNode
		if !g.Has(node) {
			return nil
		}
		if err := load(g, node, &n); err != nil {
			return err
		}
		n.Used = now.UTC()
		return store(g, node, n)
	})
}

func (n imageNode) lastUse() time.Time {
	if n.Used.IsZero() {
		return n.Loaded
	}
	return n.Used
}

// Holdings lists what images take, and the size in bytes of each layer that
// they have. One that a writable layer stands on is kept.
func (r *Repo) Holdings() (all []retention.Holding, sizes map[string]int64, err error) {
	err = r.view(func(g graph.Graph) error {
		all, sizes = nil, map[string]int64{}
		for _, node := range g.Names(imagePrefix) {
			var n imageNode
			if err := load(g, node, &n); err != nil {
				return err
			}
			h := retention.Holding{ID: image.ID(strings.TrimPrefix(node, imagePrefix)), Used: n.lastUse(), Kept: len(g.Referrers(node, kindFrom)) > 0}
			r.mu.Lock()
			if t, ok := r.used[node]; ok {
				h.Used = t
			}
			r.mu.Unlock()
			for _, e := range g.Referrers(node, kindNames) {
				h.Names = append(h.Names, familiar(e.From))
			}
			if h.Layers, err = stackOf(g, node); err != nil {
				return err
			}
			for _, l := range h.Layers {
				var ln layerNode
				if err := load(g, l, &ln); err != nil {
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
