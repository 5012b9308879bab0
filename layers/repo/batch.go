package repo

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/coble-os/coble/layers/blob"
	"github.com/coble-os/coble/layers/catalog"
	"github.com/coble-os/coble/layers/source"
	"github.com/coble-os/coble/layers/unpacked"
)

// batch makes the missing layers of one image present. With a driver that can
// stage them they are unpacked one after the other, and then become durable
// and there together. Until then the layers are the batch's own, and others
// that want them wait; since all take them from the lowest up, nobody waits
// for who waits for them.
type batch struct {
	r *Repo

	mu      sync.Mutex // held while layers become there
	held    []string   // layers that are claimed; guarded by mu
	pending []pending  // guarded by mu
	since   time.Time  // when the first of pending was finished; guarded by mu
}

type pending struct {
	job   layerJob
	layer *unpacked.Staged
}

// taker is a source whose layers may be unpacked already. take gives the
// job's, which is the batch's then; nil if it is to be opened.
type taker interface {
	take(ctx context.Context, b *batch, j layerJob) (*unpacked.Staged, error)
}

// ensureLayer makes one layer present. It tells whether it was missing.
func (r *Repo) ensureLayer(ctx context.Context, s source.Source, j layerJob) (made bool, err error) {
	b := &batch{r: r}
	defer func() { err = errors.Join(err, b.close()) }()
	if made, err = b.ensure(ctx, s, j); err != nil {
		return made, err
	}
	return made, b.publish()
}

// ensure makes a layer unless it is here; those below it went before. When two
// loads want the same layer, the second waits for the first. What is made is
// there after publish at the latest.
func (b *batch) ensure(ctx context.Context, s source.Source, j layerJob) (made bool, err error) {
	if err := b.claim(ctx, j.node()); err != nil {
		return false, err
	}
	have, err := b.r.haveLayer(j.node())
	if err == nil && have {
		j.tell(Present, 0, 0)
	}
	if err != nil || have {
		b.release(j.node())
		return false, err
	}
	if !b.r.disk.Stages() || j.from.Format != "" {
		if err = b.publish(); err == nil { // it stands on them
			err = b.r.makeLayer(ctx, s, j)
		}
		b.release(j.node())
		if err == nil && j.made != nil {
			err = j.made()
		}
		return true, err
	}
	l, err := b.stage(ctx, s, j)
	if err != nil {
		b.release(j.node())
		return true, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.pending) == 0 {
		b.since = time.Now()
	}
	b.pending = append(b.pending, pending{j, l})
	return true, nil
}

func (b *batch) claim(ctx context.Context, node string) error {
	for {
		wait := b.r.claim(node)
		if wait == nil {
			b.mu.Lock()
			b.held = append(b.held, node)
			b.mu.Unlock()
			return nil
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (b *batch) release(node string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.letGo(node)
}

// letGo is release with mu held.
func (b *batch) letGo(node string) {
	b.r.release(node)
	b.held = slices.DeleteFunc(b.held, func(n string) bool { return n == node })
}

// stage takes what was unpacked as it came past, or unpacks the layer.
func (b *batch) stage(ctx context.Context, s source.Source, j layerJob) (l *unpacked.Staged, err error) {
	if t, ok := s.(taker); ok {
		if l, err := t.take(ctx, b, j); l != nil || err != nil {
			return l, err
		}
	}
	size, err := b.r.openJob(ctx, s, j, func(plain *blob.Layer) error {
		l, err = b.r.disk.Stage(ctx, b.r.folder(), plain, nil)
		return err
	})
	if err == nil {
		l.Size = size
	}
	return l, err
}

// publish makes what is pending durable, and then there.
func (b *batch) publish() error { return b.publishAged(0) }

// publishAged does so if the first of it has waited for so long.
func (b *batch) publishAged(age time.Duration) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.pending) == 0 || time.Since(b.since) < age {
		return nil
	}
	var layers []*unpacked.Staged
	var jobs []layerJob
	var nodes []catalog.Layer
	for _, p := range b.pending {
		layers, jobs = append(layers, p.layer), append(jobs, p.job)
		st := p.layer.Stats
		nodes = append(nodes, catalog.Layer{Driver: b.r.drv.Name(), Folder: p.layer.ID, DiffID: p.job.diffID, Size: st.Bytes, Files: st.Files, Entries: st.Entries})
	}
	if err := b.r.disk.Publish(layers); err != nil {
		return err
	}
	old, err := b.r.recordLayers(jobs, nodes)
	if err != nil {
		return err
	}
	b.pending = nil
	for i, j := range jobs {
		b.letGo(j.node())
		j.tell(Done, layers[i].Size, layers[i].Size)
		if j.made != nil {
			err = errors.Join(err, j.made())
		}
	}
	return errors.Join(err, b.r.dropAll(old))
}

// close takes away what was not published.
func (b *batch) close() (err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, p := range b.pending {
		err = errors.Join(err, b.r.disk.Unstage(p.layer))
	}
	b.pending = nil
	for _, n := range slices.Clone(b.held) {
		b.letGo(n)
	}
	return err
}
