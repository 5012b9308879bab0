// Package unpacked keeps unpacked layers on disk: for each, the folder that the
// graph driver has of it, and beside that a record of the stream that it came
// from (package record), so that it goes out again byte for byte. A layer here
// is its folder's name; what it is to images, and which of them are wanted, is
// the caller's to know.
//
// A layer that was unpacked is durable before it is there, and its record is in
// place no later than on return; what is taken away loses its folder first.
package unpacked

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/coble-os/coble/layers/archive"
	"github.com/coble-os/coble/layers/blob"
	"github.com/coble-os/coble/layers/driver"
	"github.com/coble-os/coble/layers/record"
)

const (
	metaFolder = "meta" // of records, each named after its layer's folder
	unfinished = ".new"
)

// Layers are those of one driver. Its methods may be called from any goroutine,
// for different layers.
type Layers struct {
	Driver driver.Driver
	Root   string         // records lie in its folder meta
	Temp   string         // folder for spools
	Limits archive.Limits // of one layer; zero values mean archive's defaults
}

// MetaDir is the folder of the records of layers with that root.
func MetaDir(root string) string { return filepath.Join(root, metaFolder) }

func (s *Layers) meta() string { return MetaDir(s.Root) }

// RecordPath is where the record of a layer is.
func (s *Layers) RecordPath(id string) string { return filepath.Join(s.meta(), id) }

// MakeMeta makes the folder for records, if it is missing.
func (s *Layers) MakeMeta() error {
	if err := os.Mkdir(s.meta(), 0o700); err != nil && !os.IsExist(err) {
		return fmt.Errorf("make folder for layers' records: %w", err)
	}
	return nil
}

// Unpack has the driver unpack a plain stream over a stack of layers, lowest
// last, and keeps its record; the stream's reader checks that it is diffID. On
// return the layer is durable. On an error nothing is left.
func (s *Layers) Unpack(ctx context.Context, id string, stack []string, plain io.Reader, diffID digest.Digest) (st archive.Stats, err error) {
	f, err := s.newRecord(id)
	if err != nil {
		return st, err
	}
	defer func() {
		blob.WroteFile(ctx, f)
		f.Close()
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	rec, err := record.NewWriter(f, plain)
	if err != nil {
		return st, err
	}
	if st, err = s.Driver.Unpack(ctx, id, stack, rec, s.Limits); err != nil {
		return st, fmt.Errorf("unpack: %w", err)
	}
	if err = s.publishRecord(f, rec, id, diffID); err != nil {
		return st, errors.Join(err, s.Drop(id))
	}
	return st, nil
}

// newRecord makes the file for a layer's record, which is not in place yet.
func (s *Layers) newRecord(id string) (*os.File, error) {
	f, err := os.OpenFile(s.RecordPath(id)+unfinished, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("make layer's record: %w", blob.NoSpace(err))
	}
	return f, nil
}

func (s *Layers) publishRecord(f *os.File, rec *record.Writer, id string, diffID digest.Digest) error {
	if err := rec.Finish(diffID); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync layer's record: %w", blob.NoSpace(err))
	}
	return blob.Publish(f.Name(), s.RecordPath(id))
}

// Drop removes a layer's folder and its record; what is not there is no error.
func (s *Layers) Drop(id string) error {
	return errors.Join(s.Driver.Remove(id), removeRecord(s.RecordPath(id)))
}

func removeRecord(path string) error {
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("remove layer's record: %w", err)
	}
	return nil
}

// SweepRecords removes the records that no wanted layer has, and tells the ids
// of those.
func (s *Layers) SweepRecords(want map[string]bool, tell func(id string)) error {
	es, err := os.ReadDir(s.meta())
	if err != nil {
		return fmt.Errorf("list layers' records: %w", err)
	}
	for _, e := range es {
		if want[e.Name()] {
			continue
		}
		tell(strings.TrimSuffix(e.Name(), unfinished))
		if err := os.Remove(filepath.Join(s.meta(), e.Name())); err != nil {
			return fmt.Errorf("remove layer's record: %w", err)
		}
	}
	return nil
}
