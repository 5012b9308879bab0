package repo

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"

	"github.com/coble-os/coble/layers/archive"
	"github.com/coble-os/coble/layers/blob"
	"github.com/coble-os/coble/layers/catalog"
	"github.com/coble-os/coble/layers/graph"
	"github.com/coble-os/coble/layers/source"
)

// layerJob is one layer to be made present.
type layerJob struct {
	nodes    []string // the layer's own node last, those below it before
	from     source.Layer
	diffID   digest.Digest
	of       int
	progress func(Progress)
	lease    string       // node that keeps the layer once it is made; empty: none
	made     func() error // called when the layer was made and is durable; may be nil
}

func (j layerJob) node() string { return j.nodes[len(j.nodes)-1] }

// below is the node of the layer below; empty for the lowest.
func (j layerJob) below() string {
	if len(j.nodes) < 2 {
		return ""
	}
	return j.nodes[len(j.nodes)-2]
}

func (j layerJob) tell(st Status, current, total int64) {
	j.progress(Progress{Layer: j.diffID, Index: len(j.nodes), Layers: j.of, Status: st, Current: current, Total: total})
}

// claim gives nil if the layer is now the caller's to make, else a channel
// that is closed when whoever makes it has finished.
func (r *Repo) claim(node string) <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c, busy := r.making[node]; busy {
		return c
	}
	r.making[node] = make(chan struct{})
	return nil
}

func (r *Repo) release(node string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	close(r.making[node])
	delete(r.making, node)
}

// haveLayer tells whether the layer is in the store and on disk.
func (r *Repo) haveLayer(node string) (bool, error) {
	r.mu.Lock()
	_, bad := r.missing[node]
	r.mu.Unlock()
	if bad {
		return false, nil
	}
	have := false
	err := r.view(func(g graph.Graph) error {
		if !g.Has(node) {
			return nil
		}
		var l catalog.Layer
		if err := catalog.Load(g, node, &l); err != nil {
			return err
		}
		have = r.drv.Has(l.Folder)
		return nil
	})
	return have, err
}

// makeLayer unpacks a layer and writes its node: with a driver that stacks,
// or in place.
func (r *Repo) makeLayer(ctx context.Context, s source.Source, j layerJob) error {
	var ids []string
	if below := j.below(); below != "" {
		err := r.view(func(g graph.Graph) error {
			layers, err := catalog.Stack(g, below)
			if err == nil {
				ids, err = catalog.Folders(g, layers)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	l := catalog.Layer{Driver: r.drv.Name(), Folder: r.folder(), DiffID: j.diffID}
	var err error
	if j.from.Format != "" {
		l.Place, l.Size, err = r.adopt(ctx, s, j, l.Folder)
	} else {
		var st archive.Stats
		st, err = r.unpack(ctx, s, j, l.Folder, ids)
		l.Size, l.Files, l.Entries = st.Bytes, st.Files, st.Entries
	}
	if err != nil {
		return err
	}
	old, err := r.recordLayers([]layerJob{j}, []catalog.Layer{l})
	if err != nil {
		return errors.Join(err, r.disk.Drop(l.Folder))
	}
	return r.dropAll(old)
}

// recordLayers writes the nodes of layers, in order from the lowest, in one
// transaction, and gives the folders that those had before that were damaged.
func (r *Repo) recordLayers(jobs []layerJob, layers []catalog.Layer) (old []string, err error) {
	err = r.update(func(g graph.Graph) error {
		old = nil
		for i, j := range jobs {
			var before catalog.Layer
			if g.Has(j.node()) && catalog.Load(g, j.node(), &before) == nil {
				old = append(old, before.Folder)
			}
			if err := recordLayer(g, j, layers[i]); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, j := range jobs {
		delete(r.missing, j.node())
	}
	return old, nil
}

// dropAll removes layers. Another driver's folder is not touched, only the
// record.
func (r *Repo) dropAll(ids []string) (err error) {
	for _, id := range ids {
		err = errors.Join(err, r.disk.Drop(id))
	}
	return err
}

func recordLayer(g graph.Graph, j layerJob, l catalog.Layer) error {
	node := j.node()
	if err := catalog.Store(g, node, l); err != nil {
		return err
	}
	if below := j.below(); below != "" {
		if err := g.LinkAcyclic(graph.Edge{From: node, Kind: catalog.KindParent, To: below}); err != nil {
			return err
		}
	}
	if j.lease == "" {
		return nil
	}
	return keep(g, j.lease, node)
}

func (r *Repo) unpack(ctx context.Context, s source.Source, j layerJob, id string, ids []string) (st archive.Stats, err error) {
	size, err := r.openJob(ctx, s, j, func(plain *blob.Layer) error {
		st, err = r.disk.Unpack(ctx, id, ids, plain, j.diffID)
		return err
	})
	if err == nil {
		j.tell(Done, size, size)
	}
	return st, err
}

// openJob gives a layer's stream out of its source to do, tells how far it is,
// and gives the size of its blob.
func (r *Repo) openJob(ctx context.Context, s source.Source, j layerJob, do func(*blob.Layer) error) (size int64, err error) {
	rc, size, err := s.Open(j.from.Name)
	if err != nil {
		return 0, err
	}
	defer rc.Close()
	if j.from.Size >= 0 && size != j.from.Size {
		return 0, fmt.Errorf("%w: %d bytes where %d were announced", blob.ErrSize, size, j.from.Size)
	}
	// What it unpacks to is hardly ever smaller.
	if err := r.layerRoom(size); err != nil {
		return 0, err
	}
	counted := &counter{r: blob.WithContext(ctx, rc), tell: func(n int64) { j.tell(Unpacking, n, size) }}
	plain, err := blob.OpenLayer(counted, j.from.Digest, j.from.Size, j.diffID)
	if err != nil {
		return 0, err
	}
	defer plain.Close()
	return size, do(plain)
}

// counter reports how much was read, every few MiB.
type counter struct {
	r       io.Reader
	n, last int64
	tell    func(int64)
}

const reportEvery = 4 << 20

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	if c.n-c.last >= reportEvery {
		c.last = c.n
		c.tell(c.n)
	}
	return n, err
}
