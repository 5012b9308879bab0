package record

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"

	"github.com/klauspost/compress/gzip"
)

// Reader reads a record. It may be read any number of times, by one
// goroutine at a time.
type Reader struct {
	f    *os.File // the caller's
	info Info
}

// NewReader looks at the header of a record. f stays the caller's. Errors
// wrap ErrBroken.
func NewReader(f *os.File) (*Reader, error) {
	head := make([]byte, headerSize)
	if _, err := f.ReadAt(head, 0); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBroken, err)
	}
	info, err := decode(head)
	return &Reader{f, info}, err
}

// Info is what the header says.
func (r *Reader) Info() Info { return r.info }

// Walk calls fn for every regular file of the layer, in the stream's order.
// Files that a later entry replaced are passed over. If the record is not
// Exact, some of what was replaced may be among them. Errors wrap ErrBroken,
// or are fn's.
func (r *Reader) Walk(fn func(Entry) error) error {
	gone := map[string]int64{} // path: how many files came before it was lost for the last time
	if r.info.Lost > 0 {
		err := r.each(func(it item, n int64) error {
			if it.kind == itemLost {
				gone[it.file.Path] = n
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return r.each(func(it item, n int64) error {
		if it.kind != itemBody && it.kind != itemKept || n <= gone[it.file.Path] {
			return nil
		}
		return fn(it.file)
	})
}

// each calls fn for every item, with the number of files up to and including
// it.
func (r *Reader) each(fn func(item, int64) error) error {
	it, err := r.items()
	if err != nil {
		return err
	}
	defer it.close()
	for files := int64(0); ; {
		i, err := it.next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if i.kind == itemBody || i.kind == itemKept {
			files++
		}
		if err := fn(i, files); err != nil {
			return err
		}
	}
}

// item is one item; body are its bytes, valid until the next one.
type item struct {
	kind byte
	file Entry
	body io.Reader
}

type items struct {
	z    *gzip.Reader
	r    *bufio.Reader
	body io.LimitedReader
}

func (r *Reader) items() (*items, error) {
	st, err := r.f.Stat()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBroken, err)
	}
	z, err := gzip.NewReader(io.NewSectionReader(r.f, headerSize, st.Size()-headerSize))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBroken, err)
	}
	return &items{z: z, r: bufio.NewReaderSize(packed{z}, 32<<10)}, nil
}

// packed says of errors of unpacking what they mean.
type packed struct{ z *gzip.Reader }

func (p packed) Read(b []byte) (int, error) {
	n, err := p.z.Read(b)
	if err != nil && err != io.EOF {
		err = broken(err)
	}
	return n, err
}

func (s *items) close() { s.z.Close() }

// next gives the next item, and io.EOF after the last one.
func (s *items) next() (item, error) {
	if s.body.N > 0 {
		if _, err := io.Copy(io.Discard, &s.body); err != nil {
			return item{}, broken(err)
		}
		if s.body.N > 0 {
			return item{}, broken(io.EOF)
		}
	}
	kind, err := s.r.ReadByte()
	if err != nil {
		return item{}, broken(err)
	}
	it := item{kind: kind}
	size := uint64(0)
	switch kind {
	case itemRaw:
		size, err = binary.ReadUvarint(s.r)
	case itemBody, itemKept:
		it.file, err = s.file()
	case itemLost:
		if it.file, err = s.file(); err == nil {
			size, err = binary.ReadUvarint(s.r)
		}
	case itemEnd:
		// What may follow is the stream's own check.
		if n, err := io.Copy(io.Discard, s.r); err != nil || n > 0 {
			return item{}, fmt.Errorf("%w: bytes after its end: %w", ErrBroken, err)
		}
		return item{}, io.EOF
	default:
		return item{}, fmt.Errorf("%w: item of unknown kind %q", ErrBroken, kind)
	}
	if err != nil {
		return item{}, broken(err)
	}
	if int64(size) < 0 {
		return item{}, fmt.Errorf("%w: item of %d bytes", ErrBroken, size)
	}
	s.body = io.LimitedReader{R: s.r, N: int64(size)}
	it.body = &s.body
	return it, nil
}

func (s *items) file() (f Entry, err error) {
	n, err := binary.ReadUvarint(s.r)
	if err != nil {
		return f, err
	}
	if n > maxPath {
		return f, fmt.Errorf("path of %d bytes", n)
	}
	path := make([]byte, n)
	if _, err := io.ReadFull(s.r, path); err != nil {
		return f, err
	}
	size, err := binary.ReadUvarint(s.r)
	if err != nil {
		return f, err
	}
	f.Path, f.Size = string(path), int64(size)
	if f.Size < 0 {
		return f, fmt.Errorf("file of %d bytes", size)
	}
	_, err = io.ReadFull(s.r, f.SHA256[:])
	return f, err
}

func broken(err error) error {
	if errors.Is(err, ErrBroken) {
		return err
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("%w: %w", ErrBroken, err)
}

func isSum(h hash.Hash, want [sha256.Size]byte) bool {
	var got [sha256.Size]byte
	h.Sum(got[:0])
	return got == want
}
