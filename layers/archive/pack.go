package archive

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"sort"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// PackOptions of Pack.
type PackOptions struct {
	// Name is what the packed file or folder is called in the archive: a
	// relative path. Empty for a folder whose contents are packed without
	// it, as export does.
	Name string
	// Marks: OverlayMarks turns overlay's marks into whiteouts, so that the
	// upper folder of a container becomes a layer. NoMarks packs what is
	// there. FileMarks is not for packing.
	Marks Marks
	// Pick, if set, tells which names to pack; what lies below one that is
	// left out is left out too. Names are relative to the archive's root.
	Pick func(name string) bool
	// Gone, if set, lists what a whiteout is to be written for in a folder;
	// "." is the archive's root.
	Gone func(dir string) []string
}

// Pack writes name, found below the folder root, and all below it to w as a
// tar stream: sorted, with numeric owners, hard links as links, user.*
// attributes and security.capability. A symlink is packed and not followed;
// symlinks on the way to name lead within root. Sockets are left out, as tar
// has no form for them.
//
// Others may be changing the folder meanwhile: what vanishes is left out, a
// file that grows is cut, one that shrinks is an error. Nothing outside root
// is ever read, and no device is ever opened. The error os.ErrNotExist is
// for name alone.
func Pack(ctx context.Context, root *os.File, name string, w io.Writer, o PackOptions) error {
	dir, base := path.Split(path.Clean("/" + name))
	fd, err := openIn(int(root.Fd()), dir, unix.O_PATH|unix.O_DIRECTORY, inRoot)
	if err != nil {
		return fmt.Errorf("pack %s: %w", name, err)
	}
	defer unix.Close(fd)
	if base == "" {
		base = "."
	}
	p := &packer{ctx: ctx, w: tar.NewWriter(w), o: o, links: map[inode]string{}, buf: make([]byte, 128<<10)}
	if err := p.pack(fd, base, path.Clean(o.Name), true); err != nil {
		return fmt.Errorf("pack %s: %w", name, err)
	}
	if err := p.w.Close(); err != nil {
		return fmt.Errorf("pack %s: %w", name, err)
	}
	return nil
}

type inode struct{ dev, ino uint64 }

type packer struct {
	ctx   context.Context
	w     *tar.Writer
	o     PackOptions
	links map[inode]string // files with several names: the first one packed
	buf   []byte
}

// pack writes what base in dir is, as name. "." as a name writes nothing for
// the folder itself.
func (p *packer) pack(dir int, base, name string, top bool) error {
	if err := context.Cause(p.ctx); err != nil {
		return err
	}
	fd, st, err := hold(dir, base)
	if err == unix.ENOENT && !top {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if p.o.Marks == OverlayMarks && IsWhiteout(&st) {
		d, b := path.Split(name)
		return p.w.WriteHeader(&tar.Header{Name: d + WhiteoutPrefix + b, Typeflag: tar.TypeReg, Mode: 0o600, ModTime: modTime(&st)})
	}
	kind := st.Mode & unix.S_IFMT
	if kind == unix.S_IFDIR {
		return p.folder(fd, &st, name)
	}
	if name == "." {
		return fmt.Errorf("%w: no folder", unix.ENOTDIR)
	}
	h := p.header(&st, name)
	if h == nil {
		return nil
	}
	if kind != unix.S_IFDIR && st.Nlink > 1 {
		key := inode{uint64(st.Dev), st.Ino} // Dev has 32 bits on some machines
		if first, ok := p.links[key]; ok {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
			return p.w.WriteHeader(h)
		}
		p.links[key] = name
	}
	switch kind {
	case unix.S_IFLNK:
		if h.Linkname, err = readlink(fd, st.Size); err != nil {
			return err
		}
		return p.w.WriteHeader(h)
	case unix.S_IFREG:
		return p.file(fd, h)
	}
	return p.w.WriteHeader(h)
}

// header has all but contents and attributes; nil for a socket.
func (p *packer) header(st *unix.Stat_t, name string) *tar.Header {
	h := &tar.Header{
		Name: name, Mode: int64(st.Mode & 0o7777), Uid: int(st.Uid), Gid: int(st.Gid),
		ModTime: modTime(st), Format: tar.FormatPAX,
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		h.Typeflag, h.Size = tar.TypeReg, st.Size
	case unix.S_IFDIR:
		h.Typeflag, h.Name = tar.TypeDir, name+"/"
	case unix.S_IFLNK:
		h.Typeflag = tar.TypeSymlink
	case unix.S_IFIFO:
		h.Typeflag = tar.TypeFifo
	case unix.S_IFCHR, unix.S_IFBLK:
		h.Typeflag = tar.TypeBlock
		if st.Mode&unix.S_IFMT == unix.S_IFCHR {
			h.Typeflag = tar.TypeChar
		}
		h.Devmajor, h.Devminor = int64(unix.Major(uint64(st.Rdev))), int64(unix.Minor(uint64(st.Rdev)))
	default:
		return nil
	}
	return h
}

func modTime(st *unix.Stat_t) time.Time { return time.Unix(st.Mtim.Unix()) }

func readlink(fd int, size int64) (string, error) {
	buf := make([]byte, size+1)
	n, err := unix.Readlinkat(fd, "", buf)
	if err != nil {
		return "", fmt.Errorf("read link: %w", err)
	}
	return string(buf[:n]), nil
}

func (p *packer) folder(fd int, st *unix.Stat_t, name string) error {
	list, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open folder: %w", err)
	}
	f := os.NewFile(uintptr(list), name)
	defer f.Close()
	if name != "." {
		h := p.header(st, name)
		if err := p.attrs(list, h); err != nil {
			return err
		}
		if err := p.w.WriteHeader(h); err != nil {
			return err
		}
	}
	if p.o.Marks == OverlayMarks && isOpaque(list) {
		if err := p.w.WriteHeader(&tar.Header{Name: path.Join(name, OpaqueName), Typeflag: tar.TypeReg, Mode: 0o600, ModTime: modTime(st)}); err != nil {
			return err
		}
	}
	if p.o.Gone != nil {
		if err := p.whiteouts(name, st); err != nil {
			return err
		}
	}
	names, err := f.Readdirnames(-1)
	if err != nil {
		return fmt.Errorf("list folder: %w", err)
	}
	sort.Strings(names)
	for _, n := range names {
		if p.o.Pick != nil && !p.o.Pick(path.Join(name, n)) {
			continue
		}
		if err := p.pack(list, n, path.Join(name, n), false); err != nil {
			return err
		}
	}
	return nil
}

func (p *packer) whiteouts(name string, st *unix.Stat_t) error {
	gone := p.o.Gone(name)
	sort.Strings(gone)
	for _, n := range gone {
		h := &tar.Header{Name: path.Join(name, WhiteoutPrefix+n), Typeflag: tar.TypeReg, Mode: 0o600, ModTime: modTime(st)}
		if err := p.w.WriteHeader(h); err != nil {
			return err
		}
	}
	return nil
}

func isOpaque(fd int) bool {
	var b [1]byte
	n, err := unix.Fgetxattr(fd, opaqueAttr, b[:])
	return err == nil && n == 1 && b[0] == 'y'
}

// file opens the regular file that fd holds: through its descriptor, so that
// it can't have become anything else.
func (p *packer) file(fd int, h *tar.Header) error {
	f, err := os.Open(fdPath(fd))
	if err != nil {
		return fmt.Errorf("open file: %w", err)
	}
	defer f.Close()
	if err := p.attrs(int(f.Fd()), h); err != nil {
		return err
	}
	if err := p.w.WriteHeader(h); err != nil {
		return err
	}
	n, err := io.CopyBuffer(struct{ io.Writer }{p.w}, io.LimitReader(f, h.Size), p.buf)
	if err == nil && n < h.Size {
		err = fmt.Errorf("%s shrank while it was read", h.Name)
	}
	return err
}

// attrs adds the extended attributes that Unpack takes.
func (p *packer) attrs(fd int, h *tar.Header) error {
	n, err := unix.Flistxattr(fd, p.buf)
	if errors.Is(err, unix.ENOTSUP) || err == nil && n == 0 {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list attributes: %w", err)
	}
	for _, name := range strings.Split(strings.TrimRight(string(p.buf[:n]), "\x00"), "\x00") {
		if !attrAllowed(name) {
			continue
		}
		m, err := unix.Fgetxattr(fd, name, p.buf)
		if err == unix.ENODATA {
			continue
		}
		if err != nil {
			return fmt.Errorf("read attribute %s: %w", name, err)
		}
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords["SCHILY.xattr."+name] = string(p.buf[:m])
	}
	return nil
}
