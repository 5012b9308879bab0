package archive

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/layers/blob"
)

// spaceCheckSize is the size in bytes from which on a file's room is asked
// for before it is written.
const spaceCheckSize = 1 << 20

// maxTail is how many bytes may follow the end mark: padding to whole
// records, and no stream of zeros without end.
const maxTail = 16 << 20

// Unpack writes the plain tar stream r into the folder root, or into o.Into
// below it, and reads r to its end. Others may be changing the folder
// meanwhile, as a running container does: nothing they do leads outside. On an error the folder holds
// a part of the archive and is the caller's to remove. Errors wrap
// ErrHostile, ErrLimit, ErrBroken or blob.ErrNoSpace where they apply.
//
// If r is a Recorder, it is told what becomes of its bytes.
func Unpack(ctx context.Context, root *os.File, r io.Reader, o Options) (Stats, error) {
	o.Limits = o.Limits.withDefaults()
	o.Into = strings.TrimPrefix(path.Clean("/"+o.Into), "/")
	u := &unpacker{
		ctx: ctx, o: o, root: root, t: newTree(root, o),
		times: dirTimes{root: root}, buf: make([]byte, 128<<10),
	}
	if rec, ok := r.(Recorder); ok {
		u.rec = newRecording(rec, u.t)
	}
	defer u.t.close()
	defer u.times.close()
	if err := u.all(tar.NewReader(r)); err != nil {
		return u.stats, err
	}
	if err := u.times.apply(); err != nil {
		return u.stats, err
	}
	// What follows the end mark still belongs to the stream's digest.
	n, err := io.CopyBuffer(io.Discard, io.LimitReader(r, maxTail+1), u.buf)
	if err != nil {
		return u.stats, fmt.Errorf("%w: read to the end: %w", ErrBroken, err)
	}
	if n > maxTail {
		return u.stats, fmt.Errorf("%w: more than %d bytes after the end mark", ErrLimit, maxTail)
	}
	return u.stats, nil
}

type unpacker struct {
	ctx     context.Context
	o       Options
	root    *os.File
	t       *tree
	times   dirTimes
	rec     *recording // nil: nobody wants to know
	stats   Stats
	devices int64
	skipped int64 // bytes of entries that make no file
	buf     []byte
}

func (u *unpacker) all(tr *tar.Reader) error {
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%w: after %d entries: %w", ErrBroken, u.stats.Entries, err)
		}
		if err := context.Cause(u.ctx); err != nil {
			return err
		}
		if u.stats.Entries++; u.stats.Entries > u.o.Limits.Entries {
			return fmt.Errorf("%w: more than %d entries", ErrLimit, u.o.Limits.Entries)
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		if err := u.entry(h, tr); err != nil {
			return fmt.Errorf("unpack %.200q: %w", h.Name, blob.NoSpace(err))
		}
	}
}

func (u *unpacker) entry(h *tar.Header, body io.Reader) error {
	name, err := cleanName(h.Name, u.o.Limits.Name)
	if err != nil {
		return err
	}
	if name == "." && u.o.Marks != NoMarks {
		return u.rootEntry(h)
	}
	if name == "." {
		return nil // no layer: the folder to unpack into stays as it is
	}
	name = path.Join(u.o.Into, name)
	if strings.Count(name, "/") > u.o.Limits.Depth {
		return fmt.Errorf("%w: folders nested deeper than %d", ErrLimit, u.o.Limits.Depth)
	}
	dir, base, err := u.t.parent(name)
	if err != nil {
		return err
	}
	if u.o.Marks != NoMarks && strings.HasPrefix(base, WhiteoutPrefix) {
		if u.skipped += h.Size; u.skipped > u.o.Limits.Bytes {
			return fmt.Errorf("%w: whiteouts with more than %d bytes of content", ErrLimit, u.o.Limits.Bytes)
		}
		return u.whiteout(dir, base)
	}
	wasMark, err := u.make(h, dir, base, body)
	if err != nil {
		return err
	}
	return u.dress(h, name, dir, base, wasMark)
}

// rootEntry sets what the archive says about the folder itself.
func (u *unpacker) rootEntry(h *tar.Header) error {
	if h.Typeflag != tar.TypeDir {
		return fmt.Errorf("%w: the root is not a folder", ErrHostile)
	}
	fd := int(u.root.Fd())
	if err := unix.Fchown(fd, h.Uid, h.Gid); err != nil {
		return fmt.Errorf("set owner: %w", err)
	}
	if err := unix.Fchmod(fd, mode(h)); err != nil {
		return fmt.Errorf("set mode: %w", err)
	}
	if err := u.attrs(h, fd); err != nil {
		return err
	}
	return u.times.add(".", clampTime(h.ModTime))
}

// make creates the entry. It reports whether a folder took the place of a
// whiteout.
func (u *unpacker) make(h *tar.Header, dir int, base string, body io.Reader) (wasMark bool, err error) {
	if u.o.KeepKinds {
		if err := sameKind(dir, base, h.Typeflag == tar.TypeDir); err != nil {
			return false, err
		}
	}
	kept, wasMark, err := u.t.clear(dir, base, h.Typeflag == tar.TypeDir)
	if err != nil {
		return false, fmt.Errorf("clear the way: %w", err)
	}
	switch h.Typeflag {
	case tar.TypeDir:
		if kept {
			return false, nil
		}
		return wasMark, unix.Mkdirat(dir, base, 0o700)
	case tar.TypeReg, tar.TypeGNUSparse, tar.TypeCont:
		return false, u.file(h, dir, base, body)
	case tar.TypeSymlink:
		return false, u.symlink(h, dir, base)
	case tar.TypeLink:
		return false, u.link(h, dir, base)
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		return false, u.node(h, dir, base)
	}
	return false, fmt.Errorf("%w: entry of unknown type %q", ErrBroken, h.Typeflag)
}

func sameKind(dir int, base string, wantDir bool) error {
	var st unix.Stat_t
	err := unix.Fstatat(dir, base, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err == unix.ENOENT {
		return nil
	}
	if err == nil && (st.Mode&unix.S_IFMT == unix.S_IFDIR) != wantDir {
		return ErrKind
	}
	return err
}

func (u *unpacker) file(h *tar.Header, dir int, base string, body io.Reader) error {
	if h.Size < 0 || h.Size > u.o.Limits.Bytes-u.stats.Bytes {
		return fmt.Errorf("%w: files of more than %d bytes in all", ErrLimit, u.o.Limits.Bytes)
	}
	if h.Size >= spaceCheckSize {
		if err := blob.CheckSpace(u.root, h.Size); err != nil {
			return err
		}
	}
	fd, err := unix.Openat(dir, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if u.rec != nil {
		u.rec.begin(h)
	}
	n, err := u.copy(fd, body)
	u.stats.Bytes += n
	blob.Wrote(u.ctx, n)
	u.stats.Files++
	if err == nil && u.rec != nil {
		err = u.rec.end(base, n)
	}
	if err != nil {
		return err
	}
	return u.dressFile(h, fd)
}

// copy writes the body with plain write(2): an os.File would register each
// of the many small files with the poller first.
func (u *unpacker) copy(fd int, body io.Reader) (n int64, err error) {
	for {
		got, rerr := body.Read(u.buf)
		if u.rec != nil {
			u.rec.sum.Write(u.buf[:got])
		}
		for p := u.buf[:got]; len(p) > 0; {
			w, err := unix.Write(fd, p)
			if err == unix.EINTR {
				continue
			}
			if err != nil {
				return n, fmt.Errorf("write: %w", err)
			}
			p, n = p[w:], n+int64(w)
		}
		if rerr == io.EOF {
			return n, nil
		}
		if rerr != nil {
			return n, fmt.Errorf("%w: %w", ErrBroken, rerr)
		}
		if got == len(u.buf) || n%(16<<20) == 0 {
			if err := context.Cause(u.ctx); err != nil {
				return n, err
			}
		}
	}
}

func (u *unpacker) symlink(h *tar.Header, dir int, base string) error {
	if h.Linkname == "" || len(h.Linkname) > u.o.Limits.Name || strings.IndexByte(h.Linkname, 0) >= 0 {
		return fmt.Errorf("%w: symlink to %.40q (%d bytes)", ErrHostile, h.Linkname, len(h.Linkname))
	}
	return unix.Symlinkat(h.Linkname, dir, base)
}

// link makes a hard link to an earlier entry. The target's own symlink, if
// it is one, is linked and not followed. Mode and owner of the entry then
// apply to the shared file, as in Docker.
func (u *unpacker) link(h *tar.Header, dir int, base string) error {
	target, err := cleanName(h.Linkname, u.o.Limits.Name)
	if err != nil {
		return fmt.Errorf("hard link: %w", err)
	}
	tdir, tbase := path.Split(path.Join(u.o.Into, target))
	if tdir == "" {
		tdir = "."
	}
	if u.o.Marks != NoMarks && strings.HasPrefix(tbase, WhiteoutPrefix) {
		return fmt.Errorf("%w: hard link to a whiteout %q", ErrHostile, target)
	}
	fd, err := openIn(u.t.root, tdir, unix.O_PATH|unix.O_DIRECTORY, u.t.resolve)
	if err != nil {
		return fmt.Errorf("hard link to %q: %w", target, confined(err))
	}
	defer unix.Close(fd)
	hidden, err := u.t.isWhiteout(fd, tbase)
	if err != nil {
		return fmt.Errorf("hard link to %q: %w", target, err)
	}
	if hidden {
		return fmt.Errorf("%w: hard link to %q, which this layer hides", ErrHostile, target)
	}
	if err := unix.Linkat(fd, tbase, dir, base, 0); err != nil {
		return fmt.Errorf("hard link to %q: %w", target, err)
	}
	return nil
}

func (u *unpacker) node(h *tar.Header, dir int, base string) error {
	kind := uint32(unix.S_IFIFO)
	dev := uint64(0)
	if h.Typeflag != tar.TypeFifo {
		if u.devices++; u.devices > u.o.Limits.Devices {
			return fmt.Errorf("%w: more than %d device nodes", ErrLimit, u.o.Limits.Devices)
		}
		if h.Devmajor < 0 || h.Devmajor >= 1<<12 || h.Devminor < 0 || h.Devminor >= 1<<20 {
			return fmt.Errorf("%w: device number %d:%d", ErrHostile, h.Devmajor, h.Devminor)
		}
		dev = unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))
		kind = unix.S_IFBLK
		if h.Typeflag == tar.TypeChar {
			kind = unix.S_IFCHR
			if dev == 0 && u.o.Marks == OverlayMarks {
				return fmt.Errorf("%w: character device 0:0 is overlay's own mark", ErrHostile)
			}
		}
	}
	return unix.Mknodat(dir, base, kind|0o600, int(dev))
}

// whiteout hides a name of the layers below, or all that they have in the
// folder. What this layer itself brought stays (layer.md: whiteouts apply to
// lower layers only).
func (u *unpacker) whiteout(dir int, base string) error {
	hides, opaque, skip, err := whiteout(base)
	switch {
	case err != nil || skip:
		return err
	case opaque:
		return u.t.setOpaque(dir, ".")
	case u.o.Marks == FileMarks:
		return touch(dir, base)
	}
	var st unix.Stat_t
	err = unix.Fstatat(dir, hides, &st, unix.AT_SYMLINK_NOFOLLOW)
	switch {
	case err == unix.ENOENT:
		return unix.Mknodat(dir, hides, unix.S_IFCHR, 0)
	case err != nil:
		return err
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		return u.t.setOpaque(dir, hides)
	}
	return nil
}
