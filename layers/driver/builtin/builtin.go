// Package builtin has the graph drivers that are linked in, and picks the one
// for a folder. It knows nothing of images: what has been there before, it is
// told.
package builtin

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/layers/driver"
	"github.com/coble-os/coble/layers/driver/btrfs"
	"github.com/coble-os/coble/layers/driver/devmapper"
	"github.com/coble-os/coble/layers/driver/overlay"
	"github.com/coble-os/coble/layers/driver/vfs"
)

// names lists what open knows, the best first. Overlay comes before btrfs, as
// with Docker, since it is what most images are tried with, and works on btrfs
// too; btrfs is for where overlay can't be had and for who asks for it.
// devmapper shares blocks where neither can be had, at the price of a disk of
// fixed size. vfs works everywhere.
func names() []string { return []string{"overlay", "btrfs", "devmapper", "vfs"} }

// Open opens, with its folder in root, the driver of that name. Without one it
// is devmapper if there is a pool, a block device for its thin pool; else the
// prior one, which has layers already; else the best that works here. prior is
// asked only then, and gives an empty name if there is none. reason says why it
// is that driver. The caller closes a driver that is an io.Closer.
func Open(root, name, pool string, prior func() (string, error)) (d driver.Driver, reason string, err error) {
	reason = "asked for"
	if name == "" && pool != "" {
		name, reason = "devmapper", "it has a disk of its own"
	}
	if name == "" {
		if name, err = prior(); err != nil {
			return nil, "", err
		}
		reason = "has the layers that are here"
	}
	if name == "" {
		return best(root, pool)
	}
	d, err = open(root, name, pool)
	return d, reason, err
}

// best opens the first driver that works here; the reason is why those before
// it don't.
func best(root, pool string) (d driver.Driver, reason string, err error) {
	reason = "best available"
	var why []string
	for _, name := range names() {
		d, err := open(root, name, pool)
		if err == nil || !errors.Is(err, driver.ErrUnsupported) {
			return d, reason, err
		}
		why = append(why, err.Error())
		reason = strings.Join(why, "; ")
	}
	return nil, "", fmt.Errorf("open a graph driver: %s", reason)
}

func open(root, name, pool string) (driver.Driver, error) {
	switch name {
	case "overlay", "overlay2": // Docker's name for it
		return overlay.Open(filepath.Join(root, "overlay"))
	case "btrfs":
		return btrfs.Open(filepath.Join(root, name))
	case "devmapper", "devicemapper": // Docker's name for it
		return devmapper.Open(poolRoot(root), pool)
	case "vfs":
		return vfs.Open(filepath.Join(root, name))
	case "aufs":
		return nil, fmt.Errorf("open driver aufs: %w: no stock kernel has it; use overlay", driver.ErrUnsupported)
	default:
		return nil, fmt.Errorf("open driver %q: there is %s", name, strings.Join(names(), ", "))
	}
}

func poolRoot(root string) string { return filepath.Join(root, "devmapper") }

// CleanUp takes away what a driver with its folder in root, that nobody has
// open, left in the kernel.
func CleanUp(root string) error { return devmapper.Clean(poolRoot(root)) }

// Backing names the file system that a driver's layers lie on, as the driver
// tells it or statfs(2) of root; a number if it is none of the usual ones.
func Backing(d driver.Driver, root string) string {
	if d, ok := d.(interface{ Backing() string }); ok {
		return d.Backing()
	}
	var st unix.Statfs_t
	if err := unix.Statfs(root, &st); err != nil {
		return "unknown"
	}
	switch magic := uint32(st.Type); magic {
	case unix.EXT4_SUPER_MAGIC:
		return "extfs" // ext2, ext3 and ext4 have one number; Docker's name for it
	case unix.BTRFS_SUPER_MAGIC:
		return "btrfs"
	case unix.XFS_SUPER_MAGIC:
		return "xfs"
	case unix.F2FS_SUPER_MAGIC:
		return "f2fs"
	case unix.TMPFS_MAGIC:
		return "tmpfs"
	case unix.OVERLAYFS_SUPER_MAGIC:
		return "overlayfs"
	default:
		return fmt.Sprintf("0x%x", magic)
	}
}
