package driver

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/layers/archive"
	"github.com/coble-os/coble/layers/blob"
)

// Store is the folder layout that drivers with one folder per layer share:
//
//	ROOT/d/ID    layers, whole and durable
//	ROOT/c/ID    tops
//	ROOT/t/...   being made or being removed; swept at start
//
// A thing enters d or c by rename when it is finished and leaves by rename
// into t, so that what has a name in d or c is always whole.
//
// That rests on a rename that a power cut undoes or leaves, and on names that
// reach the disk in the order in which they were made. File systems with a
// journal, a log or copy-on-write have both; those without (ext2, vfat) have
// neither, whatever is synced. So names are synced once, the last of them:
// fsync(2) of a folder writes what came before a name in it as well. But
// nothing may be made in a folder of t after it was synced by itself, as btrfs
// then takes it for written. Content of files is another matter, and is synced
// before its folder is renamed.
type Store struct {
	root string
	drop func(dir int, name string) error

	limiting *sync.Mutex // held while a project number is looked for
}

// OpenStore makes the folders, which no one but root may enter, where they
// are missing. drop removes what bears a name in the open folder dir and all
// in it; what is not there is no error. Nil stands for archive.RemoveAll and
// giving back the limit that Limit set.
func OpenStore(root string, drop func(dir int, name string) error) (Store, error) {
	if drop == nil {
		drop = dropFolder
	}
	for _, p := range []string{root, filepath.Join(root, "d"), filepath.Join(root, "c"), filepath.Join(root, "t")} {
		if err := os.Mkdir(p, 0o710); err != nil && !os.IsExist(err) {
			return Store{}, fmt.Errorf("make driver folder: %w", err)
		}
		if err := os.Chmod(p, 0o710); err != nil {
			return Store{}, fmt.Errorf("protect driver folder: %w", err)
		}
	}
	return Store{root, drop, &sync.Mutex{}}, nil
}

// Root is the driver's folder.
func (s Store) Root() string { return s.root }

// Layer is where the layer id lies.
func (s Store) Layer(id string) string { return filepath.Join(s.layers(), id) }

func (s Store) layers() string { return filepath.Join(s.root, "d") }

func (s Store) temp(id string) string { return filepath.Join(s.root, "t", id) }

// Top is where the top id lies.
func (s Store) Top(id string) string { return filepath.Join(s.root, "c", id) }

// Temp makes an empty folder to make the layer or top id in.
func (s Store) Temp(id string) (string, error) {
	if err := CheckID(id); err != nil {
		return "", err
	}
	p := s.temp(id)
	if err := s.removeTemp(id); err != nil {
		return "", err
	}
	if err := os.Mkdir(p, 0o700); err != nil {
		return "", fmt.Errorf("make layer folder: %w", blob.NoSpace(err))
	}
	return p, nil
}

// Discard removes a folder made by Temp, after an error.
func (s Store) Discard(temp string) { _ = s.removeTemp(filepath.Base(temp)) }

// Commit gives a finished folder of Temp its lasting name, durably. The
// content of files in it has to be durable already; folders need not be.
func (s Store) Commit(temp, final string) error {
	if err := s.Place(temp, final); err != nil {
		return err
	}
	return blob.SyncDir(filepath.Dir(final))
}

// Place gives a finished folder of Temp its lasting name, which is not durable
// yet.
func (s Store) Place(temp, final string) error {
	if err := s.evict(final); err != nil {
		return err
	}
	if err := os.Rename(temp, final); err != nil {
		return fmt.Errorf("place layer: %w", err)
	}
	return nil
}

// Has tells whether a layer's folder is there.
func (s Store) Has(id string) bool {
	st, err := os.Lstat(s.Layer(id))
	return CheckID(id) == nil && err == nil && st.IsDir()
}

// Need fails with ErrMissing if a layer of the stack is not there.
func (s Store) Need(stack []string) error {
	for _, id := range stack {
		if !s.Has(id) {
			return fmt.Errorf("layer %s: %w", id, ErrMissing)
		}
	}
	return nil
}

// OpenFolder opens a folder of the layer id, sub below its own.
func (s Store) OpenFolder(id, sub string) (*os.File, error) {
	if err := s.Need([]string{id}); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(s.Layer(id), sub), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("open layer %s: %w", id, err)
	}
	return f, nil
}

// NeedTop fails with ErrMissing if the top is not there.
func (s Store) NeedTop(id string) error {
	if err := CheckID(id); err != nil {
		return err
	}
	if _, err := os.Lstat(s.Top(id)); err != nil {
		return fmt.Errorf("writable layer %s: %w", id, ErrMissing)
	}
	return nil
}

// Remove takes a layer away.
func (s Store) Remove(id string) error {
	if err := CheckID(id); err != nil {
		return err
	}
	return s.evict(s.Layer(id))
}

// RemoveTop takes a top away.
func (s Store) RemoveTop(id string) error {
	if err := CheckID(id); err != nil {
		return err
	}
	return s.evict(s.Top(id))
}

// evict renames a folder out of sight and then removes it, so that a crash in
// the middle leaves nothing half-removed under its name. Nothing is synced: the
// store has forgotten the folder before, so whatever a power cut brings back
// of it is swept away at the next start.
func (s Store) evict(path string) error {
	kind := filepath.Base(filepath.Dir(path))
	gone := "rm-" + kind + "-" + filepath.Base(path)
	if err := s.removeTemp(gone); err != nil {
		return err
	}
	err := os.Rename(path, s.temp(gone))
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove layer: %w", err)
	}
	return s.removeTemp(gone)
}

func (s Store) removeTemp(name string) error {
	dir, err := os.Open(filepath.Join(s.root, "t"))
	if err != nil {
		return fmt.Errorf("open driver folder: %w", err)
	}
	defer dir.Close()
	if err := s.drop(int(dir.Fd()), name); err != nil {
		return fmt.Errorf("remove layer %s: %w", name, err)
	}
	return nil
}

// List names the layers and tops.
func (s Store) List() (layers, tops []string, err error) {
	if layers, err = names(filepath.Join(s.root, "d")); err != nil {
		return nil, nil, err
	}
	tops, err = names(filepath.Join(s.root, "c"))
	return layers, tops, err
}

// Sweep empties the folder of unfinished things.
func (s Store) Sweep() error {
	left, err := names(filepath.Join(s.root, "t"))
	if err != nil {
		return err
	}
	for _, n := range left {
		if err := s.removeTemp(n); err != nil {
			return err
		}
	}
	return nil
}

func names(dir string) ([]string, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("list layers: %w", err)
	}
	defer f.Close()
	ns, err := f.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("list layers: %w", err)
	}
	return ns, nil
}

// Usage is the space that files below a folder take, in bytes (blocks of
// stat(2)); a file with several names counts once. Symlinks are not
// followed.
func Usage(path string) (int64, error) {
	var sum int64
	seen := map[uint64]bool{}
	err := Walk(path, func(_ string, _ int, _ string, st *unix.Stat_t) error {
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			return nil
		}
		if st.Nlink > 1 {
			if seen[st.Ino] {
				return nil
			}
			seen[st.Ino] = true
		}
		if st.Mode&unix.S_IFMT == unix.S_IFREG {
			sum += min(st.Size, st.Blocks*512)
		}
		return nil
	})
	return sum, err
}

// PackChanges writes changes, sorted and with the folders above each, as the
// layer that they make. root shows what the top shows, whole and without
// marks: for drivers whose tops hold what lies below as well.
func PackChanges(ctx context.Context, root *os.File, cs []Change, w io.Writer) error {
	kept, gone := map[string]bool{}, map[string][]string{}
	for _, c := range cs {
		name := strings.TrimPrefix(c.Path, "/")
		if c.Kind == Deleted {
			dir, base := filepath.Split(name)
			dir = filepath.Clean("./" + dir)
			gone[dir] = append(gone[dir], base)
			continue
		}
		kept[name] = true
	}
	return archive.Pack(ctx, root, ".", w, archive.PackOptions{
		Marks: archive.NoMarks,
		Pick:  func(name string) bool { return kept[name] },
		Gone:  func(dir string) []string { return gone[dir] },
	})
}

// SkipDir, returned by a Walk function, leaves out what lies in a folder.
var SkipDir = filepath.SkipDir

// Walk calls fn for everything below the folder root, a folder before what is
// in it. path is relative to root; dir is an open descriptor of the folder
// that holds base, valid during the call. No link is followed. What vanishes
// meanwhile is passed over.
func Walk(root string, fn func(path string, dir int, base string, st *unix.Stat_t) error) error {
	f, err := os.OpenFile(root, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return fmt.Errorf("walk layer: %w", err)
	}
	defer f.Close()
	return walk(f, "", fn)
}

// WalkIn is Walk for an open folder, whose offset it does not touch.
func WalkIn(dir *os.File, fn func(path string, dir int, base string, st *unix.Stat_t) error) error {
	fd, err := unix.Openat(int(dir.Fd()), ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("walk layer: %w", err)
	}
	f := os.NewFile(uintptr(fd), dir.Name())
	defer f.Close()
	return walk(f, "", fn)
}

func walk(f *os.File, prefix string, fn func(string, int, string, *unix.Stat_t) error) error {
	for {
		ns, err := f.Readdirnames(512)
		if err == io.EOF || len(ns) == 0 && err == nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("list folder %s: %w", prefix, err)
		}
		for _, base := range ns {
			if err := visit(f, prefix, base, fn); err != nil {
				return err
			}
		}
	}
}

func visit(f *os.File, prefix, base string, fn func(string, int, string, *unix.Stat_t) error) error {
	dir := int(f.Fd())
	path := strings.TrimPrefix(prefix+"/"+base, "/")
	var st unix.Stat_t
	err := unix.Fstatat(dir, base, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err == unix.ENOENT {
		return nil
	}
	if err != nil {
		return fmt.Errorf("stat %s: %w", path, err)
	}
	err = fn(path, dir, base, &st)
	isDir := st.Mode&unix.S_IFMT == unix.S_IFDIR
	if err == SkipDir {
		return nil
	}
	if err != nil || !isDir {
		return err
	}
	fd, err := unix.Openat(dir, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err == unix.ENOENT || err == unix.ENOTDIR || err == unix.ELOOP {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open folder %s: %w", path, err)
	}
	sub := os.NewFile(uintptr(fd), base)
	defer sub.Close()
	return walk(sub, path, fn)
}
