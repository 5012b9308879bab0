package archive

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/layers/blob"
)

// Ways to resolve names: all confined to the starting descriptor.
const (
	inRoot  = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS
	inMount = inRoot | unix.RESOLVE_NO_XDEV
)

// maxRaces bounds how often a walk begins again, so that a container that
// does nothing but rename can't hold it for ever.
const maxRaces = 1000

// openIn opens name below the folder root; nothing outside can be reached.
// resolve is inRoot or inMount.
func openIn(root int, name string, flags, resolve uint64) (int, error) {
	how := unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Resolve: resolve}
	for try := 0; ; try++ {
		fd, err := unix.Openat2(root, name, &how)
		// EAGAIN: a rename anywhere on the machine raced with a ".." of the walk.
		if err == unix.EINTR || err == unix.EAGAIN && try < maxRaces {
			continue
		}
		return fd, err
	}
}

// tree is the folder that is being filled, with the descriptor of the folder
// used last, since archives go through folders one by one.
type tree struct {
	root    int // owned by the caller
	marks   Marks
	resolve uint64

	dir  int // descriptor of the folder named last; -1 for none; owned
	last string

	// Where the folder that parent gave last lies, through no symlink; kept
	// up to date only if losing is set.
	at      string
	atKnown bool
	// losing, if set, is told of what clear is about to remove: base in the
	// folder that parent gave last.
	losing func(dir int, base string, st *unix.Stat_t) error
}

func newTree(root *os.File, o Options) *tree {
	t := &tree{root: int(root.Fd()), marks: o.Marks, resolve: inMount, dir: -1}
	if o.CrossMounts {
		t.resolve = inRoot
	}
	return t
}

func (t *tree) close() { t.forget() }

// forget drops the remembered folder: after anything that may have changed
// what a name leads to.
func (t *tree) forget() {
	if t.dir >= 0 {
		unix.Close(t.dir)
	}
	t.dir, t.last = -1, ""
}

// parent gives the descriptor of the folder that holds name, making missing
// folders (0755, root). It stays valid until the next call.
func (t *tree) parent(name string) (dir int, base string, err error) {
	p, base := path.Split(name)
	p = strings.TrimSuffix(p, "/")
	if p == "" {
		t.at, t.atKnown = "", true
		return t.root, base, nil
	}
	if t.dir >= 0 && t.last == p {
		return t.dir, base, nil
	}
	t.forget()
	fd, err := openIn(t.root, p, unix.O_PATH|unix.O_DIRECTORY, t.resolve)
	if err == unix.ENOENT || err == unix.ENOTDIR {
		fd, err = t.mkdirs(p)
	}
	if err != nil {
		return -1, "", fmt.Errorf("open folder %q: %w", p, confined(err))
	}
	t.dir, t.last = fd, p
	if t.losing != nil {
		t.at, t.atKnown = t.locate(fd, p)
	}
	return fd, base, nil
}

// locate tells where the folder fd, found as p, lies without symlinks on the
// way. It can't be told if its whole path is longer than PATH_MAX.
func (t *tree) locate(fd int, p string) (string, bool) {
	direct, err := openIn(t.root, p, unix.O_PATH|unix.O_DIRECTORY, t.resolve|unix.RESOLVE_NO_SYMLINKS)
	if err == nil {
		unix.Close(direct)
		return p, true
	}
	top, err := os.Readlink(fdPath(t.root))
	if err != nil {
		return "", false
	}
	full, err := os.Readlink(fdPath(fd))
	if err != nil {
		return "", false
	}
	return strings.CutPrefix(full, strings.TrimSuffix(top, "/")+"/")
}

// mkdirs makes p and its parents, each found by descriptor.
func (t *tree) mkdirs(p string) (int, error) {
	dir, err := unix.FcntlInt(uintptr(t.root), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	for i := 0; i <= len(p); i++ {
		if i < len(p) && p[i] != '/' {
			continue
		}
		next, err := t.step(dir, p[:i])
		unix.Close(dir)
		if err != nil {
			return -1, err
		}
		dir = next
	}
	return dir, nil
}

// step opens the folder prefix, whose parent is open as dir, making it when
// it is missing and turning a whiteout into an opaque folder.
func (t *tree) step(dir int, prefix string) (int, error) {
	fd, err := openIn(t.root, prefix, unix.O_PATH|unix.O_DIRECTORY, t.resolve)
	if err == nil || (err != unix.ENOENT && err != unix.ENOTDIR) {
		return fd, err
	}
	base := path.Base(prefix)
	hidden, err := t.isWhiteout(dir, base)
	if err != nil {
		return -1, err
	}
	if hidden {
		if err := unix.Unlinkat(dir, base, 0); err != nil {
			return -1, err
		}
	}
	if err := unix.Mkdirat(dir, base, 0o755); err != nil {
		return -1, err // EEXIST: a file, or a symlink that leads nowhere
	}
	if hidden {
		if err := t.setOpaque(dir, base); err != nil {
			return -1, err
		}
	}
	return openIn(t.root, prefix, unix.O_PATH|unix.O_DIRECTORY, t.resolve)
}

// isWhiteout tells whether name in dir is overlay's mark for a hidden name.
func (t *tree) isWhiteout(dir int, name string) (bool, error) {
	if t.marks != OverlayMarks {
		return false, nil
	}
	var st unix.Stat_t
	err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err == unix.ENOENT {
		return false, nil
	}
	return err == nil && IsWhiteout(&st), err
}

// IsWhiteout tells whether a file is overlay's mark for a hidden name.
func IsWhiteout(st *unix.Stat_t) bool {
	return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0
}

// setOpaque marks the folder name in dir as hiding all that lies below it.
func (t *tree) setOpaque(dir int, name string) error {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if t.marks == FileMarks {
		return touch(fd, OpaqueName)
	}
	if err := unix.Fsetxattr(fd, opaqueAttr, []byte("y"), 0); err != nil {
		return fmt.Errorf("set %s: %w", opaqueAttr, err)
	}
	return nil
}

func touch(dir int, name string) error {
	fd, err := unix.Openat(dir, name, unix.O_WRONLY|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// clear takes away what is in the way of a new entry. A folder stays when
// keepDir is set. wasMark tells that it was a whiteout, so that a folder in
// its place has to be opaque.
func (t *tree) clear(dir int, base string, keepDir bool) (kept, wasMark bool, err error) {
	var st unix.Stat_t
	err = unix.Fstatat(dir, base, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err == unix.ENOENT {
		return false, false, nil
	}
	if err != nil {
		return false, false, err
	}
	isDir := st.Mode&unix.S_IFMT == unix.S_IFDIR
	if isDir && keepDir {
		return true, false, nil
	}
	if t.losing != nil {
		if err := t.losing(dir, base, &st); err != nil {
			return false, false, err
		}
	}
	if isDir {
		t.last = "" // RemoveAll may take the remembered folder along
		return false, false, RemoveAll(dir, base)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		t.last = "" // it may have been on the way to the remembered folder
	}
	wasMark = t.marks == OverlayMarks && IsWhiteout(&st)
	return false, wasMark, unix.Unlinkat(dir, base, 0)
}

// RemoveAll removes name in the folder dir and all below it, by descriptor
// and without following links. What is not there is no error.
func RemoveAll(dir int, name string) error {
	err := unix.Unlinkat(dir, name, 0)
	if err == nil || err == unix.ENOENT {
		return nil
	}
	if err != unix.EISDIR && err != unix.EPERM {
		return err
	}
	f, err := openDir(dir, name)
	if err != nil {
		return err
	}
	err = removeEntries(f)
	f.Close()
	if err != nil {
		return err
	}
	if err := unix.Unlinkat(dir, name, unix.AT_REMOVEDIR); err != nil && err != unix.ENOENT {
		return err
	}
	return nil
}

func openDir(dir int, name string) (*os.File, error) {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open folder %q: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

func removeEntries(f *os.File) error {
	for {
		names, err := f.Readdirnames(1024)
		for _, n := range names {
			if err := RemoveAll(int(f.Fd()), n); err != nil {
				return err
			}
		}
		if len(names) == 0 || err != nil {
			break
		}
		// Some file systems pass over names after a removal: begin again.
		if _, err := f.Seek(0, 0); err != nil {
			return err
		}
	}
	return nil
}

// confined explains what openat2 says of a walk that would have left.
func confined(err error) error {
	switch {
	case errors.Is(err, unix.EXDEV), errors.Is(err, unix.ELOOP):
		return fmt.Errorf("%w: a link leads astray: %w", ErrHostile, err)
	case errors.Is(err, unix.EEXIST), errors.Is(err, unix.ENOTDIR):
		return fmt.Errorf("%w: something that is no folder is in the way: %w", ErrHostile, err)
	}
	return blob.NoSpace(err)
}
