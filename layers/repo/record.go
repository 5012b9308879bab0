package repo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/layers/archive"
	"github.com/coble-os/coble/layers/blob"
	"github.com/coble-os/coble/layers/catalog"
	"github.com/coble-os/coble/layers/graph"
	"github.com/coble-os/coble/layers/image"
	"github.com/coble-os/coble/layers/record"
)

// Records of layers (package record) lie in ROOT/meta, each named after its
// layer's folder. One is in place before the layer's node is written.

const (
	metaFolder = "meta"
	unfinished = ".new"
)

func (r *Repo) meta() string { return filepath.Join(r.o.Root, metaFolder) }

func (r *Repo) recordPath(id string) string { return filepath.Join(r.meta(), id) }

func (r *Repo) makeMeta() error {
	if err := os.Mkdir(r.meta(), 0o700); err != nil && !os.IsExist(err) {
		return fmt.Errorf("make folder for layers' records: %w", err)
	}
	return nil
}

// unpackRecorded has the driver unpack a plain stream, whose reader checks
// that it is diffID, and keeps its record. On an error nothing is left.
func (r *Repo) unpackRecorded(ctx context.Context, id string, ids []string, plain io.Reader, diffID digest.Digest) (st archive.Stats, err error) {
	f, err := r.newRecord(id)
	if err != nil {
		return st, err
	}
	defer func() {
		countFile(ctx, f)
		f.Close()
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	rec, err := record.NewWriter(f, plain)
	if err != nil {
		return st, err
	}
	if st, err = r.drv.Unpack(ctx, id, ids, rec, r.o.Limits); err != nil {
		return st, fmt.Errorf("unpack: %w", err)
	}
	if err = r.publishRecord(f, rec, id, diffID); err != nil {
		return st, errors.Join(err, r.drop(id))
	}
	return st, nil
}

// newRecord makes the file for a layer's record, which is not in place yet.
func (r *Repo) newRecord(id string) (*os.File, error) {
	f, err := os.OpenFile(r.recordPath(id)+unfinished, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("make layer's record: %w", blob.NoSpace(err))
	}
	return f, nil
}

// countFile counts a file that was written from its beginning as the context's.
func countFile(ctx context.Context, f *os.File) {
	if st, err := f.Stat(); err == nil {
		blob.Wrote(ctx, st.Size())
	}
}

func (r *Repo) publishRecord(f *os.File, rec *record.Writer, id string, diffID digest.Digest) error {
	if err := rec.Finish(diffID); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync layer's record: %w", blob.NoSpace(err))
	}
	return blob.Publish(f.Name(), r.recordPath(id))
}

// drop removes a layer's folder and its record.
func (r *Repo) drop(id string) error {
	err := r.drv.Remove(id)
	if rerr := os.Remove(r.recordPath(id)); rerr != nil && !os.IsNotExist(rerr) {
		err = errors.Join(err, fmt.Errorf("remove layer's record: %w", rerr))
	}
	return err
}

// sweepRecords removes the records that no layer has.
func (r *Repo) sweepRecords(want map[string]bool) error {
	es, err := os.ReadDir(r.meta())
	if err != nil {
		return fmt.Errorf("list layers' records: %w", err)
	}
	for _, e := range es {
		if want[e.Name()] {
			continue
		}
		r.seen(strings.TrimSuffix(e.Name(), unfinished))
		if err := os.Remove(filepath.Join(r.meta(), e.Name())); err != nil {
			return fmt.Errorf("remove layer's record: %w", err)
		}
	}
	return nil
}

// OpenLayer gives the plain tar stream of the layer with that chain id
// exactly as it came in: its digest is the layer's diff id. Contents and the
// whole are checked while they are read; image.ErrDamaged with layer and path
// comes in place of io.EOF. A layer that an older coble unpacked is packed
// anew, and refused with image.ErrDamaged if that is not the same. image.ErrNotFound if
// there is no such layer. The layer stays until the stream is closed.
func (r *Repo) OpenLayer(chain digest.Digest) (io.ReadCloser, error) {
	rc, _, err := r.openLayer(catalog.LayerPrefix + chain.String())
	return rc, err
}

// openLayer is OpenLayer for a node, and tells the stream's length.
func (r *Repo) openLayer(node string) (rc io.ReadCloser, size int64, err error) {
	pins := []string{node}
	r.pin(pins)
	defer func() {
		if err != nil {
			err = errors.Join(err, r.unpin(pins))
		}
	}()
	var l catalog.Layer
	err = r.view(func(g graph.Graph) error {
		if !g.Has(node) {
			return fmt.Errorf("open layer: %w: no layer %s", image.ErrNotFound, strings.TrimPrefix(node, catalog.LayerPrefix))
		}
		return catalog.Load(g, node, &l)
	})
	if err != nil {
		return nil, 0, err
	}
	if bad := r.damage(pins); bad != "" {
		return nil, 0, fmt.Errorf("%w: %s", image.ErrDamaged, bad)
	}
	s := &layerStream{name: fmt.Sprintf("layer %.19s", strings.TrimPrefix(node, catalog.LayerPrefix)), done: func() error { return r.unpin(pins) }}
	if size, err = s.open(r, l); err != nil {
		s.closeFiles()
		return nil, 0, s.explain(err)
	}
	return s, size, nil
}

// layerStream reads a layer with what it needs for that.
type layerStream struct {
	name  string // for errors
	files []io.Closer
	from  io.Reader
	done  func() error
}

func (s *layerStream) open(r *Repo, l catalog.Layer) (int64, error) {
	if l.Place != "" {
		return 0, fmt.Errorf("%w: there is no archive of it; copy the folder with %s", errInPlace, l.Place)
	}
	root, err := r.drv.OpenLayer(l.Folder)
	if err != nil {
		return 0, err
	}
	s.files = append(s.files, root)
	f, err := os.Open(r.recordPath(l.Folder))
	if os.IsNotExist(err) {
		return s.packAnew(r, l, root)
	}
	if err != nil {
		return 0, err
	}
	return s.fromRecord(root, f, l.DiffID, r.temp())
}

// fromRecord has the stream made of a layer's folder and its record, which
// becomes the stream's to close.
func (s *layerStream) fromRecord(root, f *os.File, diffID digest.Digest, temp string) (int64, error) {
	s.files = append(s.files, f)
	rec, err := record.NewReader(f)
	if err != nil {
		return 0, err
	}
	if rec.Info().DiffID != diffID {
		return 0, fmt.Errorf("%w: it is that of another layer", record.ErrBroken)
	}
	stream, err := rec.Stream(func(path string) (io.ReadCloser, error) { return archive.OpenFile(root, path) }, temp)
	if err != nil {
		return 0, err
	}
	s.files = append(s.files, stream)
	s.from = blob.Verify(stream, diffID, rec.Info().Size)
	return rec.Info().Size, nil
}

var errNoRecord = errors.New("an older coble unpacked it and kept no record of how it came; load or pull the image again to be able to give it out")

// packAnew packs a layer without a record into a spool, and checks it
// before anybody sees a byte.
func (s *layerStream) packAnew(r *Repo, l catalog.Layer, root *os.File) (int64, error) {
	if r.drv.Marks() != archive.OverlayMarks {
		return 0, errNoRecord // the folder holds what lies below as well
	}
	f, err := blob.Spool(r.temp())
	if err != nil {
		return 0, err
	}
	s.files = append(s.files, f)
	sum := digest.SHA256.Digester()
	err = archive.Pack(context.Background(), root, ".", io.MultiWriter(f, sum.Hash()), archive.PackOptions{Marks: archive.OverlayMarks})
	if err != nil {
		return 0, blob.NoSpace(err)
	}
	if sum.Digest() != l.DiffID {
		return 0, errNoRecord
	}
	size, err := f.Seek(0, io.SeekCurrent)
	if err != nil {
		return 0, err
	}
	s.from = io.NewSectionReader(f, 0, size)
	return size, nil
}

// Read implements io.Reader.
func (s *layerStream) Read(p []byte) (int, error) {
	n, err := s.from.Read(p)
	if err != nil && err != io.EOF {
		err = s.explain(err)
	}
	return n, err
}

// explain names the layer, and damage as such.
func (s *layerStream) explain(err error) error {
	var bad *record.DamageError
	switch {
	case errors.As(err, &bad), errors.Is(err, record.ErrBroken), errors.Is(err, blob.ErrDigest), errors.Is(err, blob.ErrSize), errors.Is(err, unix.EIO):
		return fmt.Errorf("%w: %s: %w; load or pull the image again", image.ErrDamaged, s.name, err)
	case errors.Is(err, errNoRecord), errors.Is(err, record.ErrInexact), errors.Is(err, errInPlace):
		return fmt.Errorf("%s can't be given out as it came: %w", s.name, err)
	}
	return fmt.Errorf("read %s: %w", s.name, err)
}

func (s *layerStream) closeFiles() error {
	var err error
	for i := len(s.files) - 1; i >= 0; i-- {
		err = errors.Join(err, s.files[i].Close())
	}
	s.files, s.from = nil, closedReader{}
	return err
}

// Close implements io.Closer.
func (s *layerStream) Close() error {
	if s.done == nil {
		return nil
	}
	err := errors.Join(s.closeFiles(), s.done())
	s.done = nil
	return err
}

type closedReader struct{}

func (closedReader) Read([]byte) (int, error) { return 0, os.ErrClosed }
