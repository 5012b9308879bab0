package repo

import (
	"archive/tar"
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

// tarSource is a plain tar file, whose members are read where they lie.
type tarSource struct {
	f       *os.File
	members map[string]member
}

type member struct {
	offset, size int64
	link         string // name of another member; offset and size are its
}

// maxLinks is how many links of a tar file are followed for one name.
const maxLinks = 8

// indexTar reads all headers of a plain tar file; f becomes the source's.
func indexTar(ctx context.Context, f *os.File) (*tarSource, error) {
	s := &tarSource{f: f, members: map[string]member{}}
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
		return s.add(h, at)
	})
	return s, err
}

func (s *tarSource) add(h *tar.Header, at int64) error {
	name := path.Clean(h.Name)
	switch h.Typeflag {
	case tar.TypeReg:
		s.members[name] = member{offset: at, size: h.Size}
	case tar.TypeLink:
		s.members[name] = member{link: path.Clean(h.Linkname)}
	case tar.TypeSymlink:
		s.members[name] = member{link: path.Join(path.Dir(name), h.Linkname)}
	}
	return nil
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

func (s *tarSource) find(name string) (member, bool) {
	name = path.Clean(name)
	for range maxLinks {
		m, ok := s.members[name]
		if !ok || m.link == "" {
			return m, ok
		}
		name = m.link
	}
	return member{}, false
}

func (s *tarSource) open(name string) (io.ReadCloser, int64, error) {
	m, ok := s.find(name)
	if !ok {
		return nil, 0, fmt.Errorf("%s: %w", name, errMember)
	}
	return io.NopCloser(io.NewSectionReader(s.f, m.offset, m.size)), m.size, nil
}

func (s *tarSource) has(name string) bool { _, ok := s.find(name); return ok }
func (s *tarSource) close() error         { return s.f.Close() }

// peek goes through a packed archive once and keeps the small JSON files,
// which is enough to know what is in it and whether it is here already.
func peek(ctx context.Context, r io.Reader) (*jsonSource, error) {
	s := &jsonSource{files: map[string][]byte{}}
	kept := 0
	err := eachMember(ctx, r, func(h *tar.Header, body io.Reader) error {
		if h.Typeflag != tar.TypeReg || h.Size > image.MaxJSON {
			return nil
		}
		head := make([]byte, min(h.Size, 1))
		if _, err := io.ReadFull(body, head); err != nil {
			return fmt.Errorf("%w: %w", archive.ErrBroken, err)
		}
		if len(head) == 0 || (head[0] != '{' && head[0] != '[') || kept+int(h.Size) > maxInMemory {
			return nil
		}
		rest, err := io.ReadAll(body)
		if err != nil {
			return fmt.Errorf("%w: %w", archive.ErrBroken, err)
		}
		kept += int(h.Size)
		s.files[path.Clean(h.Name)] = append(head, rest...)
		return nil
	})
	return s, err
}

// jsonSource holds the small files of an archive in memory.
type jsonSource struct{ files map[string][]byte }

func (s *jsonSource) open(name string) (io.ReadCloser, int64, error) {
	raw, ok := s.files[path.Clean(name)]
	if !ok {
		return nil, 0, fmt.Errorf("%s: %w", name, errMember)
	}
	return io.NopCloser(bytes.NewReader(raw)), int64(len(raw)), nil
}

func (s *jsonSource) has(name string) bool { _, ok := s.files[path.Clean(name)]; return ok }
func (s *jsonSource) close() error         { return nil }
