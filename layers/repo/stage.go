package repo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/layers/archive"
	"github.com/coble-os/coble/layers/blob"
	"github.com/coble-os/coble/layers/driver"
	"github.com/coble-os/coble/layers/record"
)

// staged is a layer that is unpacked, with its record, and neither durable
// nor there yet. Whoever has it publishes it or takes it away.
type staged struct {
	id     string // the driver's
	stats  archive.Stats
	blob   digest.Digest // of what it was unpacked from
	diffID digest.Digest
	size   int64 // of the blob
}

// stager is the driver, if it can stage layers; else nil.
func (r *Repo) stager() driver.Stager {
	st, _ := r.drv.(driver.Stager)
	return st
}

// stage unpacks a layer under a new id. through, if not nil, is put between
// the plain stream and its reader. On an error nothing is left.
func (r *Repo) stage(ctx context.Context, plain *blob.Layer, through func(io.Reader) io.Reader) (_ *staged, err error) {
	l := &staged{id: r.folder()}
	f, err := r.newRecord(l.id)
	if err != nil {
		return nil, err
	}
	defer func() {
		countFile(ctx, f)
		f.Close()
		if err != nil {
			err = errors.Join(err, r.unstage(l))
		}
	}()
	var from io.Reader = plain
	if through != nil {
		from = through(plain)
	}
	rec, err := record.NewWriter(f, from)
	if err != nil {
		return nil, err
	}
	if l.stats, err = r.stager().Stage(ctx, l.id, rec, r.o.Limits); err != nil {
		return nil, fmt.Errorf("unpack: %w", err)
	}
	l.blob, l.diffID = plain.Sums()
	return l, rec.Finish(l.diffID)
}

// unstage takes a layer away that was not published, or not to its end.
func (r *Repo) unstage(l *staged) error {
	err := errors.Join(r.stager().Unstage(l.id), r.drop(l.id))
	if rerr := os.Remove(r.recordPath(l.id) + unfinished); rerr != nil && !os.IsNotExist(rerr) {
		err = errors.Join(err, fmt.Errorf("remove layer's record: %w", rerr))
	}
	return err
}

// publish makes staged layers and their records durable, and then there: one
// sync does for all. No node names them yet. On an error the caller takes
// them away.
func (r *Repo) publish(list []*staged) error {
	if err := r.syncMetaApart(); err != nil {
		return err
	}
	var ids []string
	for _, l := range list {
		ids = append(ids, l.id)
	}
	if err := r.stager().Publish(ids...); err != nil {
		return err
	}
	for _, id := range ids {
		if err := os.Rename(r.recordPath(id)+unfinished, r.recordPath(id)); err != nil {
			return fmt.Errorf("publish layer's record: %w", err)
		}
	}
	return blob.SyncDir(r.meta())
}

// syncMetaApart syncs records that the driver's sync does not, because
// something is mounted on its folder.
func (r *Repo) syncMetaApart() error {
	var layers, meta unix.Stat_t
	if err := errors.Join(unix.Stat(r.stager().Root(), &layers), unix.Stat(r.meta(), &meta)); err != nil {
		return fmt.Errorf("look at folders of layers: %w", err)
	}
	if layers.Dev == meta.Dev {
		return nil
	}
	return blob.SyncTree(r.meta())
}
