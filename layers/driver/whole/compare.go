package whole

import (
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/layers/driver"
)

// size is what now has that was does not, in bytes of files (blocks of
// stat(2)); a file with several names counts once. A nil was is an empty
// tree.
func size(now, was *os.File) (int64, error) {
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

// changes lists the paths in which now differs from was, in the contract's
// order. A nil was is an empty tree.
func changes(now, was *os.File) ([]driver.Change, error) {
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
func compare(now, was *os.File, fn func(path string, k driver.Kind, st *unix.Stat_t)) error {
	err := driver.WalkIn(now, func(path string, _ int, _ string, st *unix.Stat_t) error {
		var old unix.Stat_t
		switch err := lstat(was, path, &old); {
		case err != nil:
			fn(path, driver.Added, st)
		case !driver.SameFile(st, &old):
			fn(path, driver.Modified, st)
		}
		return nil
	})
	if err != nil || was == nil {
		return err
	}
	return driver.WalkIn(was, func(path string, _ int, _ string, st *unix.Stat_t) error {
		var cur unix.Stat_t
		switch err := lstat(now, path, &cur); {
		case err != nil:
			fn(path, driver.Deleted, st)
			return driver.SkipDir
		case cur.Mode&unix.S_IFMT != unix.S_IFDIR:
			return driver.SkipDir
		}
		return nil
	})
}

// lstat goes through no link: they are a container's, and an absolute one
// would lead to the machine's files.
func lstat(tree *os.File, path string, st *unix.Stat_t) error {
	if tree == nil {
		return unix.ENOENT
	}
	fd, err := unix.Openat2(int(tree.Fd()), path, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Fstat(fd, st)
}
