// Package devmapper keeps each layer as a thin volume of the kernel's device
// mapper (dm-thin), with ext4 or xfs inside: a snapshot of the volume below
// with the layer's changes applied. Layers share their blocks, a container's
// start copies nothing, and its root is a plain file system of its own, whose
// size is a limit that nobody gets around.
//
// The pool lies on a block device of its own, or in two files in the driver's
// folder (loop devices): metadata with all its blocks, data as sparse as its
// volumes are. One volume, the base, is formatted once, by the machine's
// mkfs.ext4 or mkfs.xfs; every other one is a snapshot.
//
// In the folder of a layer or top (driver.Store) lies the link "volume", whose
// target is the volume's number; in the volume's root lie the tree, r, and in
// that of a top with a limit the file l, which takes what is beyond it. A
// layer is unpacked into the folder n beside r, with marks for what it hides,
// and moved into r by rename(2).
//
// # What is active
//
// Nothing but the pool, and what is mounted or worked on at the moment. The
// driver mounts where no path leads to (fsmount(2)), and every device is
// marked to go with its last user (DM_DEFERRED_REMOVE), every loop device too
// (LO_FLAGS_AUTOCLEAR); the driver itself is only a user of the pool. So when
// the engine is killed the kernel takes away what no container needs, and the
// next engine finds the rest by name and goes on with it. Names have the
// pool's own random id, and a device that is there already must have just the
// table that it should have: two stores never touch each other's, not even if
// one is a copy of the other. Clean takes away what is left of a store's.
//
// # What is durable when
//
// The order of things is such that a cut at any moment leaves each volume with
// a folder that names it, and no number for two volumes:
//
//  1. The number is the pool's transaction id, which is set one higher
//     (set_transaction_id). The kernel commits the pool's metadata after every
//     message, and makes the pool read-only if it can't, which is looked at
//     after each. A cut from here on costs a number, and no number is ever
//     handed out again: a removal that a cut undoes in the driver's folder but
//     not in the pool can't hit another's volume.
//  2. Folder and link are made below t and synced: whatever volume comes to
//     be has a name from which Sweep removes it.
//  3. create_snap, committed as well. The volume that it is made of is a
//     finished one, which is read-only: nothing of it is under way.
//  4. The layer is unpacked, and the file system made read-only: with that it
//     is written out whole and without need of its journal, and its last
//     write is a flush, with which the pool commits its mappings (data before
//     metadata, Linux 5.5).
//  5. The folder is renamed to its lasting name, and that is synced. Only now
//     does the layer exist.
//
// A removal renames the folder back below t, without a sync; the repository
// has forgotten the layer by then, and removes it again if a cut brings it
// back. Then the volume is emptied (BLKDISCARD), which gives back the blocks
// of the data file or device, then deleted. A pool that is older than the
// folders say, as of a restored disk, is found by its transaction id, and
// refused.
//
// # Full pools
//
// The pool refuses writes at once when it is full (error_if_no_space), rather
// than letting writers wait for a minute. The file system above gave its word
// for them by then, unlike one on a full disk: fsync(2) fails, its journal
// may end. So new layers and tops are refused a little earlier.
package devmapper

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/layers/archive"
	"github.com/coble-os/coble/layers/blob"
	"github.com/coble-os/coble/layers/driver"
	"github.com/coble-os/coble/layers/driver/devmapper/dm"
	"github.com/coble-os/coble/layers/driver/whole"
)

// Names in the folder of a layer or top, and in its volume.
const (
	link  = "volume"
	point = "m" // folder of a top that its volume is mounted on, in the container's mount namespace
	tree  = "r"
	fresh = "n"
	taken = "l"
)

// Driver implements driver.Driver.
type Driver struct {
	whole.Store
	pool   pool
	device dm.Device // the pool's
	node   *os.File  // keeps the pool active

	numbering sync.Mutex // held from looking at the pool's transaction to setting it
}

// Open makes root and the pool if needed: on the block device, which has to be
// empty, or, if that is "", in files in root. It refuses with
// driver.ErrUnsupported and the reason if thin volumes can't be had here.
func Open(root, device string) (*Driver, error) {
	unsupported := func(err error) error { return fmt.Errorf("%w: devmapper on %s: %w", driver.ErrUnsupported, root, err) }
	if err := dm.NeedTarget("thin-pool", "CONFIG_DM_THIN_PROVISIONING", "dm_thin_pool"); err != nil {
		return nil, unsupported(err)
	}
	d := &Driver{}
	s, err := driver.OpenStore(root, d.drop)
	if err != nil {
		return nil, err
	}
	d.Store = whole.New(s, d.openTree)
	if err = d.openPool(device); err == nil {
		err = d.checkAge()
	}
	if err == nil {
		return d, nil
	}
	err = errors.Join(fmt.Errorf("open thin pool of %s: %w", root, err), d.Close())
	if errors.Is(err, dm.ErrKernel) {
		return nil, unsupported(err)
	}
	return nil, err
}

// Close lets go of the pool, which goes when no container needs it any more.
func (d *Driver) Close() error {
	if d.node == nil {
		return nil
	}
	return d.node.Close()
}

// Name implements driver.Driver.
func (d *Driver) Name() string { return "devmapper" }

// number is that of the volume of a layer or top.
func number(place string) (uint64, error) {
	to, err := os.Readlink(filepath.Join(place, link))
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(to, 10, 64)
}

// volume finds the volume of a layer or top.
func (d *Driver) volume(place string, readonly bool) (volume, error) {
	n, err := number(place)
	if os.IsNotExist(err) {
		return volume{}, fmt.Errorf("%s: %w", place, driver.ErrMissing)
	}
	if err != nil {
		return volume{}, fmt.Errorf("find volume of %s: %w", place, err)
	}
	return volume{d, n, readonly}, nil
}

// openTree opens the tree of a layer or top (whole.New).
func (d *Driver) openTree(place string) (*os.File, error) {
	v, err := d.volume(place, filepath.Base(filepath.Dir(place)) == "d")
	if err != nil {
		return nil, err
	}
	mnt, err := v.Mount()
	if err != nil {
		return nil, err
	}
	defer mnt.Close() // what is open in it keeps it
	return inside(mnt, tree)
}

// begin makes a folder of Temp with folders and a new volume: a snapshot of the
// stack's topmost layer, or of the base.
func (d *Driver) begin(id string, stack []string, folders ...string) (temp string, v volume, err error) {
	if err := d.Room(0); err != nil {
		return "", v, err
	}
	from := volume{d, d.pool.Base, true}
	if len(stack) > 0 {
		if from, err = d.volume(d.Layer(stack[0]), true); err != nil {
			return "", v, fmt.Errorf("layer %s: %w", stack[0], err)
		}
	}
	if temp, err = d.Temp(id); err != nil {
		return "", v, err
	}
	if v, err = d.reserve(temp, folders...); err == nil {
		err = d.tell("create_snap " + v.thin() + " " + from.thin())
	}
	if err != nil {
		d.Discard(temp)
	}
	return temp, v, err
}

// reserve takes a number, and writes it down in a folder of Temp, beside the
// folders that belong there: nothing more is made in it (driver.Store).
func (d *Driver) reserve(temp string, folders ...string) (volume, error) {
	for _, name := range folders {
		if err := os.Mkdir(filepath.Join(temp, name), 0o700); err != nil {
			return volume{}, fmt.Errorf("make writable layer: %w", blob.NoSpace(err))
		}
	}
	n, err := d.allocate()
	if err != nil {
		return volume{}, err
	}
	if err := os.Symlink(strconv.FormatUint(n, 10), filepath.Join(temp, link)); err != nil {
		return volume{}, fmt.Errorf("write down volume: %w", blob.NoSpace(err))
	}
	return volume{d, n, false}, blob.SyncDir(temp)
}

// Unpack implements driver.Driver.
func (d *Driver) Unpack(ctx context.Context, id string, stack []string, tar io.Reader, l archive.Limits) (st archive.Stats, err error) {
	temp, v, err := d.begin(id, stack)
	if err != nil {
		return st, err
	}
	defer func() {
		if err != nil {
			err = d.blame(err)
			d.Discard(temp)
		}
	}()
	if st, err = v.unpack(ctx, tar, l); err != nil {
		return st, err
	}
	if err = d.check(); err != nil {
		return st, err
	}
	return st, d.Commit(temp, d.Layer(id))
}

// unpack applies a layer to its volume, and seals it.
func (v volume) unpack(ctx context.Context, tar io.Reader, l archive.Limits) (st archive.Stats, err error) {
	node, err := v.activate()
	if err != nil {
		return st, err
	}
	defer node.Close()
	mnt, err := mount(node, v.d.pool.FS, false)
	if err != nil {
		return st, err
	}
	defer mnt.Close()
	changes := path(mnt, fresh)
	if st, err = whole.Fill(ctx, changes, tar, l); err != nil {
		return st, err
	}
	if err = whole.Merge(changes, path(mnt, tree)); err != nil {
		return st, err
	}
	return st, seal(mnt)
}

// Create implements driver.Driver.
func (d *Driver) Create(id string, stack []string, limit int64) (err error) {
	if err := d.Need(stack); err != nil {
		return err
	}
	temp, v, err := d.begin(id, stack, point)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = d.blame(err)
			d.Discard(temp)
		}
	}()
	if limit > 0 {
		if err = v.limit(limit); err != nil {
			return fmt.Errorf("limit writable layer to %d bytes: %w", limit, err)
		}
	}
	return d.Commit(temp, d.Top(id))
}

// limit leaves so many bytes free in the volume's file system: a file that
// the container does not see takes the rest, without a block of the pool
// (fallocate(2)).
func (v volume) limit(bytes int64) error {
	mnt, err := v.Mount()
	if err != nil {
		return err
	}
	defer mnt.Close()
	f, err := os.OpenFile(path(mnt, taken), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return err
	}
	if rest := int64(st.Bavail)*int64(st.Bsize) - bytes; rest > 0 {
		if err := unix.Fallocate(int(f.Fd()), 0, 0, rest); err != nil {
			return err
		}
	}
	return unix.Syncfs(int(f.Fd())) // unmounting writes as well, but maybe later
}

// Mounts implements driver.Driver.
func (d *Driver) Mounts(id string, stack []string) ([]driver.Mount, error) {
	if err := d.NeedTop(id); err != nil {
		return nil, err
	}
	v, err := d.volume(d.Top(id), false)
	if err != nil {
		return nil, err
	}
	at := filepath.Join(d.Top(id), point)
	return []driver.Mount{
		{Type: d.pool.FS, Source: v.name(), Target: at, Volume: v},
		{Source: filepath.Join(at, tree), Flags: unix.MS_BIND},
	}, nil
}

// drop removes a folder of the store, and the volume that it names.
func (d *Driver) drop(dir int, name string) error {
	buf := make([]byte, 20)
	n, err := unix.Readlinkat(dir, name+"/"+link, buf)
	if err == nil {
		number, err := strconv.ParseUint(string(buf[:n]), 10, 64)
		if err != nil {
			return fmt.Errorf("find volume of %s: %w", name, err)
		}
		if err := d.destroy(volume{d, number, false}); err != nil {
			return err
		}
	}
	return archive.RemoveAll(dir, name)
}

// destroy gives back what a volume holds, and deletes it. One that is not
// there is no error. Its last users may be on their way out.
func (d *Driver) destroy(v volume) error {
	if v.number == d.pool.Base {
		return nil // a cut has left the folder in which it was made
	}
	if err := deactivate(v.name()); err != nil {
		return err
	}
	node, err := v.activate()
	if errors.Is(err, unix.ENODATA) {
		return nil
	}
	if err == nil {
		err = discard(node, d.size())
		node.Close()
	}
	if err != nil {
		return fmt.Errorf("empty volume %d: %w", v.number, err)
	}
	if err := deactivate(v.name()); err != nil {
		return err
	}
	err = patiently(func() error { return d.tell("delete " + v.thin()) })
	if errors.Is(err, unix.ENODATA) {
		return nil
	}
	return err
}
