package devmapper

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/layers/driver/devmapper/dm"
)

// patience bounds how long the last users of a device may take to go: they
// have let go of it already, and the kernel puts their mounts away.
const patience = 20 * time.Second

// activating is held while a device is looked for and made.
var activating sync.Mutex

// activate finds or makes a device with the table t, and opens its node. From
// then on the kernel takes the device away with the last who has it open
// (DM_DEFERRED_REMOVE): a node, a mount, a device above it. So whoever is
// killed leaves nothing active.
func activate(name string, readonly bool, t dm.Target) (dm.Device, *os.File, error) {
	activating.Lock()
	defer activating.Unlock()
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		d, err := findOrMake(name, readonly, t)
		if err == nil {
			var node *os.File
			if node, err = openNode(name, d, readonly); err == nil {
				return d, node, nil
			}
		}
		if !passing(err) || time.Now().After(end) {
			return dm.Device{}, nil, err
		}
	}
}

// passing tells whether an error may be of a device that is on its way out:
// its name goes before what is below it is free (EBUSY); or of a node that is
// not there yet.
func passing(err error) bool {
	for _, e := range []error{unix.ENXIO, unix.ENOENT, unix.ENODEV, unix.EBUSY} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func findOrMake(name string, readonly bool, t dm.Target) (dm.Device, error) {
	_, err := dm.Create(name, "COBLE-"+name)
	if errors.Is(err, unix.EBUSY) {
		return find(name, t)
	}
	var d dm.Device
	if err == nil {
		if err = dm.Load(name, readonly, t); err == nil {
			d, err = dm.Resume(name)
		}
		if err != nil {
			err = errors.Join(err, dm.Remove(name, false))
		}
	}
	return d, err
}

// find looks at a device that is there. One without a table was left by an
// engine that was killed while it made it.
func find(name string, t dm.Target) (dm.Device, error) {
	d, err := dm.Stat(name)
	if err != nil {
		return d, err
	}
	if !d.Live {
		if err := dm.Remove(name, false); err != nil {
			return d, err
		}
		return d, unix.ENXIO
	}
	have, err := dm.Table(name)
	if err != nil {
		return d, err
	}
	if !same(have, t) {
		return d, fmt.Errorf("use device %s: one of this name is there, which is another (%q, not %q): is this store the copy of one that is in use? `coble daemon --clean` takes that one's devices away", name, have.Params, t.Params)
	}
	return d, nil
}

// same tells whether two tables name the same devices: how a pool behaves
// is the affair of the engine that made it.
func same(a, b dm.Target) bool {
	first := func(t dm.Target) []string { f := strings.Fields(t.Params); return f[:min(len(f), 2)] }
	return a.Start == b.Start && a.Sectors == b.Sectors && a.Type == b.Type && slices.Equal(first(a), first(b))
}

// openNode opens a device that may go at any moment, and whose number may be
// another's then.
func openNode(name string, d dm.Device, readonly bool) (*os.File, error) {
	mode := os.O_RDWR
	if readonly {
		mode = os.O_RDONLY
	}
	node, err := os.OpenFile(d.Node(), mode, 0)
	if err != nil {
		return nil, err
	}
	now, err := dm.Stat(name)
	if err == nil && now.Number != d.Number {
		err = unix.ENXIO
	}
	if err == nil && !now.Deferred {
		err = dm.Remove(name, true)
	}
	if err != nil {
		node.Close()
		return nil, err
	}
	return node, nil
}

// deactivate waits until a device is gone.
func deactivate(name string) error {
	return patiently(func() error {
		err := dm.Remove(name, false)
		if errors.Is(err, unix.ENXIO) {
			return nil
		}
		return err
	})
}

// patiently tries again while something is in use.
func patiently(try func() error) error {
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		err := try()
		if !errors.Is(err, unix.EBUSY) || time.Now().After(end) {
			return err
		}
	}
}

// volume is a thin volume: a layer's, which is read-only, or a top's.
type volume struct {
	d        *Driver
	number   uint64
	readonly bool
}

// maxThin is how many thin devices a pool can tell apart.
const maxThin = 1 << 24

// thin is the number as the pool knows it.
func (v volume) thin() string { return strconv.FormatUint(v.number%maxThin, 10) }

func (v volume) name() string { return v.d.pool.name(strconv.FormatUint(v.number, 10)) }

func (v volume) activate() (*os.File, error) {
	_, node, err := activate(v.name(), v.readonly, dm.Target{
		Sectors: uint64(v.d.size() / 512), Type: "thin", Params: v.d.device.String() + " " + v.thin(),
	})
	return node, err
}

// Mount implements driver.Volume. A top that was never mounted needs a block
// of the pool for that.
func (v volume) Mount() (*os.File, error) {
	node, err := v.activate()
	if err != nil {
		return nil, err
	}
	defer node.Close() // the mount has it now
	mnt, err := mount(node, v.d.pool.FS, v.readonly)
	return mnt, v.d.blame(err)
}

// mount mounts a volume's file system where no path leads to, until the
// descriptor is closed or the mount moved somewhere (move_mount(2)).
//
// discard gives back to the pool what files took that are gone. Without
// noinit_itable ext4 would write all inode tables of every snapshot in the
// background. All volumes have the UUID of the first.
func mount(node *os.File, fs string, readonly bool) (*os.File, error) {
	wrap := func(err error) error { return fmt.Errorf("mount %s of thin volume on %s: %w", fs, node.Name(), err) }
	ctx, err := unix.Fsopen(fs, unix.FSOPEN_CLOEXEC)
	if errors.Is(err, unix.ENODEV) {
		return nil, wrap(fmt.Errorf("this kernel can't read it (module %s): %w", fs, err))
	}
	if err != nil {
		return nil, wrap(err)
	}
	defer unix.Close(ctx)
	attrs := 0
	var flags []string
	if fs == "xfs" {
		flags = append(flags, "nouuid")
	}
	switch {
	case readonly:
		flags, attrs = append(flags, "ro"), unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV
	case fs == "ext4":
		flags = append(flags, "discard", "noinit_itable")
	default:
		flags = append(flags, "discard")
	}
	err = unix.FsconfigSetString(ctx, "source", node.Name())
	for _, f := range flags {
		if err == nil {
			err = unix.FsconfigSetFlag(ctx, f)
		}
	}
	if err == nil {
		err = unix.FsconfigCreate(ctx)
	}
	if err != nil {
		return nil, wrap(err)
	}
	fd, err := unix.Fsmount(ctx, unix.FSMOUNT_CLOEXEC, attrs)
	if err != nil {
		return nil, wrap(err)
	}
	return os.NewFile(uintptr(fd), node.Name()), nil
}

// seal writes everything out and makes the file system read-only, so that it
// needs its journal no more: its last write is a flush, with which the pool
// commits what it knows of the volume. Who still has a file of it open, as a
// child that was just born may for a moment, can't write to it. The second step
// would write everything too, but does not say if that failed.
func seal(mnt *os.File) error {
	dir, err := inside(mnt, ".")
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := unix.Syncfs(int(dir.Fd())); err != nil {
		return fmt.Errorf("sync volume: %w", err)
	}
	ctx, err := unix.Fspick(int(mnt.Fd()), "", unix.FSPICK_EMPTY_PATH|unix.FSPICK_CLOEXEC)
	if err != nil {
		return fmt.Errorf("make volume read-only: %w", err)
	}
	defer unix.Close(ctx)
	if err = unix.FsconfigSetFlag(ctx, "ro"); err == nil {
		err = unix.FsconfigReconfigure(ctx)
	}
	if err != nil {
		return fmt.Errorf("make volume read-only: %w", err)
	}
	return nil
}

// inside opens a folder of a mount.
func inside(mnt *os.File, name string) (*os.File, error) {
	fd, err := unix.Openat(int(mnt.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open folder of volume", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// path leads into a mount, for this process, while the file is open.
func path(mnt *os.File, name string) string {
	return fmt.Sprintf("/proc/self/fd/%d/%s", mnt.Fd(), name)
}

// discard gives back what a volume holds.
func discard(node *os.File, size int64) error {
	arg := [2]uint64{0, uint64(size)}
	err := ioctlPair(node, unix.BLKDISCARD, &arg)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	return err
}

func ioctlPair(f *os.File, req uint, arg *[2]uint64) error {
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), uintptr(req), uintptr(unsafe.Pointer(arg))); e != 0 {
		return e
	}
	return nil
}
