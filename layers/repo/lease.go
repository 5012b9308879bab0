package repo

import (
	"fmt"
	"strings"
	"time"

	"github.com/coble-os/coble/layers/catalog"
	"github.com/coble-os/coble/layers/graph"
)

// A lease keeps the layers that a pull has finished until its image is
// recorded, also if the engine is killed in between: the next pull of the
// image begins with the layers that are still missing. It is a node,
//
//	lease:sha256:… (of the configuration) --keeps--> layer:…
//
// and goes with the transaction that records the image, when the disk is
// full, when it is asked for (ForgetPulls), or a week after its last layer,
// when the repository is opened. While its pull is under way it is pinned.
const (
	leasePrefix = "lease:"
	kindKeeps   = "keeps"

	leftAge = 7 * 24 * time.Hour // how long what nobody asked for again is kept, layers and downloads
)

// leaseNode is the value of a lease's node.
type leaseNode struct{ Since time.Time }

// keep moves a lease to a layer, which stands on those it had before.
func keep(g graph.Graph, lease, layer string) error {
	if err := catalog.Store(g, lease, leaseNode{Since: time.Now().UTC()}); err != nil {
		return err
	}
	for _, e := range g.Edges(lease, kindKeeps) {
		if err := g.Unlink(e); err != nil {
			return err
		}
	}
	return g.Link(graph.Edge{From: lease, Kind: kindKeeps, To: layer})
}

func endLease(g graph.Graph, lease string) error {
	if !g.Has(lease) {
		return nil
	}
	return g.Delete(lease)
}

// dropLeases ends those that are older than age, and of no pull under way.
func (r *Repo) dropLeases(age time.Duration) error {
	r.mu.Lock() // so that none is pinned meanwhile
	defer r.mu.Unlock()
	var old []string
	err := r.view(func(g graph.Graph) error {
		for _, n := range g.Names(leasePrefix) {
			var l leaseNode
			if err := catalog.Load(g, n, &l); err != nil {
				return fmt.Errorf("lease of %s: %w", strings.TrimPrefix(n, leasePrefix), err)
			}
			if time.Since(l.Since) >= age && r.pins[n] == 0 {
				old = append(old, n)
			}
		}
		return nil
	})
	if err != nil || len(old) == 0 {
		return err
	}
	return r.update(func(g graph.Graph) error {
		for _, n := range old {
			if err := endLease(g, n); err != nil {
				return err
			}
		}
		return nil
	})
}
