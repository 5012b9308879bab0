package repo

import (
	"context"
	"errors"
	"io"
	"slices"
	"time"

	"go.etcd.io/bbolt"

	"github.com/opencontainers/go-digest"

	"github.com/coble-os/coble/layers/blob"
	"github.com/coble-os/coble/layers/blobinfo"
	"github.com/coble-os/coble/layers/catalog"
	"github.com/coble-os/coble/layers/distribution"
	"github.com/coble-os/coble/layers/graph"
	"github.com/coble-os/coble/layers/image"
	"github.com/coble-os/coble/layers/source"
)

// Distribution is the repository's exchange with registries.
func (r *Repo) Distribution() *distribution.Local { return r.exchange }

// shelf is the repository as a distribution.Store.
type shelf struct{ r *Repo }

func (s *shelf) Get(nameOrID string) (image.Image, error)             { return s.r.Get(nameOrID) }
func (s *shelf) List() ([]image.Image, error)                         { return s.r.List() }
func (s *shelf) OpenLayer(chain digest.Digest) (io.ReadCloser, error) { return s.r.OpenLayer(chain) }

// Hold implements distribution.Store.
func (s *shelf) Hold(img image.Image, do func() error) error {
	return s.r.withLayers(source.Recipe{Image: img}, func([]string) error { return do() })
}

// Receive implements distribution.Store. Until the image is recorded, a lease
// keeps the layers that are finished.
func (s *shelf) Receive(in *distribution.Incoming, bring func(distribution.Arrival) error) error {
	r := s.r
	lease := leasePrefix + in.Recipe.Image.ID.String()
	return r.withLayers(in.Recipe, func(nodes []string) error {
		err := bring(&arrival{r, &batch{r: r}, &in.Recipe, nodes, lease})
		if errors.Is(err, blob.ErrNoSpace) {
			err = errors.Join(err, r.update(func(g graph.Graph) error { return endLease(g, lease) }))
		}
		if err != nil {
			return err
		}
		return r.recordPulled(in, nodes)
	}, lease)
}

// withLayers keeps an image's layers, and more nodes, from being collected
// meanwhile.
func (r *Repo) withLayers(rc source.Recipe, do func(nodes []string) error, more ...string) error {
	nodes := catalog.LayerNodes(rc.Image.RootFS)
	return r.hold(slices.Concat(nodes, more), func() error { return do(nodes) })
}

// arrival is a batch of layers as a distribution.Arrival.
type arrival struct {
	r     *Repo
	b     *batch
	rc    *source.Recipe
	nodes []string
	lease string
}

func (a *arrival) Have(layer int) (bool, error)    { return a.r.haveLayer(a.nodes[layer]) }
func (a *arrival) Room(bytes int64) error          { return a.r.room(bytes) }
func (a *arrival) FreeUp() bool                    { return a.r.freed() }
func (a *arrival) Publish(age time.Duration) error { return a.b.publishAged(age) }
func (a *arrival) Close() error                    { return a.b.close() }

// Layer implements distribution.Arrival.
func (a *arrival) Layer(ctx context.Context, layer int, from source.Source, tell distribution.Making, made func() error) (missing bool, err error) {
	return a.b.ensure(ctx, from, layerJob{
		lease: a.lease, nodes: a.nodes[:layer+1], from: a.rc.Layers[layer], diffID: a.rc.Image.RootFS[layer], of: len(a.rc.Layers), made: made,
		progress: func(pr Progress) {
			switch pr.Status {
			case Present:
				tell.Present()
			case Unpacking:
				tell.Unpacking(pr.Current, pr.Total)
			case Done:
				tell.Done()
			}
		},
	})
}

// recordPulled writes all that a pull brought, in one transaction.
func (r *Repo) recordPulled(in *distribution.Incoming, nodes []string) error {
	rc := in.Recipe
	node, lease := catalog.ImagePrefix+rc.Image.ID.String(), leasePrefix+rc.Image.ID.String()
	leased := false
	if err := r.view(func(g graph.Graph) error { leased = g.Has(lease); return nil }); err != nil {
		return err
	}
	if old, err := r.blobs.Manifest(rc.Image.ID); err == nil && old.Digest == in.Manifest.Digest && !leased && r.recorded(rc, node) {
		return nil // flash wears out
	}
	return r.o.DB.Update(func(tx *bbolt.Tx) error {
		g, err := catalog.Open(tx)
		if err != nil {
			return err
		}
		if err := putImage(g, rc, nodes); err != nil {
			return err
		}
		if err := endLease(g, lease); err != nil {
			return err
		}
		for i, b := range in.Blobs {
			if err := blobinfo.Learn(tx, rc.Image.RootFS[i], b); err != nil {
				return err
			}
		}
		return blobinfo.SetManifest(tx, rc.Image.ID, in.Manifest)
	})
}

// RecordPush implements distribution.Store.
func (s *shelf) RecordPush(p *distribution.Sent) error {
	node := catalog.ImagePrefix + p.Image.ID.String()
	return s.r.o.DB.Update(func(tx *bbolt.Tx) error {
		g, err := catalog.Open(tx)
		if err != nil {
			return err
		}
		if g.Has(node) {
			if err := catalog.SetName(g, p.By, node); err != nil {
				return err
			}
		}
		for i, b := range p.Blobs {
			if err := blobinfo.Learn(tx, p.Image.RootFS[i], b); err != nil {
				return err
			}
		}
		if p.Known {
			return nil
		}
		return blobinfo.SetManifest(tx, p.Image.ID, p.Manifest)
	})
}
