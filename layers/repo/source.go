package repo

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
	maxInMemory = 16 << 20 // bytes of small files that a look ahead keeps
)

// source is where the files of an archive are read from, by name, in any
// order.
type source interface {
	// open gives a file and its size. errMember if there is none.
	open(name string) (io.ReadCloser, int64, error)
	has(name string) bool
	close() error
}

var errMember = errors.New("missing in the archive")

// small reads a whole manifest or configuration.
func small(s source, name string) ([]byte, error) {
	rc, size, err := s.open(name)
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

// folderSource is an OCI layout as a folder. os.Root keeps links in it.
type folderSource struct{ root *os.Root }

func (s folderSource) open(name string) (io.ReadCloser, int64, error) {
	f, err := s.root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, 0, fmt.Errorf("%s: %w", name, errMember)
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

func (s folderSource) has(name string) bool { _, err := s.root.Stat(name); return err == nil }
func (s folderSource) close() error         { return s.root.Close() }

// tarSource is a tar archive whose members are read from a file, the archive
// itself or another one, or from memory.
type tarSource struct {
	f       *os.File // nil if all are in memory
	members map[string]*member
}

// member is one file of an archive; links are one too.
type member struct {
	offset, size int64  // in the file
	raw          []byte // its content, if that is in memory
	link         string // name of another member
	passed       *passed
}

// maxLinks is how many links of a tar file are followed for one name.
const maxLinks = 8

// indexTar reads all headers of a plain tar file; f becomes the source's.
func indexTar(ctx context.Context, f *os.File) (*tarSource, error) {
	s := &tarSource{f: f, members: map[string]*member{}}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, fmt.Errorf("read archive: %w", err)
	}
	end, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read archive: %w", err)
	}
	err = eachMember(ctx, f, func(h *tar.Header, _ io.Reader) error {
		at, err := f.Seek(0, io.SeekCurrent)
		if err != nil {
			return err
		}
		if h.Typeflag == tar.TypeReg && at+h.Size > end.Size() {
			return fmt.Errorf("%w: %s ends too early", archive.ErrBroken, h.Name)
		}
		s.add(h, &member{offset: at, size: h.Size})
		return nil
	})
	return s, err
}

// add puts a member in place of one of the same name, which it returns; m is
// for regular files.
func (s *tarSource) add(h *tar.Header, m *member) (before *member) {
	name := path.Clean(h.Name)
	before = s.members[name]
	switch h.Typeflag {
	case tar.TypeReg:
		s.members[name] = m
	case tar.TypeLink:
		s.members[name] = &member{link: path.Clean(h.Linkname)}
	case tar.TypeSymlink:
		s.members[name] = &member{link: path.Join(path.Dir(name), h.Linkname)}
	default:
		return nil
	}
	return before
}

// eachMember goes through a plain tar stream.
func eachMember(ctx context.Context, r io.Reader, fn func(*tar.Header, io.Reader) error) error {
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

// find gives nil if there is none.
func (s *tarSource) find(name string) *member {
	name = path.Clean(name)
	for range maxLinks {
		m := s.members[name]
		if m == nil || m.link == "" {
			return m
		}
		name = m.link
	}
	return nil
}

func (s *tarSource) open(name string) (io.ReadCloser, int64, error) {
	m := s.find(name)
	switch {
	case m == nil:
		return nil, 0, fmt.Errorf("%s: %w", name, errMember)
	case m.passed != nil:
		return nil, 0, fmt.Errorf("read %s: %w: it is no layer, and too large for anything else", name, image.ErrInvalid)
	case m.raw != nil:
		return io.NopCloser(bytes.NewReader(m.raw)), m.size, nil
	}
	return io.NopCloser(io.NewSectionReader(s.f, m.offset, m.size)), m.size, nil
}

func (s *tarSource) has(name string) bool { return s.find(name) != nil }

func (s *tarSource) close() error {
	if s.f == nil {
		return nil
	}
	return s.f.Close()
}

// peek goes through a packed archive once and keeps the small JSON files,
// which is enough to know what is in it and whether it is here already.
func peek(ctx context.Context, r io.Reader) (*tarSource, error) {
	s := &tarSource{members: map[string]*member{}}
	room := maxInMemory
	err := eachMember(ctx, r, func(h *tar.Header, body io.Reader) error {
		if h.Typeflag != tar.TypeReg {
			s.add(h, nil)
			return nil
		}
		in := bufio.NewReader(body)
		if !isJSON(in, h.Size) || h.Size > int64(room) {
			return nil
		}
		m, err := readSmall(in, h.Size)
		s.add(h, m)
		room -= int(h.Size)
		return err
	})
	return s, err
}

// isJSON tells whether a member of so many bytes may be a manifest or a
// configuration.
func isJSON(body *bufio.Reader, size int64) bool {
	head, _ := body.Peek(1) // who reads on gets the error
	return size <= image.MaxJSON && len(head) == 1 && (head[0] == '{' || head[0] == '[')
}

// readSmall reads a small member.
func readSmall(body io.Reader, size int64) (*member, error) {
	raw := make([]byte, size)
	if _, err := io.ReadFull(body, raw); err != nil {
		return nil, fmt.Errorf("%w: %w", archive.ErrBroken, err)
	}
	return &member{raw: raw, size: size}, nil
}
