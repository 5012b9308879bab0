// Package rootfs opens, reads and makes files inside a root folder that somebody else fills, perhaps at this moment.
//
// Every path is resolved by the kernel in one go with openat2(2), RESOLVE_IN_ROOT: links, absolute ones too, and ".."
// stay inside the root, however the tree changes meanwhile; magic links of procfs are refused. Nothing here follows a
// path twice, and nothing uses a name service. The root may be a folder or /proc/PID/root of a running container.
package rootfs

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// Root is an open root folder. It is safe for use by several goroutines.
type Root struct {
	dir  *os.File
	name string
}

// Open opens a root. The name itself is trusted, and links in it are followed.
func Open(name string) (*Root, error) {
	fd, err := unix.Open(name, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open root %s: %w", name, err)
	}
	return &Root{os.NewFile(uintptr(fd), name), name}, nil
}

// New makes a root of an open folder, whose name is only for errors. The root owns it.
func New(dir *os.File) *Root { return &Root{dir, dir.Name()} }

// Close closes the root; files opened in it stay open.
func (r *Root) Close() error { return r.dir.Close() }

// retries bounds how often a lookup is tried again after EAGAIN, which the kernel returns when something was renamed
// while it resolved "..".
const retries = 100

func (r *Root) openat2(p string, flags int, mode uint32) (int, error) {
	how := unix.OpenHow{
		Flags: uint64(flags | unix.O_CLOEXEC), Mode: uint64(mode), Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	}
	p = strings.TrimPrefix(path.Clean("/"+p), "/")
	if p == "" {
		p = "."
	}
	for range retries {
		fd, err := unix.Openat2(int(r.dir.Fd()), p, &how)
		if err != unix.EAGAIN && err != unix.EINTR {
			return fd, err
		}
	}
	return -1, unix.EAGAIN
}

// OpenFile opens p with open(2) flags. The mode counts only with O_CREAT.
func (r *Root) OpenFile(p string, flags int, mode os.FileMode) (*os.File, error) {
	if flags&(unix.O_CREAT|unix.O_TMPFILE) == 0 {
		mode = 0
	}
	fd, err := r.openat2(p, flags, uint32(mode.Perm()))
	if err != nil {
		return nil, &os.PathError{Op: "open in root " + r.name, Path: p, Err: err}
	}
	return os.NewFile(uintptr(fd), p), nil
}

// ErrTooLarge is a file longer than the caller wants.
var ErrTooLarge = errors.New("file is too large")

// ReadFile reads a regular file of at most limit bytes. Other kinds of files, which might block, are an error.
func (r *Root) ReadFile(p string, limit int64) ([]byte, error) {
	f, err := r.OpenFile(p, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("read %s in root %s: not a regular file", p, r.name)
	}
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("read %s in root %s: %w (over %d bytes)", p, r.name, ErrTooLarge, limit)
	}
	return b, err
}

// MkdirAll makes the folders of p that are missing, each by a descriptor of its parent, and opens the last (O_PATH).
// Folders that exist keep their mode.
func (r *Root) MkdirAll(p string, mode os.FileMode) (*os.File, error) {
	parts := strings.Split(strings.TrimPrefix(path.Clean("/"+p), "/"), "/")
	dir, err := r.OpenFile("/", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	for i, name := range parts {
		if name == "" {
			continue
		}
		err := unix.Mkdirat(int(dir.Fd()), name, uint32(mode.Perm()))
		dir.Close()
		if err != nil && err != unix.EEXIST {
			return nil, &os.PathError{Op: "make folder in root " + r.name, Path: p, Err: err}
		}
		if dir, err = r.OpenFile(path.Join(parts[:i+1]...), unix.O_PATH|unix.O_DIRECTORY, 0); err != nil {
			return nil, err
		}
	}
	return dir, nil
}

// Create makes or truncates the regular file p, with folders above it as needed, and opens it for writing.
func (r *Root) Create(p string, mode os.FileMode) (*os.File, error) {
	dir, err := r.MkdirAll(path.Dir(path.Clean("/"+p)), 0o755)
	if err != nil {
		return nil, err
	}
	dir.Close()
	f, err := r.OpenFile(p, unix.O_WRONLY|unix.O_CREAT|unix.O_NONBLOCK|unix.O_NOCTTY, mode)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("create %s in root %s: exists and is not a regular file", p, r.name)
	}
	if err == nil {
		err = f.Truncate(0)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
