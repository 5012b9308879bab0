package repo

import (
	"strings"

	"github.com/coble-os/coble/layers/catalog"
	"github.com/coble-os/coble/layers/graph"
	"github.com/coble-os/coble/layers/image"
)

// Usage is what layers take, in bytes of file content (logical sizes).
type Usage struct {
	Layers int64              // all layers, each once
	Shared map[image.ID]int64 // of each image: layers that other images have as well
}

// Usage adds up what images and layers take.
func (r *Repo) Usage() (Usage, error) {
	u := Usage{Shared: map[image.ID]int64{}}
	err := r.view(func(g graph.Graph) error {
		sizes, users := map[string]int64{}, map[string]int{}
		for _, n := range g.Names(catalog.LayerPrefix) {
			var l catalog.Layer
			if err := catalog.Load(g, n, &l); err != nil {
				return err
			}
			sizes[n] = l.Size
			u.Layers += l.Size
		}
		stacks := map[image.ID][]string{}
		for _, n := range g.Names(catalog.ImagePrefix) {
			layers, err := catalog.StackOf(g, n)
			if err != nil {
				return err
			}
			stacks[image.ID(strings.TrimPrefix(n, catalog.ImagePrefix))] = layers
			for _, l := range layers {
				users[l]++
			}
		}
		for id, layers := range stacks {
			u.Shared[id] = 0
			for _, l := range layers {
				if users[l] > 1 {
					u.Shared[id] += sizes[l]
				}
			}
		}
		return nil
	})
	return u, err
}
