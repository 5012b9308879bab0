package repo

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"

	"github.com/coble-os/coble/layers/archive"
	"github.com/coble-os/coble/layers/blob"
	"github.com/coble-os/coble/layers/graph"
)

// layerJob is one layer to be made present.
type layerJob struct {
	nodes    []string // the layer's own node last, those below it before
	from     layerSource
	diffID   digest.Digest
	of       int
	progress func(Progress)
	lease    string // node that keeps the layer once it is made; empty: none
}

func (j layerJob) node() string { return j.nodes[len(j.nodes)-1] }

func (j layerJob) tell(st Status, current, total int64) {
	j.progress(Progress{Layer: j.diffID, Index: len(j.nodes), Layers: j.of, Status: st, Current: current, Total: total})
}

// ensureLayer unpacks a layer unless it is here. When two loads want the same
// layer, the second waits for the first.
func (r *Repo) ensureLayer(ctx context.Context, s source, j layerJob) (made bool, err error) {
	for {
		wait := r.claim(j.node())
		if wait == nil {
			break
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return false, context.Cause(ctx)
		}
	}
	defer r.release(j.node())
	have, err := r.haveLayer(j.node())
	if err != nil {
		return false, err
	}
	if have {
		j.tell(Present, 0, 0)
		return false, nil
	}
	return true, r.makeLayer(ctx, s, j)
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
		var l layerNode
		if err := load(g, node, &l); err != nil {
			return err
		}
		have = r.drv.Has(l.Folder)
		return nil
	})
	return have, err
}

// makeLayer unpacks a layer and writes its node.
func (r *Repo) makeLayer(ctx context.Context, s source, j layerJob) error {
	below := ""
	var ids []string
	var err error
	if len(j.nodes) > 1 {
		below = j.nodes[len(j.nodes)-2]
		err = r.view(func(g graph.Graph) error {
			layers, err := stack(g, below)
			if err == nil {
				ids, err = folders(g, layers)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	l := layerNode{Driver: r.drv.Name(), Folder: r.folder(), DiffID: j.diffID}
	if j.from.format != "" {
		l.Place, l.Size, err = r.adopt(ctx, s, j, l.Folder)
	} else {
		var st archive.Stats
		st, err = r.unpack(ctx, s, j, l.Folder, ids)
		l.Size, l.Files, l.Entries = st.Bytes, st.Files, st.Entries
	}
	if err != nil {
		return err
	}
	old, err := r.recordLayer(j, below, l)
	if err != nil {
		return errors.Join(err, r.drop(l.Folder))
	}
	r.mu.Lock()
	delete(r.missing, j.node())
	r.mu.Unlock()
	if old == "" {
		return nil
	}
	return r.drop(old) // another driver's folder is not touched, only the record
}

// recordLayer writes a layer's node, and gives the folder that it had
// before, if the layer was damaged.
func (r *Repo) recordLayer(j layerJob, below string, l layerNode) (old string, err error) {
	node := j.node()
	err = r.update(func(g graph.Graph) error {
		old = ""
		var before layerNode
		if g.Has(node) && load(g, node, &before) == nil {
			old = before.Folder
		}
		if err := store(g, node, l); err != nil {
			return err
		}
		if below != "" {
			if err := g.LinkAcyclic(graph.Edge{From: node, Kind: kindParent, To: below}); err != nil {
				return err
			}
		}
		if j.lease == "" {
			return nil
		}
		return keep(g, j.lease, node)
	})
	return old, err
}

func (r *Repo) unpack(ctx context.Context, s source, j layerJob, id string, ids []string) (archive.Stats, error) {
	rc, size, err := s.open(j.from.name)
	if err != nil {
		return archive.Stats{}, err
	}
	defer rc.Close()
	if j.from.size >= 0 && size != j.from.size {
		return archive.Stats{}, fmt.Errorf("%w: %d bytes where %d were announced", blob.ErrSize, size, j.from.size)
	}
	// What it unpacks to is hardly ever smaller.
	if err := r.room(size); err != nil {
		return archive.Stats{}, err
	}
	counted := &counter{r: blob.WithContext(ctx, rc), tell: func(n int64) { j.tell(Unpacking, n, size) }}
	plain, err := blob.OpenLayer(counted, j.from.digest, j.from.size, j.diffID)
	if err != nil {
		return archive.Stats{}, err
	}
	st, err := r.unpackRecorded(ctx, id, ids, plain, j.diffID)
	plain.Close()
	if err != nil {
		return st, err
	}
	j.tell(Done, size, size)
	return st, nil
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
