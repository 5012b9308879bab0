package sandbox

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// copyUp fills a tmpfs with what it is going to cover. The child has sent descriptors of the folder and of the tmpfs,
// which is attached nowhere yet. Sockets are left out. Links are copied, never followed: whoever fills the root may be
// an enemy, at work at this moment.
func (r *runner) copyUp(destination string) error {
	from, err := receiveFD(r.filled)
	if err != nil {
		return fmt.Errorf("copy up %s: %w", destination, err)
	}
	defer unix.Close(from)
	to, err := receiveFD(r.filled)
	if err != nil {
		return fmt.Errorf("copy up %s: %w", destination, err)
	}
	defer unix.Close(to)
	if err := copyTree(from, to); err != nil {
		return fmt.Errorf("copy up %s: %w", destination, err)
	}
	return nil
}

// owner is who makes files in a tmpfs.
type owner struct{ uid, gid int }

// copyTree copies as the owner of the tmpfs: in that of a user namespace the machine's root, who is nobody there, can
// make nothing (EOVERFLOW).
func copyTree(from, to int) error {
	var st unix.Stat_t
	if err := unix.Fstat(to, &st); err != nil {
		return err
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return owner{int(st.Uid), int(st.Gid)}.copyFolder(from, to, 0)
}

// as does f with the owner's identity for files, which is the thread's alone (setfsuid(2)).
func (o owner) as(f func() error) error {
	if o == (owner{}) {
		return f()
	}
	if err := errors.Join(unix.Setfsgid(o.gid), unix.Setfsuid(o.uid)); err != nil {
		return err
	}
	err := f()
	return errors.Join(err, unix.Setfsuid(0), unix.Setfsgid(0))
}

// maxDepth bounds how deep folders are copied.
const maxDepth = 256

// copyFolder copies what is in one folder, given by descriptor, into another.
func (o owner) copyFolder(from, to, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("folders are nested more than %d deep", maxDepth)
	}
	fd, err := unix.Openat(from, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open folder: %w", err)
	}
	dir := os.NewFile(uintptr(fd), "folder")
	defer dir.Close()
	for {
		names, err := dir.Readdirnames(256)
		for _, name := range names {
			if err := o.copyEntry(fd, to, name, depth); err != nil && !errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("%s: %w", name, err) // what is gone meanwhile is gone
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (o owner) copyEntry(from, to int, name string, depth int) error {
	var st unix.Stat_t
	if err := unix.Fstatat(from, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	var err error
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		err = o.copySub(from, to, name, depth)
	case unix.S_IFREG:
		err = o.copyRegular(from, to, name)
	case unix.S_IFLNK:
		err = o.copyLink(from, to, name)
	case unix.S_IFSOCK:
		return nil
	default:
		err = o.as(func() error { return unix.Mknodat(to, name, st.Mode&unix.S_IFMT|0o600, int(st.Rdev)) })
	}
	if err != nil {
		return err
	}
	return copyMeta(to, name, &st)
}

func (o owner) copySub(from, to int, name string, depth int) error {
	if err := o.as(func() error { return unix.Mkdirat(to, name, 0o700) }); err != nil {
		return err
	}
	const oflags = unix.O_PATH | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	src, err := unix.Openat(from, name, oflags, 0)
	if err != nil {
		return err
	}
	defer unix.Close(src)
	dst, err := unix.Openat(to, name, oflags, 0)
	if err != nil {
		return err
	}
	defer unix.Close(dst)
	return o.copyFolder(src, dst, depth+1)
}

func (o owner) copyRegular(from, to int, name string) error {
	fd, err := unix.Openat(from, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	src := os.NewFile(uintptr(fd), name)
	defer src.Close()
	if st, err := src.Stat(); err != nil || !st.Mode().IsRegular() {
		return fmt.Errorf("no longer a regular file (%v)", err)
	}
	err = o.as(func() error {
		fd, err = unix.Openat(to, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		return err
	})
	if err != nil {
		return err
	}
	dst := os.NewFile(uintptr(fd), name)
	_, err = io.Copy(dst, src)
	return errors.Join(err, dst.Close())
}

func (o owner) copyLink(from, to int, name string) error {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(from, name, buf)
	if err != nil {
		return err
	}
	return o.as(func() error { return unix.Symlinkat(string(buf[:n]), to, name) })
}

// copyMeta sets owner, mode and times of an entry that was just made in a tmpfs that nobody else sees yet.
func copyMeta(to int, name string, st *unix.Stat_t) error {
	if err := unix.Fchownat(to, name, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("set owner %d:%d: %w", st.Uid, st.Gid, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		if err := unix.Fchmodat(to, name, st.Mode&0o7777, 0); err != nil {
			return fmt.Errorf("set mode: %w", err)
		}
	}
	return unix.UtimesNanoAt(to, name, []unix.Timespec{st.Atim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
}
