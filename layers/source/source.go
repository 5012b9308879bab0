// Package source reads archives of images, docker-archives and OCI layouts, as a tar file or a folder: which files there are, and
// which images they make (Recipes). It checks what it reads of manifests and configurations, and touches no layer.
package source

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"

	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/layers/archive"
	"github.com/coble-os/coble/layers/blob"
	"github.com/coble-os/coble/layers/image"
)

// Limits of an archive of images, as opposed to those of a layer.
const (
	maxMembers  = 65536    // files in it
	MaxInMemory = 16 << 20 // bytes of small files that a look ahead keeps
)

// Source is where the files of an archive are read from, by name, in any
// order.
type Source interface {
	// Open gives a file and its size. ErrMember if there is none.
	Open(name string) (io.ReadCloser, int64, error)
	Has(name string) bool
	Close() error
}

var ErrMember = errors.New("missing in the archive")

// small reads a whole manifest or configuration.
func small(s Source, name string) ([]byte, error) {
	rc, size, err := s.Open(name)
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	raw, err := blob.ReadSmall(rc, "", size, image.MaxJSON)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return raw, nil
}

// Folder is an OCI layout as a folder. os.Root keeps links in it.
type Folder struct{ Root *os.Root }

// Open implements Source.
func (s Folder) Open(name string) (io.ReadCloser, int64, error) {
	f, err := s.Root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, 0, fmt.Errorf("%s: %w", name, ErrMember)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("open %s: %w", name, err)
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("open %s: %w: it is no regular file", name, image.ErrInvalid)
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, st.Size(), nil
}

// Has implements Source.
func (s Folder) Has(name string) bool { _, err := s.Root.Stat(name); return err == nil }

// Close implements Source.
func (s Folder) Close() error { return s.Root.Close() }

// Tar is a tar archive whose members are read from a file, the archive
// itself or another one, or from memory.
type Tar struct {
	Spool   *os.File           // nil if all are in memory; closed with it
	Members map[string]*Member // by clean name
}

// Member is one file of an archive; links are one too.
type Member struct {
	Offset, Size int64  // in the file
	Raw          []byte // its content, if that is in memory
	Passed       bool   // it is neither there nor in the file: somebody has seen it come past
	link         string // name of another member
}

// NewTar is one without members, for Add.
func NewTar() *Tar { return &Tar{Members: map[string]*Member{}} }

// maxLinks is how many links of a tar file are followed for one name.
const maxLinks = 8

// Index reads all headers of a plain tar file; f becomes the source's.
func Index(ctx context.Context, f *os.File) (*Tar, error) {
	s := &Tar{Spool: f, Members: map[string]*Member{}}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, fmt.Errorf("read archive: %w", err)
	}
	end, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read archive: %w", err)
	}
	err = Each(ctx, f, func(h *tar.Header, _ io.Reader) error {
		at, err := f.Seek(0, io.SeekCurrent)
		if err != nil {
			return err
		}
		if h.Typeflag == tar.TypeReg && at+h.Size > end.Size() {
			return fmt.Errorf("%w: %s ends too early", archive.ErrBroken, h.Name)
		}
		s.Add(h, &Member{Offset: at, Size: h.Size})
		return nil
	})
	return s, err
}

// Add puts a member in place of one of the same name, which it returns; m is
// for regular files.
func (s *Tar) Add(h *tar.Header, m *Member) (before *Member) {
	name := path.Clean(h.Name)
	before = s.Members[name]
	switch h.Typeflag {
	case tar.TypeReg:
		s.Members[name] = m
	case tar.TypeLink:
		s.Members[name] = &Member{link: path.Clean(h.Linkname)}
	case tar.TypeSymlink:
		s.Members[name] = &Member{link: path.Join(path.Dir(name), h.Linkname)}
	default:
		return nil
	}
	return before
}

// Each goes through a plain tar stream.
func Each(ctx context.Context, r io.Reader, fn func(*tar.Header, io.Reader) error) error {
	tr := tar.NewReader(r)
	for n := 0; ; n++ {
		h, err := tr.Next()
		if err == io.EOF && n == 0 {
			return fmt.Errorf("%w: it is empty", archive.ErrBroken)
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%w: %w", archive.ErrBroken, err)
		}
		if n >= maxMembers {
			return fmt.Errorf("%w: more than %d files in an archive of images", archive.ErrLimit, maxMembers)
		}
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if err := fn(h, tr); err != nil {
			return err
		}
	}
}

// Find gives nil if there is none.
func (s *Tar) Find(name string) *Member {
	name = path.Clean(name)
	for range maxLinks {
		m := s.Members[name]
		if m == nil || m.link == "" {
			return m
		}
		name = m.link
	}
	return nil
}

// Open implements Source.
func (s *Tar) Open(name string) (io.ReadCloser, int64, error) {
	m := s.Find(name)
	switch {
	case m == nil:
		return nil, 0, fmt.Errorf("%s: %w", name, ErrMember)
	case m.Passed:
		return nil, 0, fmt.Errorf("read %s: %w: it is no layer, and too large for anything else", name, image.ErrInvalid)
	case m.Raw != nil:
		return io.NopCloser(bytes.NewReader(m.Raw)), m.Size, nil
	}
	return io.NopCloser(io.NewSectionReader(s.Spool, m.Offset, m.Size)), m.Size, nil
}

// Has implements Source.
func (s *Tar) Has(name string) bool { return s.Find(name) != nil }

// Close implements Source.
func (s *Tar) Close() error {
	if s.Spool == nil {
		return nil
	}
	return s.Spool.Close()
}

// Peek goes through a packed archive once and keeps the small JSON files,
// which is enough to know what is in it and whether it is here already.
func Peek(ctx context.Context, r io.Reader) (*Tar, error) {
	s := NewTar()
	room := MaxInMemory
	err := Each(ctx, r, func(h *tar.Header, body io.Reader) error {
		if h.Typeflag != tar.TypeReg {
			s.Add(h, nil)
			return nil
		}
		in := bufio.NewReader(body)
		if !IsJSON(in, h.Size) || h.Size > int64(room) {
			return nil
		}
		m, err := ReadSmall(in, h.Size)
		s.Add(h, m)
		room -= int(h.Size)
		return err
	})
	return s, err
}

// IsJSON tells whether a member of so many bytes may be a manifest or a
// configuration.
func IsJSON(body *bufio.Reader, size int64) bool {
	head, _ := body.Peek(1) // who reads on gets the error
	return size <= image.MaxJSON && len(head) == 1 && (head[0] == '{' || head[0] == '[')
}

// ReadSmall reads a small member.
func ReadSmall(body io.Reader, size int64) (*Member, error) {
	raw := make([]byte, size)
	if _, err := io.ReadFull(body, raw); err != nil {
		return nil, fmt.Errorf("%w: %w", archive.ErrBroken, err)
	}
	return &Member{Raw: raw, Size: size}, nil
}
