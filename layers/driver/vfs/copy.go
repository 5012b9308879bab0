package vfs

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/layers/blob"
	"github.com/coble-os/coble/layers/driver"
	"github.com/coble-os/coble/layers/driver/whole"
)

// copyTree copies the folder from, which nobody changes meanwhile, to the
// new folder to, with owners, modes, times, attributes and hard links.
func copyTree(ctx context.Context, from, to string) error {
	src, err := os.OpenFile(from, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer src.Close()
	if err := os.Mkdir(to, 0o700); err != nil {
		return err
	}
	dst, err := os.Open(to)
	if err != nil {
		return err
	}
	defer dst.Close()
	c := &copier{ctx: ctx, dst: dst, links: map[uint64]string{}}
	if err := driver.Walk(from, c.copy); err != nil {
		return err
	}
	return c.dirs(from)
}

type copier struct {
	ctx   context.Context
	dst   *os.File
	links map[uint64]string // inode of the source with several names: its first name
}

// copy makes one entry. All parents were made before, by this walk, as plain
// folders, so a path relative to dst meets no symlink.
func (c *copier) copy(path string, dir int, base string, st *unix.Stat_t) error {
	if err := context.Cause(c.ctx); err != nil {
		return err
	}
	to := int(c.dst.Fd())
	kind := st.Mode & unix.S_IFMT
	if kind != unix.S_IFDIR && st.Nlink > 1 {
		if first, ok := c.links[st.Ino]; ok {
			return wrap(path, unix.Linkat(to, first, to, path, 0))
		}
		c.links[st.Ino] = path
	}
	switch kind {
	case unix.S_IFDIR:
		return wrap(path, unix.Mkdirat(to, path, 0o700)) // dressed by dirs
	case unix.S_IFREG:
		return wrap(path, copyFile(c.ctx, dir, base, to, path, st))
	case unix.S_IFLNK:
		buf := make([]byte, st.Size+1)
		n, err := unix.Readlinkat(dir, base, buf)
		if err != nil {
			return wrap(path, err)
		}
		if err := unix.Symlinkat(string(buf[:n]), to, path); err != nil {
			return wrap(path, err)
		}
	default:
		if err := unix.Mknodat(to, path, st.Mode, int(st.Rdev)); err != nil {
			return wrap(path, err)
		}
		if err := unix.Fchownat(to, path, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return wrap(path, err)
		}
		if err := unix.Fchmodat(to, path, st.Mode&0o7777, 0); err != nil {
			return wrap(path, err)
		}
	}
	return wrap(path, finish(to, path, st))
}

func wrap(path string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("copy %s: %w", path, err)
}

// finish sets owner and times without following links.
func finish(dir int, path string, st *unix.Stat_t) error {
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		if err := unix.Fchownat(dir, path, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
	}
	return unix.UtimesNanoAt(dir, path, []unix.Timespec{st.Atim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
}

func copyFile(ctx context.Context, sdir int, sbase string, ddir int, dpath string, st *unix.Stat_t) error {
	sfd, err := unix.Openat(sdir, sbase, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	src := os.NewFile(uintptr(sfd), sbase)
	defer src.Close()
	dfd, err := unix.Openat(ddir, dpath, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	dst := os.NewFile(uintptr(dfd), dpath)
	defer dst.Close()
	if st.Size > 0 {
		if err := copyBytes(ctx, src, dst); err != nil {
			return err
		}
	}
	if err := whole.Dress(src, dst, st); err != nil {
		return err
	}
	return finish(ddir, dpath, st)
}

// copyBytes shares the blocks where the file system can; io.Copy goes
// through copy_file_range(2) otherwise.
func copyBytes(ctx context.Context, src, dst *os.File) error {
	if unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())) == nil {
		return nil
	}
	n, err := io.Copy(dst, src)
	blob.Wrote(ctx, n)
	return err
}

// dirs dresses the folders once all that lies in them is there.
func (c *copier) dirs(from string) error {
	err := driver.Walk(from, func(path string, dir int, base string, st *unix.Stat_t) error {
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			return nil
		}
		return wrap(path, c.dir(filepath.Join(from, path), path, st))
	})
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Lstat(from, &st); err != nil {
		return err
	}
	return c.dir(from, ".", &st)
}

func (c *copier) dir(from, path string, st *unix.Stat_t) error {
	src, err := os.OpenFile(from, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer src.Close()
	fd, err := unix.Openat(int(c.dst.Fd()), path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	dst := os.NewFile(uintptr(fd), path)
	defer dst.Close()
	if err := whole.Dress(src, dst, st); err != nil {
		return err
	}
	return finish(int(c.dst.Fd()), path, st)
}
