package whole

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/layers/archive"
	"github.com/coble-os/coble/layers/blob"
)

// Fill makes the folder dir and unpacks a layer's stream into it, with
// archive.FileMarks for what it hides: what Merge takes.
func Fill(ctx context.Context, dir string, tar io.Reader, l archive.Limits) (archive.Stats, error) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return archive.Stats{}, fmt.Errorf("make layer folder: %w", blob.NoSpace(err))
	}
	root, err := os.Open(dir)
	if err != nil {
		return archive.Stats{}, fmt.Errorf("open layer folder: %w", err)
	}
	defer root.Close()
	return archive.Unpack(ctx, root, tar, archive.Options{Limits: l, Marks: archive.FileMarks})
}

// Merge moves what Fill unpacked into the folder changes into tree, the copy
// of what lies below: hidden names go, folders are merged, everything else
// takes the place of what was there. Both are private to the caller and in
// one file system and, on btrfs, subvolume (rename(2)). The folder changes is
// gone afterwards.
func Merge(changes, tree string) error {
	if err := merge(changes, tree); err != nil {
		return fmt.Errorf("apply layer: %w", blob.NoSpace(err))
	}
	if err := os.RemoveAll(changes); err != nil {
		return fmt.Errorf("remove unpacked changes: %w", err)
	}
	return nil
}

func merge(changes, tree string) error {
	from, err := os.Open(changes)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.Open(tree)
	if err != nil {
		return err
	}
	defer to.Close()
	return mergeDir(from, to)
}

// mergeDir does one folder, and gives to the owner, mode, attributes and
// times of from.
func mergeDir(from, to *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(from.Fd()), &st); err != nil {
		return err
	}
	names, err := from.Readdirnames(-1)
	if err != nil {
		return fmt.Errorf("list %s: %w", from.Name(), err)
	}
	if err := hide(names, to); err != nil {
		return err
	}
	for _, n := range names {
		if strings.HasPrefix(n, archive.WhiteoutPrefix) {
			continue
		}
		if err := mergeEntry(from, to, n); err != nil {
			return fmt.Errorf("%s: %w", n, err)
		}
	}
	if err := Dress(from, to, &st); err != nil {
		return err
	}
	return unix.UtimesNanoAt(int(to.Fd()), ".", []unix.Timespec{st.Atim, st.Mtim}, 0)
}

// hide removes what the marks among names hide in to.
func hide(names []string, to *os.File) error {
	for _, n := range names {
		if n == archive.OpaqueName {
			below, err := to.Readdirnames(-1)
			if err != nil {
				return err
			}
			for _, b := range below {
				if err := archive.RemoveAll(int(to.Fd()), b); err != nil {
					return err
				}
			}
			return nil
		}
	}
	for _, n := range names {
		hidden, ok := strings.CutPrefix(n, archive.WhiteoutPrefix)
		if !ok {
			continue
		}
		if err := archive.RemoveAll(int(to.Fd()), hidden); err != nil {
			return err
		}
	}
	return nil
}

func mergeEntry(from, to *os.File, name string) error {
	isDir := func(dir int) (bool, bool, error) {
		var st unix.Stat_t
		err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW)
		if err == unix.ENOENT {
			return false, false, nil
		}
		return st.Mode&unix.S_IFMT == unix.S_IFDIR, true, err
	}
	srcDir, _, err := isDir(int(from.Fd()))
	if err != nil {
		return err
	}
	dstDir, exists, err := isDir(int(to.Fd()))
	if err != nil {
		return err
	}
	if srcDir && !(exists && dstDir) {
		// Made anew rather than moved: marks further down have to go.
		if err := archive.RemoveAll(int(to.Fd()), name); err != nil {
			return err
		}
		if err := unix.Mkdirat(int(to.Fd()), name, 0o700); err != nil {
			return err
		}
	}
	if srcDir {
		return mergeSub(from, to, name)
	}
	if exists && dstDir {
		if err := archive.RemoveAll(int(to.Fd()), name); err != nil {
			return err
		}
	}
	return unix.Renameat(int(from.Fd()), name, int(to.Fd()), name)
}

func mergeSub(from, to *os.File, name string) error {
	sub := func(f *os.File) (*os.File, error) {
		fd, err := unix.Openat(int(f.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, err
		}
		return os.NewFile(uintptr(fd), name), nil
	}
	a, err := sub(from)
	if err != nil {
		return err
	}
	defer a.Close()
	b, err := sub(to)
	if err != nil {
		return err
	}
	defer b.Close()
	return mergeDir(a, b)
}
