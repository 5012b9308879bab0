// Package whole has what drivers share whose layers are whole trees rather
// than changes: applying a layer's changes to a copy of what lies below, and
// finding what a container changed by comparing two trees.
//
// It makes nothing durable and knows no ids.
package whole

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/layers/driver"
)

// Size is what now has that was does not, in bytes of files (blocks of
// stat(2)); a file with several names counts once. An empty was is an empty
// tree.
func Size(now, was string) (int64, error) {
	var sum int64
	seen := map[uint64]bool{}
	err := compare(now, was, func(_ string, k driver.Kind, st *unix.Stat_t) {
		if k == driver.Deleted || st.Mode&unix.S_IFMT != unix.S_IFREG || seen[st.Ino] {
			return
		}
		if st.Nlink > 1 {
			seen[st.Ino] = true
		}
		sum += min(st.Size, st.Blocks*512)
	})
	return sum, err
}

// Changes lists the paths in which now differs from was, in the contract's
// order. An empty was is an empty tree.
func Changes(now, was string) ([]driver.Change, error) {
	var out []driver.Change
	err := compare(now, was, func(path string, k driver.Kind, _ *unix.Stat_t) {
		out = append(out, driver.Change{Path: "/" + path, Kind: k})
	})
	return withParents(out), err
}

// withParents adds the folders above changes, as overlay has them: docker
// diff shows a folder as changed when something in it is.
func withParents(cs []driver.Change) []driver.Change {
	have := map[string]bool{}
	for _, c := range cs {
		have[c.Path] = true
	}
	for _, c := range cs {
		for p := filepath.Dir(c.Path); p != "/" && !have[p]; p = filepath.Dir(p) {
			have[p] = true
			cs = append(cs, driver.Change{Path: p, Kind: driver.Modified})
		}
	}
	driver.SortChanges(cs)
	return cs
}

// compare reports every path in which now differs from was. For what is gone
// st is the old file's. What lay in a folder that is something else now is
// not listed: the change of its kind says it.
func compare(now, was string, fn func(path string, k driver.Kind, st *unix.Stat_t)) error {
	olds, err := openTree(was)
	if err != nil {
		return err
	}
	defer olds.Close()
	err = driver.Walk(now, func(path string, _ int, _ string, st *unix.Stat_t) error {
		var old unix.Stat_t
		switch err := olds.lstat(path, &old); {
		case err != nil:
			fn(path, driver.Added, st)
		case !driver.SameFile(st, &old):
			fn(path, driver.Modified, st)
		}
		return nil
	})
	if err != nil || was == "" {
		return err
	}
	news, err := openTree(now)
	if err != nil {
		return err
	}
	defer news.Close()
	return driver.Walk(was, func(path string, _ int, _ string, st *unix.Stat_t) error {
		var cur unix.Stat_t
		switch err := news.lstat(path, &cur); {
		case err != nil:
			fn(path, driver.Deleted, st)
			return driver.SkipDir
		case cur.Mode&unix.S_IFMT != unix.S_IFDIR:
			return driver.SkipDir
		}
		return nil
	})
}

// root is a tree in which paths are looked up; nil is one without any.
type root struct{ *os.File }

func openTree(path string) (root, error) {
	if path == "" {
		return root{}, nil
	}
	f, err := os.OpenFile(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return root{}, fmt.Errorf("open tree to compare: %w", err)
	}
	return root{f}, nil
}

// lstat goes through no link: they are a container's, and an absolute one
// would lead to the machine's files.
func (r root) lstat(path string, st *unix.Stat_t) error {
	if r.File == nil {
		return unix.ENOENT
	}
	fd, err := unix.Openat2(int(r.Fd()), path, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Fstat(fd, st)
}
