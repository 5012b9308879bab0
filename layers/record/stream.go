package record

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Open opens a file of the layer for reading. The path is an Entry's.
type Open func(path string) (io.ReadCloser, error)

// Stream makes the plain tar stream again. Contents are asked of open, and
// each is compared with its digest while it is read: *DamageError where it
// differs. What a later entry replaced comes from the record, by way of a
// nameless file in the folder temp, if there is any. ErrInexact if the
// record is not Exact. Digest and size of the whole are not checked here.
//
// Closing the stream frees what it holds; the record's file stays open.
func (r *Reader) Stream(open Open, temp string) (io.ReadCloser, error) {
	if !r.info.Exact {
		return nil, ErrInexact
	}
	s := &stream{open: open, sum: sha256.New()}
	if r.info.Lost > 0 {
		if err := s.spool(r, temp); err != nil {
			s.Close()
			return nil, err
		}
	}
	it, err := r.items()
	if err != nil {
		s.Close()
		return nil, err
	}
	s.items = it
	return s, nil
}

type span struct{ at, size int64 }

type stream struct {
	items *items
	open  Open
	lost  map[[sha256.Size]byte]span // in file
	file  *os.File                   // contents that are in no file of the layer; owned; may be nil

	raw  io.Reader // of the item at hand; nil: the next one
	body *body     // a file's content at hand
	sum  hash.Hash
	err  error
}

// spool puts the lost contents where they can be read in any order.
func (s *stream) spool(r *Reader, temp string) error {
	f, err := os.CreateTemp(temp, "spool-")
	if err != nil {
		return fmt.Errorf("make spool: %w", err)
	}
	s.file, s.lost = f, map[[sha256.Size]byte]span{}
	if err := os.Remove(f.Name()); err != nil {
		return fmt.Errorf("unlink spool: %w", err)
	}
	at := int64(0)
	return r.each(func(it item, _ int64) error {
		if it.kind != itemLost {
			return nil
		}
		n, err := io.Copy(f, it.body)
		if err != nil {
			return fmt.Errorf("spool replaced files: %w", err)
		}
		if n > 0 {
			s.lost[it.file.SHA256] = span{at, n}
		}
		at += n
		return nil
	})
}

// Read implements io.Reader.
func (s *stream) Read(p []byte) (int, error) {
	for s.err == nil && len(p) > 0 {
		n := 0
		switch {
		case s.body != nil:
			n, s.err = s.body.read(p)
			if s.err == io.EOF {
				s.err, s.body = nil, nil
			}
		case s.raw != nil:
			n, s.err = s.raw.Read(p)
			if s.err == io.EOF {
				s.err, s.raw = nil, nil // cut short: items says so
			}
		default:
			s.err = s.advance()
		}
		if n > 0 {
			return n, nil
		}
	}
	return 0, s.err
}

func (s *stream) advance() error {
	it, err := s.items.next()
	if err != nil {
		return err
	}
	switch it.kind {
	case itemRaw:
		s.raw = it.body
	case itemBody:
		if it.file.Size > 0 {
			s.body, err = s.content(it.file)
		}
	}
	return err
}

func (s *stream) content(e Entry) (*body, error) {
	s.sum.Reset()
	b := &body{e: e, left: e.Size, sum: s.sum}
	if at, ok := s.lost[e.SHA256]; ok && at.size == e.Size {
		b.r = io.NopCloser(io.NewSectionReader(s.file, at.at, at.size))
		return b, nil
	}
	r, err := s.open(e.Path)
	if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ENOMEM) {
		return nil, fmt.Errorf("file %s: %w", e.Path, err) // says nothing about the file
	}
	if err != nil {
		return nil, &DamageError{e.Path, err.Error()}
	}
	b.r = r
	return b, nil
}

// Close implements io.Closer.
func (s *stream) Close() error {
	if s.err == nil || s.err == io.EOF {
		s.err = os.ErrClosed
	}
	if s.body != nil {
		s.body.r.Close()
		s.body = nil
	}
	if s.items != nil {
		s.items.close()
		s.items = nil
	}
	if s.file != nil {
		s.file.Close()
		s.file = nil
	}
	return nil
}

// body is a file's content being read.
type body struct {
	e    Entry
	r    io.ReadCloser // owned
	left int64
	sum  hash.Hash
}

// read gives io.EOF once the file was read to its end and was whole.
func (b *body) read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, b.finish()
	}
	n, err := b.r.Read(p[:min(int64(len(p)), b.left)])
	b.sum.Write(p[:n])
	b.left -= int64(n)
	if err == io.EOF && b.left > 0 {
		b.r.Close()
		return n, &DamageError{b.e.Path, fmt.Sprintf("it has %d bytes, not %d", b.e.Size-b.left, b.e.Size)}
	}
	if err != nil && err != io.EOF {
		b.r.Close()
		return n, &DamageError{b.e.Path, err.Error()}
	}
	return n, nil
}

func (b *body) finish() error {
	defer b.r.Close()
	var one [1]byte
	if n, _ := b.r.Read(one[:]); n > 0 {
		return &DamageError{b.e.Path, fmt.Sprintf("it has more than %d bytes", b.e.Size)}
	}
	if !isSum(b.sum, b.e.SHA256) {
		return &DamageError{b.e.Path, "its content has changed"}
	}
	return io.EOF
}
