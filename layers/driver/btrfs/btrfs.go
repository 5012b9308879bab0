// Package btrfs keeps each layer as a subvolume: a snapshot of the one below
// with the layer's changes applied. Layers share their blocks, a container's
// start copies nothing, and its root is a bind mount of a plain btrfs folder,
// with reflinks and without overlay's differences from a file system.
//
// In the folder of a layer or top lies one subvolume, v, and in it the tree,
// r. A layer is unpacked into the folder n beside r, with marks for what it
// hides, and moved into r by rename(2), which does not go from one subvolume
// to another. A finished layer is read-only (BTRFS_SUBVOL_RDONLY), so that
// not even root changes it by mistake. A read-only subvolume can't be moved:
// that is why it lies in a folder.
//
// # What is durable when
//
//   - syncfs(2) writes all data out and commits the transaction, before a
//     layer gets its name. fsync(2) of each file would write the log tree once
//     for every one.
//   - Then comes the name, and then the flag: BTRFS_IOC_SUBVOL_SETFLAGS
//     commits a transaction itself (fs/btrfs/ioctl.c), with the rename in it.
//     A cut in between leaves at most a whole layer without its flag, which
//     the repository does not know of and sweeps away.
//   - A top is a snapshot, and BTRFS_IOC_SNAP_CREATE_V2 commits a transaction
//     with it. Its name takes an fsync(2) of the folder: a syncfs(2) would
//     have it wait for what all containers have written.
//   - Removals are not made durable, as in every driver. The kernel frees what
//     a subvolume held after the next transaction, at the latest in half a
//     minute (mount option commit=). Only an unpacking that found no space
//     waits for that.
//
// # Limits
//
// A top's limit is the most that its subvolume may hold which no other has
// (BTRFS_QGROUP_LIMIT_MAX_EXCL): what the container wrote. Quotas must be on
// (btrfs quota enable). The limit stops a program that writes too much, not
// one that wants around it: whoever may write may make subvolumes (they need
// no capability), and those are counted for themselves.
package btrfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/layers/archive"
	"github.com/coble-os/coble/layers/blob"
	"github.com/coble-os/coble/layers/driver"
	"github.com/coble-os/coble/layers/driver/whole"
)

// volume is the name of the subvolume in the folder of a layer or top.
const volume = "v"

// Driver implements driver.Driver.
type Driver struct{ whole.Store }

// Open makes root if needed, and refuses with driver.ErrUnsupported and the
// reason if subvolumes can't be had there.
func Open(root string) (*Driver, error) {
	unsupported := func(err error) error { return fmt.Errorf("%w: btrfs on %s: %w", driver.ErrUnsupported, root, err) }
	if err := onBtrfs(filepath.Dir(root)); err != nil {
		return nil, unsupported(err)
	}
	s, err := driver.OpenStore(root, drop)
	if err != nil {
		return nil, err
	}
	d := &Driver{whole.New(s, func(place string) (*os.File, error) { return whole.OpenDir(tree(place)) })}
	if err := driver.Try(d.probe); err != nil {
		return nil, unsupported(err)
	}
	return d, nil
}

// probe makes a subvolume and takes it away, which tries the privilege and
// the kernel (5.7 for BTRFS_IOC_SNAP_DESTROY_V2).
func (d *Driver) probe() error {
	dir, err := d.Temp("probe")
	if err != nil {
		return err
	}
	defer d.Discard(dir)
	if err := d.newVolume(dir, nil); err != nil {
		return err
	}
	return destroyIn(dir)
}

func destroyIn(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return destroy(int(f.Fd()), volume)
}

// Name implements driver.Driver.
func (d *Driver) Name() string { return "btrfs" }

// tree is where the content of a layer or top lies.
func tree(path string) string { return filepath.Join(path, volume, "r") }

// newVolume makes the subvolume of a folder of Temp: a snapshot of the
// stack's topmost layer, which holds all the others, or one with an empty
// tree.
func (d *Driver) newVolume(temp string, stack []string) error {
	f, err := os.Open(temp)
	if err != nil {
		return fmt.Errorf("open layer folder: %w", err)
	}
	defer f.Close()
	if len(stack) == 0 {
		if err := createSubvol(int(f.Fd()), volume); err != nil {
			return fmt.Errorf("make subvolume (BTRFS_IOC_SUBVOL_CREATE_V2): %w", blob.NoSpace(err))
		}
		if err := os.Mkdir(tree(temp), 0o755); err != nil {
			return fmt.Errorf("make layer folder: %w", blob.NoSpace(err))
		}
		return nil
	}
	from, err := os.Open(filepath.Join(d.Layer(stack[0]), volume))
	if os.IsNotExist(err) {
		return fmt.Errorf("layer %s: %w", stack[0], driver.ErrMissing)
	}
	if err != nil {
		return fmt.Errorf("open layer %s: %w", stack[0], err)
	}
	defer from.Close()
	if err := snapshot(int(from.Fd()), int(f.Fd()), volume); err != nil {
		return fmt.Errorf("make snapshot of layer %s (BTRFS_IOC_SNAP_CREATE_V2): %w", stack[0], blob.NoSpace(err))
	}
	return nil
}

// Unpack implements driver.Driver.
func (d *Driver) Unpack(ctx context.Context, id string, stack []string, tar io.Reader, l archive.Limits) (st archive.Stats, err error) {
	temp, err := d.Temp(id)
	if err != nil {
		return st, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.giveUp(temp, err))
		}
	}()
	if err = d.newVolume(temp, stack); err != nil {
		return st, err
	}
	changes := filepath.Join(temp, volume, "n")
	if st, err = whole.Fill(ctx, changes, tar, l); err != nil {
		return st, err
	}
	if err = whole.Merge(changes, tree(temp)); err != nil {
		return st, err
	}
	if err = blob.SyncTree(temp); err != nil {
		return st, err
	}
	return st, d.publish(temp, id)
}

// publish makes a finished folder of Temp the layer id: it gets its name, and
// is sealed, which makes both durable.
func (d *Driver) publish(temp, id string) error {
	if err := d.Place(temp, d.Layer(id)); err != nil {
		return err
	}
	if err := seal(d.Layer(id)); err != nil {
		return errors.Join(err, os.Rename(d.Layer(id), temp))
	}
	return nil
}

// giveUp removes what an unpacking has made that ended with cause.
func (d *Driver) giveUp(temp string, cause error) error {
	if !errors.Is(cause, blob.ErrNoSpace) {
		d.Discard(temp)
		return nil
	}
	var id uint64
	f, err := os.Open(filepath.Join(temp, volume))
	if err == nil {
		id, err = subvolID(int(f.Fd()))
		f.Close()
	}
	d.Discard(temp)
	if err != nil {
		return nil // there was no subvolume yet
	}
	return d.reclaim(id)
}

// seal makes the subvolume of a whole layer read-only, durably.
func seal(layer string) error {
	f, err := os.Open(filepath.Join(layer, volume))
	if err != nil {
		return fmt.Errorf("open subvolume: %w", err)
	}
	defer f.Close()
	if err := setReadonly(int(f.Fd()), true); err != nil {
		return fmt.Errorf("make layer read-only (BTRFS_IOC_SUBVOL_SETFLAGS): %w", blob.NoSpace(err))
	}
	return nil
}

// Create implements driver.Driver.
func (d *Driver) Create(id string, stack []string, limit int64) (err error) {
	if err := d.Need(stack); err != nil {
		return err
	}
	temp, err := d.Temp(id)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			d.Discard(temp)
		}
	}()
	if err = d.newVolume(temp, stack); err != nil {
		return err
	}
	if limit > 0 {
		if err = d.setLimit(temp, limit); err != nil {
			return err
		}
	}
	return d.Commit(temp, d.Top(id))
}

func (d *Driver) setLimit(temp string, limit int64) error {
	f, err := os.Open(filepath.Join(temp, volume))
	if err != nil {
		return fmt.Errorf("open subvolume: %w", err)
	}
	defer f.Close()
	err = limitExclusive(int(f.Fd()), uint64(limit))
	if err == quotaIsOff {
		return fmt.Errorf("limit writable layer to %d bytes: %w: btrfs counts nothing yet: run `btrfs quota enable %s`", limit, driver.ErrUnsupported, d.Root())
	}
	if err != nil {
		return fmt.Errorf("limit writable layer to %d bytes (BTRFS_IOC_QGROUP_LIMIT): %w", limit, err)
	}
	return nil
}

// Mounts implements driver.Driver.
func (d *Driver) Mounts(id string, stack []string) ([]driver.Mount, error) {
	if err := d.NeedTop(id); err != nil {
		return nil, err
	}
	return []driver.Mount{{Source: tree(d.Top(id)), Flags: unix.MS_BIND}}, nil
}
