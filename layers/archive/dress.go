package archive

import (
	"archive/tar"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// dress gives a new entry its owner, mode, attributes and time. Regular
// files have all but the time already.
func (u *unpacker) dress(h *tar.Header, name string, dir int, base string, wasMark bool) error {
	mtime := clampTime(h.ModTime)
	switch h.Typeflag {
	case tar.TypeDir:
		if err := u.dressDir(h, dir, base, wasMark); err != nil {
			return err
		}
		return u.times.add(name, mtime)
	case tar.TypeReg, tar.TypeGNUSparse, tar.TypeCont:
		return setTime(dir, base, mtime)
	case tar.TypeLink:
		return u.dressLink(h, dir, base, mtime)
	}
	if err := unix.Fchownat(dir, base, h.Uid, h.Gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("set owner: %w", err)
	}
	if h.Typeflag != tar.TypeSymlink {
		if err := chmodNode(dir, base, mode(h)); err != nil {
			return fmt.Errorf("set mode: %w", err)
		}
	}
	return setTime(dir, base, mtime)
}

func (u *unpacker) dressDir(h *tar.Header, dir int, base string, wasMark bool) error {
	fd, err := unix.Openat(dir, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if wasMark {
		if err := u.t.setOpaque(dir, base); err != nil {
			return err
		}
	}
	return u.dressFile(h, fd)
}

// dressLink touches the shared file only where it is a regular one. It is
// held by an O_PATH descriptor: in a container that runs it may be swapped
// for a device at any moment, which must not be opened.
func (u *unpacker) dressLink(h *tar.Header, dir int, base string, t time.Time) error {
	fd, st, err := hold(dir, base)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil
	}
	if err := unix.Fchownat(fd, "", h.Uid, h.Gid, unix.AT_EMPTY_PATH); err != nil {
		return fmt.Errorf("set owner: %w", err)
	}
	if err := unix.Chmod(fdPath(fd), mode(h)); err != nil {
		return fmt.Errorf("set mode: %w", err)
	}
	if err := u.attrs(h, fd); err != nil {
		return err
	}
	return setTime(dir, base, t)
}

// hold opens a name without following or touching what it is.
func hold(dir int, base string) (fd int, st unix.Stat_t, err error) {
	fd, err = unix.Openat(dir, base, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, st, err
	}
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return -1, st, err
	}
	return fd, st, nil
}

// fdPath leads to the file itself that an O_PATH descriptor holds.
func fdPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// chmodNode sets the mode of a device or fifo. fchmodat(2) would follow a
// symlink that a running container put in its place, out of the container.
func chmodNode(dir int, base string, mode uint32) error {
	fd, st, err := hold(dir, base)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		return fmt.Errorf("%w: a link took the place of a device", ErrHostile)
	}
	return unix.Chmod(fdPath(fd), mode)
}

// attrs sets the extended attributes that an archive may set. File systems
// that have none of a kind lose them, as with every other tool.
func (u *unpacker) attrs(h *tar.Header, fd int) error {
	for key, value := range h.PAXRecords {
		name, ok := strings.CutPrefix(key, "SCHILY.xattr.")
		if !ok {
			continue
		}
		if !attrAllowed(name) {
			u.stats.DroppedAttrs++
			continue
		}
		err := unix.Setxattr(fdPath(fd), name, []byte(value), 0)
		if errors.Is(err, unix.ENOTSUP) {
			u.stats.DroppedAttrs++
			continue
		}
		if err != nil {
			return fmt.Errorf("set attribute %q: %w", name, err)
		}
	}
	return nil
}

func mode(h *tar.Header) uint32 { return uint32(h.Mode) & 0o7777 }

func (u *unpacker) dressFile(h *tar.Header, fd int) error {
	if err := unix.Fchown(fd, h.Uid, h.Gid); err != nil {
		return fmt.Errorf("set owner: %w", err)
	}
	// After the owner: chown(2) clears set-id bits and capabilities.
	if err := unix.Fchmod(fd, mode(h)); err != nil {
		return fmt.Errorf("set mode: %w", err)
	}
	return u.attrs(h, fd)
}
