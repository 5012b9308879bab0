package btrfs

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/layers/archive"
)

// drop removes a folder of the store: the subvolume in it by ioctl, the rest
// as files. A container may have made subvolumes in its own, and set them
// read-only: neither needs a capability.
func drop(dir int, name string) error {
	f, err := openDir(dir, name)
	if gone(err) {
		return nil
	}
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return archive.RemoveAll(dir, name)
	}
	if err != nil {
		return err
	}
	err = destroy(int(f.Fd()), volume)
	f.Close()
	if err != nil {
		return err
	}
	return archive.RemoveAll(dir, name)
}

// destroy removes the subvolume name in dir, with those that lie in it. What
// is not there is no error, and what is no subvolume stays.
func destroy(dir int, name string) error {
	var st unix.Stat_t
	err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err == unix.ENOENT {
		return nil
	}
	if err != nil {
		return fmt.Errorf("stat subvolume: %w", err)
	}
	if !isSubvol(&st) {
		return nil
	}
	if st.Ino == emptySubvolDir {
		return archive.RemoveAll(dir, name)
	}
	err = destroySubvol(dir, name)
	if err != unix.ENOTEMPTY {
		return wrapDestroy(err)
	}
	if err := emptyOfSubvols(dir, name); err != nil {
		return err
	}
	return wrapDestroy(destroySubvol(dir, name))
}

func wrapDestroy(err error) error {
	if err == nil || err == unix.ENOENT {
		return nil
	}
	return fmt.Errorf("destroy subvolume (BTRFS_IOC_SNAP_DESTROY_V2): %w", err)
}

// emptyOfSubvols destroys the subvolumes within one that is to go.
func emptyOfSubvols(dir int, name string) error {
	f, err := openDir(dir, name)
	if err != nil {
		return err
	}
	defer f.Close()
	if ro, err := isReadonly(int(f.Fd())); err != nil || ro {
		if err == nil {
			err = setReadonly(int(f.Fd()), false)
		}
		if err != nil {
			return fmt.Errorf("make subvolume writable: %w", err)
		}
	}
	return eachEntry(f)
}

// eachEntry looks for subvolumes below an open folder, and destroys them.
func eachEntry(f *os.File) error {
	for {
		names, err := f.Readdirnames(1024)
		for _, n := range names {
			if err := oneEntry(int(f.Fd()), n); err != nil {
				return err
			}
		}
		if err == io.EOF || len(names) == 0 && err == nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("list subvolume: %w", err)
		}
	}
}

func oneEntry(dir int, name string) error {
	var st unix.Stat_t
	switch err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); {
	case err == unix.ENOENT:
		return nil
	case err != nil:
		return fmt.Errorf("stat %s: %w", name, err)
	case isSubvol(&st):
		return destroy(dir, name)
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		return nil
	}
	sub, err := openDir(dir, name)
	if err != nil {
		return err
	}
	defer sub.Close()
	return eachEntry(sub)
}

// reclaim waits until a destroyed subvolume's space can be used again, so
// that a full disk is not full any more when an unpacking that did not fit
// has answered. It gives up after a while, which costs nothing but that.
func (d *Driver) reclaim(id uint64) error {
	f, err := os.Open(d.Root())
	if err != nil {
		return err
	}
	defer f.Close()
	for end := time.Now().Add(maxReclaim); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		there, err := exists(int(f.Fd()), id)
		if err != nil {
			return fmt.Errorf("look for destroyed subvolume (BTRFS_IOC_TREE_SEARCH): %w", err)
		}
		// Also if it is gone: extents are free once the transaction that freed them is whole.
		if err := commit(int(f.Fd())); err != nil {
			return fmt.Errorf("commit transaction (BTRFS_IOC_SYNC): %w", err)
		}
		if !there {
			return nil
		}
	}
	return nil
}

const maxReclaim = 30 * time.Second
