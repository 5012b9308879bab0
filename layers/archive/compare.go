package archive

import (
	"archive/tar"
	"context"
	"fmt"
	"hash/maphash"
	"io"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// Difference is a path of an unpacked layer that is otherwise than the layer
// says.
type Difference struct {
	Path  string // below the layer's root
	What  string
	Extra bool // the layer has no such path

	Inherited bool // the layer has it from below
}

// Compare compares the folder root with the layer that was unpacked into it:
// presence, kind, owner, mode, size, time (not that of folders), link
// targets, devices, attributes, and marks for what is hidden. Contents of
// files are not read. entries gives the headers of the layer's stream in
// their order, and is called twice. fn is told of each difference.
//
// marks are those that Unpack was given. With OverlayMarks the folder holds
// the layer alone, and what no entry accounts for is a difference too; with
// FileMarks it is taken to hold what lies below as well, which is not looked
// at.
func Compare(ctx context.Context, root *os.File, marks Marks, entries func(func(*tar.Header) error) error, fn func(Difference) error) error {
	c := newComparer(ctx, root, marks, fn)
	defer c.t.close()
	if err := c.compare(entries); err != nil || marks != OverlayMarks {
		return err
	}
	return c.extras(int(root.Fd()), "")
}

// CompareWhole is Compare with FileMarks for a layer whose folder holds what
// lies below as well: that has to be as it is in the folder below, down to
// the contents, which are read, and nothing else may be there. A nil below is
// an empty one.
func CompareWhole(ctx context.Context, root, below *os.File, entries func(func(*tar.Header) error) error, fn func(Difference) error) error {
	c := newComparer(ctx, root, FileMarks, fn)
	defer c.t.close()
	if err := c.compare(entries); err != nil {
		return err
	}
	if c.has(c.opaque, "") {
		below = nil
	}
	return c.inherit(root, below, "")
}

func newComparer(ctx context.Context, root *os.File, marks Marks, fn func(Difference) error) *comparer {
	return &comparer{
		ctx: ctx, root: root, marks: marks, fn: fn, seed: maphash.MakeSeed(), last: map[uint64]int{}, files: map[uint64]int{},
		known: map[uint64]struct{}{}, hidden: map[uint64]struct{}{}, opaque: map[uint64]struct{}{},
		shared: map[inode]sharedFile{}, t: newTree(root, Options{Marks: marks}),
	}
}

// compare looks at all that entries account for.
func (c *comparer) compare(entries func(func(*tar.Header) error) error) error {
	if err := entries(c.count); err != nil {
		return err
	}
	c.n = 0
	if err := entries(c.entry); err != nil {
		return err
	}
	return c.sharedFiles()
}

// comparer knows paths by their hashes: layers have many.
type comparer struct {
	ctx   context.Context
	root  *os.File
	marks Marks
	fn    func(Difference) error
	seed  maphash.Seed
	n     int // of the entry at hand, from 1

	last   map[uint64]int      // entry's name: its last entry
	files  map[uint64]int      // name of what is no folder and no link to one: its last entry
	twice  bool                // some name has several entries
	known  map[uint64]struct{} // paths that entries account for
	hidden map[uint64]struct{} // with FileMarks: paths that the layer hides
	opaque map[uint64]struct{} // with FileMarks: folders that hide all that was in them
	shared map[inode]sharedFile

	t   *tree
	at  string // the folder open in t, through no symlink
	buf []byte // of unlikeInside
}

// sharedFile is a file with several names: the last entry for any of them
// has given it owner, mode and time.
type sharedFile struct {
	path string
	h    *tar.Header
	st   unix.Stat_t
}

func (c *comparer) sum(p string) uint64 { return maphash.String(c.seed, p) }

func (c *comparer) know(p string) { c.known[c.sum(p)] = struct{}{} }

func (c *comparer) tell(p, format string, args ...any) error {
	return c.fn(Difference{Path: p, What: fmt.Sprintf(format, args...)})
}

// count is the first pass.
func (c *comparer) count(h *tar.Header) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	c.n++
	name, err := cleanName(h.Name, maxName)
	if err != nil {
		return err
	}
	k := c.sum(name)
	if _, again := c.last[k]; again {
		c.twice = true
	}
	c.last[k] = c.n
	if h.Typeflag != tar.TypeDir && h.Typeflag != tar.TypeSymlink {
		c.files[k] = c.n
	}
	return nil
}

// maxName is no limit: Unpack had one.
const maxName = 1 << 20

// entry is the second pass.
func (c *comparer) entry(h *tar.Header) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	c.n++
	if err := context.Cause(c.ctx); err != nil {
		return err
	}
	name, err := cleanName(h.Name, maxName)
	if err != nil {
		return err
	}
	if c.last[c.sum(name)] != c.n || c.twice && c.buried(name) {
		return nil
	}
	if name == "." {
		return c.rootEntry(h)
	}
	dir, err := c.open(name)
	if err != nil {
		return c.tell(name, "it is missing: %v", err)
	}
	base := path.Base(name)
	if strings.HasPrefix(base, WhiteoutPrefix) {
		return c.whiteout(dir, base)
	}
	c.know(path.Join(c.at, base))
	return c.made(h, dir, base)
}

// buried tells whether a later entry has put a file in the place of a folder
// that name was in.
func (c *comparer) buried(name string) bool {
	for p := path.Dir(name); p != "."; p = path.Dir(p) {
		if c.files[c.sum(p)] > c.n {
			return true
		}
	}
	return false
}

// open finds the folder of a name, and accounts for it.
func (c *comparer) open(name string) (int, error) {
	p := strings.TrimSuffix(path.Dir(name), ".")
	if p == "" {
		c.at = ""
		return c.t.root, nil
	}
	if c.t.dir >= 0 && c.t.last == p {
		return c.t.dir, nil
	}
	c.t.forget()
	fd, err := openIn(c.t.root, p, unix.O_PATH|unix.O_DIRECTORY, c.t.resolve)
	if err != nil {
		return -1, fmt.Errorf("folder %s: %w", p, err)
	}
	at, ok := c.t.locate(fd, p)
	if !ok {
		at = p
	}
	c.t.dir, c.t.last, c.at = fd, p, at
	for ; at != "." && at != ""; at = path.Dir(at) {
		c.know(at)
	}
	return fd, nil
}

func (c *comparer) rootEntry(h *tar.Header) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(c.root.Fd()), &st); err != nil {
		return err
	}
	return c.dressed(h, &st, ".", int(c.root.Fd()))
}

// whiteout wants the name hidden, or made by this layer after all.
func (c *comparer) whiteout(dir int, base string) error {
	hides, opaque, skip, err := whiteout(base)
	if err != nil || skip {
		return err
	}
	if c.marks != OverlayMarks {
		if opaque {
			c.opaque[c.sum(c.at)] = struct{}{}
		} else {
			c.hidden[c.sum(path.Join(c.at, hides))] = struct{}{}
		}
		return nil
	}
	if opaque {
		if !opaqueDir(fdPath(dir)) {
			return c.tell(orDot(c.at), "it does not hide what lies below it (no %s)", opaqueAttr)
		}
		return nil
	}
	p := path.Join(c.at, hides)
	c.know(p)
	var st unix.Stat_t
	err = unix.Fstatat(dir, hides, &st, unix.AT_SYMLINK_NOFOLLOW)
	switch {
	case err == unix.ENOENT:
		return c.tell(p, "the mark that hides it is missing")
	case err != nil:
		return c.tell(p, "%v", err)
	case st.Mode&unix.S_IFMT == unix.S_IFDIR && !opaqueDir(path.Join(fdPath(dir), hides)):
		return c.tell(p, "it does not hide what lies below it (no %s)", opaqueAttr)
	}
	return nil
}

func opaqueDir(path string) bool {
	var v [1]byte
	n, err := unix.Getxattr(path, opaqueAttr, v[:])
	return err == nil && n == 1 && v[0] == 'y'
}

func orDot(p string) string {
	if p == "" {
		return "."
	}
	return p
}

// made compares what entry h made.
func (c *comparer) made(h *tar.Header, dir int, base string) error {
	p := path.Join(c.at, base)
	var st unix.Stat_t
	err := unix.Fstatat(dir, base, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err == unix.ENOENT {
		return c.tell(p, "it is missing")
	}
	if err != nil {
		return c.tell(p, "%v", err)
	}
	if h.Typeflag == tar.TypeLink {
		return c.link(h, p, &st)
	}
	if have, want := kindOf(st.Mode), kindOfEntry(h); have != want {
		return c.tell(p, "it is a %s, not a %s", have, want)
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse, tar.TypeCont:
		if st.Size != h.Size {
			return c.tell(p, "it has %d bytes, not %d", st.Size, h.Size)
		}
		if st.Nlink > 1 {
			c.shared[inode{uint64(st.Dev), st.Ino}] = sharedFile{p, h, st}
			return nil
		}
	case tar.TypeSymlink:
		if to, err := linkAt(dir, base); err != nil || to != h.Linkname {
			return c.tell(p, "it leads to %q, not to %q", to, h.Linkname)
		}
	case tar.TypeChar, tar.TypeBlock:
		if maj, min := unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev)); int64(maj) != h.Devmajor || int64(min) != h.Devminor {
			return c.tell(p, "it is device %d:%d, not %d:%d", maj, min, h.Devmajor, h.Devminor)
		}
	}
	fd := -1
	if h.Typeflag == tar.TypeDir || h.Typeflag == tar.TypeReg {
		if fd, err = unix.Openat(dir, base, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0); err != nil {
			return c.tell(p, "%v", err)
		}
		defer unix.Close(fd)
	}
	return c.dressed(h, &st, p, fd)
}

func linkAt(dir int, base string) (string, error) {
	buf := make([]byte, 4096)
	n, err := unix.Readlinkat(dir, base, buf)
	return string(buf[:max(n, 0)]), err
}

// link wants the same file under both names.
func (c *comparer) link(h *tar.Header, p string, st *unix.Stat_t) error {
	target, err := cleanName(h.Linkname, maxName)
	if err != nil {
		return err
	}
	if c.twice && c.last[c.sum(target)] > c.n {
		return nil // the other name has got another file since
	}
	fd, err := openIn(c.t.root, path.Dir(target), unix.O_PATH|unix.O_DIRECTORY, c.t.resolve)
	if err != nil {
		return c.tell(p, "%s, which it is another name of, is missing", target)
	}
	defer unix.Close(fd)
	var other unix.Stat_t
	err = unix.Fstatat(fd, path.Base(target), &other, unix.AT_SYMLINK_NOFOLLOW)
	if err != nil || other.Ino != st.Ino || other.Dev != st.Dev {
		return c.tell(p, "it is not the same file as %s", target)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFREG {
		c.shared[inode{uint64(st.Dev), st.Ino}] = sharedFile{p, h, *st}
	}
	return nil
}

func (c *comparer) sharedFiles() error {
	for _, s := range c.shared {
		if err := c.dressed(s.h, &s.st, s.path, -1); err != nil {
			return err
		}
	}
	return nil
}

// dressed compares owner, mode, time and, if fd is one of the file,
// attributes. Only the first difference is told.
func (c *comparer) dressed(h *tar.Header, st *unix.Stat_t, p string, fd int) error {
	if int(st.Uid) != h.Uid || int(st.Gid) != h.Gid {
		return c.tell(p, "its owner is %d:%d, not %d:%d", st.Uid, st.Gid, h.Uid, h.Gid)
	}
	if have := st.Mode & 0o7777; h.Typeflag != tar.TypeSymlink && have != mode(h) {
		return c.tell(p, "its mode is %04o, not %04o", have, mode(h))
	}
	if want := clampTime(h.ModTime); h.Typeflag != tar.TypeDir && !modTime(st).Equal(want) {
		return c.tell(p, "its time is %v, not %v", modTime(st).UTC(), want.UTC())
	}
	if fd < 0 {
		return nil
	}
	for key, want := range h.PAXRecords {
		name, ok := strings.CutPrefix(key, "SCHILY.xattr.")
		if !ok || !attrAllowed(name) {
			continue
		}
		have := make([]byte, len(want)+1)
		n, err := unix.Getxattr(fdPath(fd), name, have)
		if err == unix.ENOTSUP {
			continue
		}
		if err != nil || string(have[:n]) != want {
			return c.tell(p, "its attribute %s is not what it came with", name)
		}
	}
	return nil
}

// extras looks for what no entry accounts for.
func (c *comparer) extras(dir int, at string) error {
	if err := context.Cause(c.ctx); err != nil {
		return err
	}
	f, err := openDir(dir, ".")
	if err != nil {
		return c.tell(orDot(at), "%v", err)
	}
	defer f.Close()
	for {
		entries, err := f.ReadDir(256)
		if err == io.EOF || err == nil && len(entries) == 0 {
			return nil
		}
		if err != nil {
			return c.tell(orDot(at), "%v", err)
		}
		for _, e := range entries {
			p := path.Join(at, e.Name())
			if _, ok := c.known[c.sum(p)]; !ok {
				if err := c.fn(Difference{Path: p, What: "the layer has no such path", Extra: true}); err != nil {
					return err
				}
				continue
			}
			if !e.IsDir() {
				continue
			}
			if err := c.below(f, e.Name(), p); err != nil {
				return err
			}
		}
	}
}

func (c *comparer) below(dir *os.File, name, p string) error {
	sub, err := openDir(int(dir.Fd()), name)
	if err != nil {
		return c.tell(p, "%v", err)
	}
	defer sub.Close()
	return c.extras(int(sub.Fd()), p)
}

func kindOf(mode uint32) string {
	switch mode & unix.S_IFMT {
	case unix.S_IFREG:
		return "file"
	case unix.S_IFDIR:
		return "folder"
	case unix.S_IFLNK:
		return "symbolic link"
	case unix.S_IFCHR:
		return "character device"
	case unix.S_IFBLK:
		return "block device"
	case unix.S_IFIFO:
		return "fifo"
	}
	return "socket"
}

func kindOfEntry(h *tar.Header) string {
	switch h.Typeflag {
	case tar.TypeDir:
		return kindOf(unix.S_IFDIR)
	case tar.TypeSymlink:
		return kindOf(unix.S_IFLNK)
	case tar.TypeChar:
		return kindOf(unix.S_IFCHR)
	case tar.TypeBlock:
		return kindOf(unix.S_IFBLK)
	case tar.TypeFifo:
		return kindOf(unix.S_IFIFO)
	}
	return kindOf(unix.S_IFREG)
}
