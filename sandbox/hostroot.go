package sandbox

import (
	"errors"
	"fmt"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// HostMounts tells whether a container of this spec has its mounts on the machine, below its root folder, because it
// has no mount namespace. Whoever starts one asks RootMount before, and calls UnmountRoot when it has ended.
func HostMounts(s *specs.Spec) bool {
	if s == nil || s.Linux == nil {
		return false
	}
	for _, n := range s.Linux.Namespaces {
		if n.Type == specs.MountNamespace {
			return false
		}
	}
	return true
}

// RootMount is the number of the mount that a folder lies on (statx(2), STATX_MNT_ID).
func RootMount(root string) (uint64, error) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, root, 0, unix.STATX_MNT_ID, &st); err != nil {
		return 0, fmt.Errorf("find mount of root %s: %w", root, err)
	}
	return st.Mnt_id, nil
}

// UnmountRoot takes away what a container with HostMounts has mounted on and below its root folder: all down to the
// mount that was there before. A root that is gone, or "/", has none.
func UnmountRoot(root string, before uint64) error {
	if root == "/" || before == 0 {
		return nil
	}
	for {
		fd, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err == unix.ENOENT {
			return nil
		}
		if err != nil {
			return fmt.Errorf("unmount root %s: %w", root, err)
		}
		done, err := unmountFD(fd, before)
		if err = errors.Join(err, unix.Close(fd)); err != nil || done {
			return err
		}
	}
}

// unmountFD takes away the mount that fd is the root of, with all below it, unless it is the one that stays.
func unmountFD(fd int, stays uint64) (done bool, err error) {
	var st unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &st); err != nil {
		return false, fmt.Errorf("find mount of root: %w", err)
	}
	if st.Mnt_id == stays {
		return true, nil
	}
	if err := unix.Unmount(fmt.Sprintf("/proc/self/fd/%d", fd), unix.MNT_DETACH); err != nil {
		return false, fmt.Errorf("unmount root: %w", err)
	}
	return false, nil
}

func (c *Config) findRootMount() error {
	if !HostMounts(c.Spec) {
		return nil
	}
	root, err := c.root()
	if err == nil {
		c.rootMount, err = RootMount(root)
	}
	return err
}

func (c *Config) unmountRoot() error {
	if c.rootMount == 0 {
		return nil
	}
	root, err := c.root()
	if err != nil {
		return err
	}
	return UnmountRoot(root, c.rootMount)
}
