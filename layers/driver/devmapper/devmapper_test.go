package devmapper

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/layers/archive"
	"github.com/coble-os/coble/layers/blob"
	"github.com/coble-os/coble/layers/driver"
	"github.com/coble-os/coble/layers/driver/devmapper/dm"
	"github.com/coble-os/coble/layers/driver/drivertest"
)

func open(root string) (driver.Driver, error) {
	d, err := Open(root, "")
	if err != nil {
		return nil, err
	}
	return d, nil
}

func TestMain(m *testing.M) { drivertest.Main(m, open) }

// need skips a test on a kernel without thin volumes: qemu-tests/tests runs it
// on others.
func need(t testing.TB) {
	t.Helper()
	drivertest.NeedRoot(t)
	drivertest.NeedTool(t, "mkfs.ext4")
	if err := dm.NeedTarget("thin-pool", "CONFIG_DM_THIN_PROVISIONING", "dm_thin_pool"); err != nil {
		t.Skip(err)
	}
}

func TestConformance(t *testing.T) {
	need(t)
	drivertest.Run(t, "", open)
}

// at opens a driver with a pool of about 120 MiB.
func at(t *testing.T) *Driver {
	t.Helper()
	need(t)
	return again(t, filepath.Join(drivertest.Disk(t, 150, "", "mkfs.ext4", "-q"), "dm"))
}

func again(t *testing.T, root string) *Driver {
	t.Helper()
	d, err := Open(root, "")
	require.NoError(t, err)
	t.Cleanup(func() { _ = d.Close() })
	return d
}

func unpack(t *testing.T, d *Driver, id string, stack []string, es ...drivertest.Entry) {
	t.Helper()
	_, err := d.Unpack(context.Background(), id, stack, bytes.NewReader(drivertest.Layer(t, es...)), archive.Limits{})
	require.NoError(t, err)
}

// active names the devices of a pool that are active, without its name.
func active(t *testing.T, p pool) (out []string) {
	t.Helper()
	names, err := dm.List()
	require.NoError(t, err)
	for _, n := range names {
		if what, is := strings.CutPrefix(n, p.name("")); is {
			out = append(out, what)
		}
	}
	return out
}

// soon waits for what the kernel does a moment later.
func soon(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not so: %s", what)
		}
	}
}

// Only the pool is active when nothing is done, and nothing is when the
// engine is gone.
func TestNothingStaysActive(t *testing.T) {
	d := at(t)
	unpack(t, d, "1", nil, drivertest.Entry{Name: "f", Body: "1"})
	require.NoError(t, d.Create("t", []string{"1"}, 0))
	_, err := d.Changes("t", []string{"1"})
	require.NoError(t, err)
	soon(t, "only the pool is active", func() bool { a := active(t, d.pool); return len(a) == 1 && a[0] == "pool" })
	require.NoError(t, d.Close())
	gone(t, d)
}

// gone waits until nothing of a driver that was closed is active, which is
// when its files are still.
func gone(t *testing.T, d *Driver) {
	t.Helper()
	soon(t, "nothing is active", func() bool { return len(active(t, d.pool)) == 0 })
	soon(t, "no loop device is left", func() bool {
		all, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
		for _, p := range all {
			if file, err := os.ReadFile(p); err == nil && strings.HasPrefix(string(file), d.Root()+"/") {
				return false
			}
		}
		return true
	})
}

// A container outlives its engine, and the next one finds the pool as it is.
func TestAdopted(t *testing.T) {
	d := at(t)
	unpack(t, d, "1", nil, drivertest.Entry{Name: "f", Body: "1"})
	require.NoError(t, d.Create("t", []string{"1"}, 0))
	ms, err := d.Mounts("t", []string{"1"})
	require.NoError(t, err)
	drivertest.InMounts(t, ms, func(root string) {
		_ = os.WriteFile(root+"/before", []byte("x"), 0o644)
		if d.Close() != nil || len(active(t, d.pool)) != 2 {
			panic("the pool went away with its engine, below a container")
		}
		e := again(t, d.Root())
		if e.device.Number != d.device.Number {
			panic("the pool was made anew")
		}
		unpack(t, e, "2", []string{"1"}, drivertest.Entry{Name: "g", Body: "2"})
		cs, err := e.Changes("t", []string{"1"})
		if err != nil || len(cs) != 1 || cs[0].Path != "/before" {
			panic("a container that runs can't be looked at")
		}
		_ = os.WriteFile(root+"/after", []byte("y"), 0o644)
	})
	e := again(t, d.Root())
	drivertest.InTop(t, e, "t", []string{"1"}, func(root string) {
		require.Equal(t, []string{"after:y", "before:x", "f:1"}, drivertest.Tree(root))
	})
	require.NoError(t, e.RemoveTop("t"))
}

// A device that an engine was killed over, while it made it, is in nobody's
// way, and Clean takes all away that is left.
func TestHalfMadeDevices(t *testing.T) {
	d := at(t)
	unpack(t, d, "1", nil, drivertest.Entry{Name: "f", Body: "1"})
	n, err := number(d.Layer("1"))
	require.NoError(t, err)
	v := volume{d, n, true}
	require.NoError(t, deactivate(v.name()))
	_, err = dm.Create(v.name(), "")
	require.NoError(t, err)
	f, err := d.OpenLayer("1")
	require.NoError(t, err)
	require.ErrorIs(t, os.WriteFile(path(f, "f"), nil, 0o600), unix.EROFS, "not even root changes a layer")
	require.NoError(t, f.Close())
	node, err := v.activate()
	require.NoError(t, err)
	ro, err := unix.IoctlGetInt(int(node.Fd()), unix.BLKROGET)
	require.NoError(t, err)
	require.Equal(t, 1, ro, "nor what lies below its file system")
	require.NoError(t, node.Close())

	_, err = dm.Create(d.pool.name("77"), "")
	require.NoError(t, err)
	require.NoError(t, d.Close())
	require.NoError(t, Clean(d.Root()))
	require.Empty(t, active(t, d.pool))
	require.NoError(t, Clean(t.TempDir()))
}

// Who still has a layer's file system mounted when it is finished, as a child
// that was born meanwhile may, can't write to it any more.
func TestSealed(t *testing.T) {
	d := at(t)
	var mnt *os.File
	raw := drivertest.Layer(t, drivertest.Entry{Name: "f", Body: "1"})
	_, err := d.Unpack(context.Background(), "1", nil, io.MultiReader(bytes.NewReader(raw), &doing{func() error {
		st, err := d.status()
		if err == nil {
			mnt, err = volume{d, st.transaction, false}.Mount()
		}
		return err
	}}), archive.Limits{})
	require.NoError(t, err)
	defer mnt.Close()
	require.ErrorIs(t, os.WriteFile(path(mnt, "r/f"), nil, 0o600), unix.EROFS)
	require.NoError(t, d.Create("t", []string{"1"}, 0))
	drivertest.InTop(t, d, "t", []string{"1"}, func(root string) { require.Equal(t, []string{"f:1"}, drivertest.Tree(root)) })
}

// doing reads nothing and does something.
type doing struct{ fn func() error }

func (d *doing) Read([]byte) (int, error) {
	if err := d.fn(); err != nil {
		return 0, err
	}
	return 0, io.EOF
}

// Two stores of which one is the copy of the other, on one machine.
func TestCopiedStore(t *testing.T) {
	d := at(t)
	unpack(t, d, "1", nil, drivertest.Entry{Name: "f", Body: "1"})
	copied := filepath.Join(t.TempDir(), "dm")
	out, err := exec.Command("cp", "-a", d.Root(), copied).CombinedOutput()
	require.NoError(t, err, "%s", out)
	_, err = Open(copied, "")
	require.ErrorContains(t, err, "is this store the copy of one that is in use?")
	require.NotErrorIs(t, err, driver.ErrUnsupported)
	unpack(t, d, "2", []string{"1"}, drivertest.Entry{Name: "g", Body: "2"})
}

// A pool that was put back from an older copy is refused by name: its volumes
// are not those that the folders mean.
func TestOldPool(t *testing.T) {
	d := at(t)
	unpack(t, d, "1", nil, drivertest.Entry{Name: "f", Body: "1"})
	require.NoError(t, d.Close())
	gone(t, d)
	file := filepath.Join(d.Root(), "metadata")
	old, err := os.ReadFile(file)
	require.NoError(t, err)
	d = again(t, d.Root())
	unpack(t, d, "2", []string{"1"}, drivertest.Entry{Name: "g", Body: "2"})
	require.NoError(t, d.Close())
	gone(t, d)
	require.NoError(t, os.WriteFile(file, old, 0o600))
	_, err = Open(d.Root(), "")
	require.ErrorContains(t, err, "it is an old copy")
	gone(t, d)
	require.NoError(t, os.WriteFile(file, append(old[:64<<10], make([]byte, len(old)-64<<10)...), 0o600))
	_, err = Open(d.Root(), "")
	require.ErrorContains(t, err, "thin_check")

	require.NoError(t, os.Remove(recordPath(d.Root())))
	_, err = Open(d.Root(), "")
	require.ErrorContains(t, err, "pool.json is gone")
}

// A cut between the base and the end of its making, and one that undoes a
// removal in the folder, but not in the pool.
func TestNumbersAreNeverUsedAgain(t *testing.T) {
	d := at(t)
	require.NoError(t, os.Mkdir(filepath.Join(d.Root(), "t", "base"), 0o700))
	base := volume{d, d.pool.Base, false}
	require.NoError(t, os.Symlink(base.thin(), filepath.Join(d.Root(), "t", "base", link)))
	require.NoError(t, d.Sweep())

	unpack(t, d, "1", nil, drivertest.Entry{Name: "f", Body: "1"})
	to, err := os.Readlink(filepath.Join(d.Layer("1"), link))
	require.NoError(t, err)
	require.NoError(t, d.Remove("1"))
	unpack(t, d, "2", nil, drivertest.Entry{Name: "f", Body: "2"})
	require.NoError(t, os.Mkdir(d.Layer("1"), 0o700))
	require.NoError(t, os.Symlink(to, filepath.Join(d.Layer("1"), link)))
	require.NoError(t, d.Remove("1"))
	require.NoError(t, d.Create("t", []string{"2"}, 0))
	drivertest.InTop(t, d, "t", []string{"2"}, func(root string) { require.Equal(t, []string{"f:2"}, drivertest.Tree(root)) })
}

func TestLimit(t *testing.T) {
	d := at(t)
	unpack(t, d, "1", nil, drivertest.Entry{Name: "f", Body: "1"})
	before, err := d.status()
	require.NoError(t, err)
	require.NoError(t, d.Create("t", []string{"1"}, 8<<20))
	after, err := d.status()
	require.NoError(t, err)
	require.Less(t, after.dataUsed-before.dataUsed, uint64(4<<20/blockBytes), "a limit takes no blocks")
	require.NoError(t, d.Create("free", []string{"1"}, 0))
	fill := func(id string, bytes int) (err error) {
		drivertest.InTop(t, d, id, []string{"1"}, func(root string) {
			err = os.WriteFile(root+"/big", make([]byte, bytes), 0o600)
		})
		return err
	}
	require.NoError(t, fill("t", 6<<20))
	require.ErrorIs(t, fill("t", 9<<20), unix.ENOSPC)
	require.NoError(t, fill("free", 24<<20))
	drivertest.InTop(t, d, "t", []string{"1"}, func(root string) {
		es, err := os.ReadDir(root)
		require.NoError(t, err)
		require.Len(t, es, 2, "the container sees nothing of it")
	})
}

// A container fills the pool: it gets an error at once, the others what they
// have, new ones a sentence; and all is well when it is gone.
func TestFullPool(t *testing.T) {
	d := at(t)
	unpack(t, d, "1", nil, drivertest.Entry{Name: "f", Body: "1"})
	require.NoError(t, d.Create("t", []string{"1"}, 0))
	require.NoError(t, d.Create("u", []string{"1"}, 0))
	var last time.Duration
	require.NoError(t, d.Create("half", []string{"1"}, 0))
	fill := func(id string, mib int) (failed error) {
		drivertest.InTop(t, d, id, []string{"1"}, func(root string) {
			f, err := os.Create(root + "/big")
			for i := 0; err == nil && i < mib; i += 4 {
				start := time.Now()
				if _, err = f.Write(bytes.Repeat([]byte{1}, 4<<20)); err == nil {
					err = f.Sync()
				}
				last = time.Since(start)
			}
			failed = err
			f.Close()
		})
		return failed
	}
	require.NoError(t, fill("half", 60))
	failed := fill("t", 100)
	require.True(t, errors.Is(failed, unix.ENOSPC) || errors.Is(failed, unix.EIO) || errors.Is(failed, unix.EROFS), "%v", failed)
	require.Less(t, last, 50*time.Second, "a full pool makes nobody wait for a minute")
	t.Logf("it was full after %v: %v", last, failed)
	for _, err := range []error{d.Create("v", []string{"1"}, 0), unpackErr(t, d, "2")} {
		require.ErrorIs(t, err, blob.ErrNoSpace)
		require.ErrorContains(t, err, "remove containers or images")
	}
	_, err := d.Size("u", []string{"1"})
	require.ErrorIs(t, err, blob.ErrNoSpace)
	require.ErrorContains(t, err, "remove containers or images")
	layer, err := d.OpenLayer("1")
	require.NoError(t, err)
	require.NoError(t, layer.Close())
	require.NoError(t, d.RemoveTop("t"))
	drivertest.InTop(t, d, "u", []string{"1"}, func(root string) { require.Equal(t, []string{"f:1"}, drivertest.Tree(root)) })
	require.NoError(t, d.Create("v", []string{"1"}, 0))
	unpack(t, d, "2", []string{"1"}, drivertest.Entry{Name: "g", Body: "2"})
	st, err := d.status()
	require.NoError(t, err)
	require.Equal(t, "rw", st.mode)
	require.NoError(t, d.Room(1<<20))
	require.ErrorIs(t, d.Room(1<<30), blob.ErrNoSpace, "the pool counts, not the disk of the store")
}

func unpackErr(t *testing.T, d *Driver, id string) error {
	_, err := d.Unpack(context.Background(), id, nil, bytes.NewReader(drivertest.Layer(t)), archive.Limits{})
	return err
}

// What goes is given back to the disk below, and to the pool while a
// container runs.
func TestSpaceComesBack(t *testing.T) {
	d := at(t)
	blocks := func() int64 {
		var st unix.Stat_t
		require.NoError(t, blob.SyncTree(d.Root()))
		require.NoError(t, unix.Stat(filepath.Join(d.Root(), "data"), &st))
		return st.Blocks * 512
	}
	before := blocks()
	unpack(t, d, "1", nil, drivertest.Entry{Name: "big", Body: strings.Repeat("0123456789abcdef", 1<<20)})
	require.Greater(t, blocks(), before+15<<20)
	require.NoError(t, d.Create("t", []string{"1"}, 0))
	require.NoError(t, d.RemoveTop("t"))
	require.NoError(t, d.Remove("1"))
	require.Less(t, blocks(), before+2<<20)
	st, err := d.status()
	require.NoError(t, err)
	t.Logf("an empty pool has %d blocks of 64 KiB; 1 layer of 1 file:", st.dataUsed)
	for _, id := range []string{"2", "3"} {
		unpack(t, d, id, nil, drivertest.Entry{Name: "f", Body: "1"})
		now, err := d.status()
		require.NoError(t, err)
		t.Logf("%d blocks more", now.dataUsed-st.dataUsed)
		st = now
	}
	require.NoError(t, d.Create("t", nil, 0))
	drivertest.InTop(t, d, "t", nil, func(root string) {
		_ = os.WriteFile(root+"/big", bytes.Repeat([]byte{1}, 16<<20), 0o600)
		_ = blob.SyncTree(root)
		full, _ := d.status()
		_ = os.Remove(root + "/big")
		soon(t, "the pool has the blocks of a removed file again", func() bool {
			_ = blob.SyncTree(root)
			now, err := d.status()
			return err == nil && now.dataUsed+128 < full.dataUsed
		})
	})
}

// A pool on a block device of its own.
func TestDevice(t *testing.T) {
	need(t)
	disk := func() string {
		file := filepath.Join(t.TempDir(), "disk")
		require.NoError(t, os.WriteFile(file, nil, 0o600))
		require.NoError(t, os.Truncate(file, 200<<20))
		dev, _, err := loopOf(file)
		require.NoError(t, err)
		t.Cleanup(func() { dev.Close() })
		return dev.Name()
	}
	dev, root := disk(), filepath.Join(t.TempDir(), "dm")
	d, err := Open(root, dev)
	require.NoError(t, err)
	unpack(t, d, "1", nil, drivertest.Entry{Name: "f", Body: "1"})
	_, err = Open(filepath.Join(t.TempDir(), "dm"), dev)
	require.ErrorContains(t, err, "it is in use")
	require.NoError(t, d.Close())
	soon(t, "nothing is active", func() bool { return len(active(t, d.pool)) == 0 })
	_, err = Open(filepath.Join(t.TempDir(), "dm"), dev)
	require.ErrorContains(t, err, "something is on "+dev+" already")
	_, err = Open(root, disk())
	require.ErrorContains(t, err, "is not the device with this store's layers")

	d, err = Open(root, dev)
	require.NoError(t, err)
	require.NoError(t, d.Create("t", []string{"1"}, 0))
	drivertest.InTop(t, d, "t", []string{"1"}, func(root string) { require.Equal(t, []string{"f:1"}, drivertest.Tree(root)) })
	require.NoError(t, d.Close())
	require.NoError(t, Clean(root))
	require.Empty(t, active(t, d.pool))

	small := filepath.Join(t.TempDir(), "small")
	require.NoError(t, os.WriteFile(small, nil, 0o600))
	_, err = Open(filepath.Join(t.TempDir(), "dm"), small)
	require.ErrorContains(t, err, "no block device")
}

// Without a program that formats, the driver says which package has one, and
// leaves the choice to another.
func TestNoFormatter(t *testing.T) {
	need(t)
	t.Setenv("PATH", "/nowhere")
	_, err := Open(filepath.Join(t.TempDir(), "dm"), "")
	require.ErrorIs(t, err, driver.ErrUnsupported)
	require.ErrorContains(t, err, "e2fsprogs")
}

// On a kernel without thin volumes the driver says which option and module
// that is.
func TestNoKernel(t *testing.T) {
	drivertest.NeedRoot(t)
	err := dm.NeedTarget("coble-none", "CONFIG_NONE", "none")
	require.ErrorIs(t, err, dm.ErrKernel)
	if _, none := os.Stat("/dev/mapper/control"); none == nil {
		require.ErrorContains(t, err, "CONFIG_NONE (module none)")
		return
	}
	_, err = Open(filepath.Join(t.TempDir(), "dm"), "")
	require.ErrorIs(t, err, driver.ErrUnsupported)
	require.ErrorContains(t, err, "CONFIG_BLK_DEV_DM (module dm_mod)")
}

// xfs is taken where there is no mkfs.ext4.
func TestXFS(t *testing.T) {
	need(t)
	drivertest.NeedTool(t, "mkfs.xfs")
	dir := t.TempDir()
	mkfs, err := exec.LookPath("mkfs.xfs")
	require.NoError(t, err)
	require.NoError(t, os.Symlink(mkfs, filepath.Join(dir, "mkfs.xfs")))
	t.Setenv("PATH", dir)
	d, err := Open(filepath.Join(t.TempDir(), "dm"), "")
	require.NoError(t, err)
	t.Cleanup(func() { _ = d.Close() })
	require.Equal(t, "xfs", d.pool.FS)
	unpack(t, d, "1", nil, drivertest.Entry{Name: "f", Body: "1"}, drivertest.Entry{Name: "h", Body: "1"})
	unpack(t, d, "2", []string{"1"}, drivertest.Entry{Name: "g", Body: "2"}, drivertest.Entry{Name: ".wh.h"})
	require.NoError(t, d.Create("t", []string{"2", "1"}, 8<<20))
	drivertest.InTop(t, d, "t", []string{"2", "1"}, func(root string) {
		require.Equal(t, []string{"f:1", "g:2"}, drivertest.Tree(root))
		require.ErrorIs(t, os.WriteFile(root+"/big", make([]byte, 9<<20), 0o600), unix.ENOSPC)
	})
	cs, err := d.Changes("t", []string{"2", "1"})
	require.NoError(t, err)
	require.Len(t, cs, 1)
	require.NoError(t, d.Diff(context.Background(), "t", []string{"2", "1"}, io.Discard))
	require.NoError(t, d.RemoveTop("t"))
}
