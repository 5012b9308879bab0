package unpacked

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

// Staged is a layer that is unpacked, with its record, and neither durable
// nor there yet. Whoever has it publishes it or takes it away.
type Staged struct {
	ID     string // the driver's
	Stats  archive.Stats
	Blob   digest.Digest // of what it was unpacked from
	DiffID digest.Digest
	Size   int64 // of the blob, in bytes; the caller's to set
}

// Stages tells whether the driver can stage layers. Without, there is only
// Unpack.
func (s *Layers) Stages() bool { return s.stager() != nil }

// stager is the driver, if it can stage layers; else nil.
func (s *Layers) stager() driver.Stager {
	st, _ := s.Driver.(driver.Stager)
	return st
}

// Stage unpacks a layer under an id that none has. through, if not nil, is put
// between the plain stream and its reader. On an error nothing is left.
func (s *Layers) Stage(ctx context.Context, id string, plain *blob.Layer, through func(io.Reader) io.Reader) (_ *Staged, err error) {
	l := &Staged{ID: id}
	f, err := s.newRecord(l.ID)
	if err != nil {
		return nil, err
	}
	defer func() {
		blob.WroteFile(ctx, f)
		f.Close()
		if err != nil {
			err = errors.Join(err, s.Unstage(l))
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
	if l.Stats, err = s.stager().Stage(ctx, l.ID, rec, s.Limits); err != nil {
		return nil, fmt.Errorf("unpack: %w", err)
	}
	l.Blob, l.DiffID = plain.Sums()
	return l, rec.Finish(l.DiffID)
}

// Unstage takes a layer away that was not published, or not to its end.
func (s *Layers) Unstage(l *Staged) error {
	return errors.Join(s.stager().Unstage(l.ID), s.Drop(l.ID), removeRecord(s.RecordPath(l.ID)+unfinished))
}

// Publish makes staged layers and their records durable, and then there: one
// sync does for all. Nothing names them yet. On an error the caller takes
// them away.
func (s *Layers) Publish(list []*Staged) error {
	if err := s.syncMetaApart(); err != nil {
		return err
	}
	var ids []string
	for _, l := range list {
		ids = append(ids, l.ID)
	}
	if err := s.stager().Publish(ids...); err != nil {
		return err
	}
	for _, id := range ids {
		if err := os.Rename(s.RecordPath(id)+unfinished, s.RecordPath(id)); err != nil {
			return fmt.Errorf("publish layer's record: %w", err)
		}
	}
	return blob.SyncDir(s.meta())
}

// syncMetaApart syncs records that the driver's sync does not, because
// something is mounted on its folder.
func (s *Layers) syncMetaApart() error {
	var layers, meta unix.Stat_t
	if err := errors.Join(unix.Stat(s.stager().Root(), &layers), unix.Stat(s.meta(), &meta)); err != nil {
		return fmt.Errorf("look at folders of layers: %w", err)
	}
	if layers.Dev == meta.Dev {
		return nil
	}
	return blob.SyncTree(s.meta())
}
