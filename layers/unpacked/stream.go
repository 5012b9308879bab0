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
	"github.com/coble-os/coble/layers/image"
	"github.com/coble-os/coble/layers/record"
)

// Errors of layers that can't be given out as they came. ErrInPlace is also for
// what would write the layer.
var (
	ErrInPlace  = errors.New("it is used in place, from a file that is its owner's")
	ErrNoRecord = errors.New("an older coble unpacked it and kept no record of how it came; load or pull the image again to be able to give it out")
)

// Stream reads a layer as the plain tar stream that it came from.
type Stream struct {
	name  string // for errors
	files []io.Closer
	from  io.Reader
	size  int64
	done  func() error // nil: closed
}

// Open gives the plain tar stream of a layer exactly as it came in: its digest
// is diffID. Contents and the whole are checked while they are read;
// image.ErrDamaged with name and path comes in place of io.EOF. A layer that an
// older coble unpacked is packed anew, and refused if that is not the same.
// Errors of Open itself are for Explain. done, which is not nil, is called when
// the stream is closed, and not if there is none.
func (s *Layers) Open(id string, diffID digest.Digest, name string, done func() error) (*Stream, error) {
	out := &Stream{name: name, done: done}
	return out.unless(out.open(s, id, diffID))
}

// FromRecord is Open of a layer's folder and its record, which become the
// stream's to close, with spools in temp.
func FromRecord(root, f *os.File, diffID digest.Digest, name, temp string, done func() error) (*Stream, error) {
	out := &Stream{name: name, files: []io.Closer{root}, done: done}
	return out.unless(out.fromRecord(root, f, diffID, temp))
}

// unless gives the stream, or on an error closes what it has.
func (s *Stream) unless(err error) (*Stream, error) {
	if err != nil {
		return nil, errors.Join(err, s.closeFiles())
	}
	return s, nil
}

func (s *Stream) open(ls *Layers, id string, diffID digest.Digest) error {
	root, err := ls.Driver.OpenLayer(id)
	if err != nil {
		return err
	}
	s.files = append(s.files, root)
	f, err := os.Open(ls.RecordPath(id))
	if os.IsNotExist(err) {
		return s.packAnew(ls, diffID, root)
	}
	if err != nil {
		return err
	}
	return s.fromRecord(root, f, diffID, ls.Temp)
}

// fromRecord has the stream made of a layer's folder and its record.
func (s *Stream) fromRecord(root, f *os.File, diffID digest.Digest, temp string) error {
	s.files = append(s.files, f)
	rec, err := record.NewReader(f)
	if err != nil {
		return err
	}
	if rec.Info().DiffID != diffID {
		return fmt.Errorf("%w: it is that of another layer", record.ErrBroken)
	}
	stream, err := rec.Stream(func(path string) (io.ReadCloser, error) { return archive.OpenFile(root, path) }, temp)
	if err != nil {
		return err
	}
	s.files = append(s.files, stream)
	s.size = rec.Info().Size
	s.from = blob.Verify(stream, diffID, s.size)
	return nil
}

// packAnew packs a layer without a record into a spool, and checks it
// before anybody sees a byte.
func (s *Stream) packAnew(ls *Layers, diffID digest.Digest, root *os.File) error {
	if ls.Driver.Marks() != archive.OverlayMarks {
		return ErrNoRecord // the folder holds what lies below as well
	}
	f, err := blob.Spool(ls.Temp)
	if err != nil {
		return err
	}
	s.files = append(s.files, f)
	sum := digest.SHA256.Digester()
	err = archive.Pack(context.Background(), root, ".", io.MultiWriter(f, sum.Hash()), archive.PackOptions{Marks: archive.OverlayMarks})
	if err != nil {
		return blob.NoSpace(err)
	}
	if sum.Digest() != diffID {
		return ErrNoRecord
	}
	if s.size, err = f.Seek(0, io.SeekCurrent); err != nil {
		return err
	}
	s.from = io.NewSectionReader(f, 0, s.size)
	return nil
}

// Explain names the layer that an error is of, and damage as such.
func Explain(name string, err error) error {
	var bad *record.DamageError
	switch {
	case errors.As(err, &bad), errors.Is(err, record.ErrBroken), errors.Is(err, blob.ErrDigest), errors.Is(err, blob.ErrSize), errors.Is(err, unix.EIO):
		return fmt.Errorf("%w: %s: %w; load or pull the image again", image.ErrDamaged, name, err)
	case errors.Is(err, ErrNoRecord), errors.Is(err, record.ErrInexact), errors.Is(err, ErrInPlace):
		return fmt.Errorf("%s can't be given out as it came: %w", name, err)
	}
	return fmt.Errorf("read %s: %w", name, err)
}

// Size is the length of the whole stream in bytes.
func (s *Stream) Size() int64 { return s.size }

// Read implements io.Reader.
func (s *Stream) Read(p []byte) (int, error) {
	n, err := s.from.Read(p)
	if err != nil && err != io.EOF {
		err = Explain(s.name, err)
	}
	return n, err
}

func (s *Stream) closeFiles() error {
	var err error
	for i := len(s.files) - 1; i >= 0; i-- {
		err = errors.Join(err, s.files[i].Close())
	}
	s.files, s.from = nil, closedReader{}
	return err
}

// Close implements io.Closer. A second one does nothing.
func (s *Stream) Close() error {
	if s.done == nil {
		return nil
	}
	err := errors.Join(s.closeFiles(), s.done())
	s.done = nil
	return err
}

type closedReader struct{}

func (closedReader) Read([]byte) (int, error) { return 0, os.ErrClosed }

// GivesOut tells whether a layer's stream can be had from it as it came: it is
// there, and so is its record, which is exact and that of diffID.
func (s *Layers) GivesOut(id string, diffID digest.Digest) bool {
	if !s.Driver.Has(id) {
		return false
	}
	f, err := os.Open(s.RecordPath(id))
	if err != nil {
		return false // an older coble made it
	}
	defer f.Close()
	rec, err := record.NewReader(f)
	return err == nil && rec.Info().Exact && rec.Info().DiffID == diffID
}
