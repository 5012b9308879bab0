package repo

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/layers/catalog"
	"github.com/coble-os/coble/layers/driver"
	"github.com/coble-os/coble/layers/driver/btrfs"
	"github.com/coble-os/coble/layers/driver/devmapper"
	"github.com/coble-os/coble/layers/driver/overlay"
	"github.com/coble-os/coble/layers/driver/vfs"
	"github.com/coble-os/coble/layers/graph"
)

// drivers lists the names of what openDriver knows, the best first. Overlay
// comes before btrfs, as with Docker, since it is what most images are tried
// with, and works on btrfs too; btrfs is for where overlay can't be had and
// for who asks for it. devmapper shares blocks where neither can be had, at
// the price of a disk of fixed size. vfs works everywhere.
func drivers() []string { return []string{"overlay", "btrfs", "devmapper", "vfs"} }

// Driver tells which driver is used, and why.
func (r *Repo) Driver() (name, reason string) { return r.drv.Name(), r.reason }

// Backing names the file system that the driver's layers lie on, as the driver
// or statfs(2) tells it; a number if it is none of the usual ones.
func (r *Repo) Backing() string {
	if d, ok := r.drv.(interface{ Backing() string }); ok {
		return d.Backing()
	}
	var st unix.Statfs_t
	if err := unix.Statfs(r.o.Root, &st); err != nil {
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

// chooseDriver opens the driver that was asked for. Else it is the one that
// has layers already, else the best that works here.
func (r *Repo) chooseDriver() error {
	if r.o.Driver != "" {
		r.reason = "asked for"
		return r.openDriver(r.o.Driver)
	}
	if r.o.Pool != "" {
		r.reason = "it has a disk of its own"
		return r.openDriver("devmapper")
	}
	prior, err := r.priorDriver()
	if err != nil {
		return err
	}
	if prior != "" {
		r.reason = "has the layers that are here"
		return r.openDriver(prior)
	}
	r.reason = "best available"
	var why []string
	for _, name := range drivers() {
		err := r.openDriver(name)
		if err == nil || !errors.Is(err, driver.ErrUnsupported) {
			return err
		}
		why = append(why, err.Error())
		r.reason = strings.Join(why, "; ")
	}
	return fmt.Errorf("open a graph driver: %s", r.reason)
}

// priorDriver is the driver that unpacked what the store names; empty if
// that is nothing.
func (r *Repo) priorDriver() (string, error) {
	prior := ""
	err := r.view(func(g graph.Graph) error {
		nodes := g.Names(catalog.LayerPrefix)
		if len(nodes) == 0 {
			return nil
		}
		var l catalog.Layer
		err := catalog.Load(g, nodes[0], &l)
		prior = l.Driver
		return err
	})
	return prior, err
}

func poolRoot(root string) string { return filepath.Join(root, "devmapper") }

// CleanUp takes away what the driver of a repository that nobody has open left
// in the kernel. root is that of Options.
func CleanUp(root string) error { return devmapper.Clean(poolRoot(root)) }

func (r *Repo) openDriver(name string) (err error) {
	root := filepath.Join(r.o.Root, name)
	switch name {
	case "overlay", "overlay2": // Docker's name for it
		r.drv, err = overlay.Open(filepath.Join(r.o.Root, "overlay"))
	case "btrfs":
		r.drv, err = btrfs.Open(root)
	case "devmapper", "devicemapper": // Docker's name for it
		r.drv, err = devmapper.Open(poolRoot(r.o.Root), r.o.Pool)
	case "vfs":
		r.drv, err = vfs.Open(root)
	case "aufs":
		return fmt.Errorf("open driver aufs: %w: no stock kernel has it; use overlay", driver.ErrUnsupported)
	default:
		return fmt.Errorf("open driver %q: there is %s", name, strings.Join(drivers(), ", "))
	}
	return err
}
