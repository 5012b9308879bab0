package devmapper

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/layers/archive"
	"github.com/coble-os/coble/layers/blob"
	"github.com/coble-os/coble/layers/driver"
	"github.com/coble-os/coble/layers/driver/devmapper/dm"
	"github.com/coble-os/coble/layers/driver/drivertest"
	"github.com/coble-os/coble/layers/driver/whole"
)

// without is a driver that has no pool yet.
func without(t *testing.T, root string) *Driver {
	t.Helper()
	d := &Driver{}
	s, err := driver.OpenStore(root, d.drop)
	require.NoError(t, err)
	d.Store = whole.New(s, d.openTree)
	return d
}

// heldBase has mkfs.ext4 mount what it has made, as a child that was just born
// may have it: no unmounting writes it. It gives the folder.
func heldBase(t *testing.T) string {
	t.Helper()
	mkfs, err := exec.LookPath("mkfs.ext4")
	require.NoError(t, err)
	bin, at := t.TempDir(), t.TempDir()
	script := fmt.Sprintf("#!/bin/sh\n%s \"$@\" || exit\nfor dev; do :; done\nexec mount -t ext4 \"$dev\" %s\n", mkfs, at)
	require.NoError(t, os.WriteFile(filepath.Join(bin, "mkfs.ext4"), []byte(script), 0o700))
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	return at
}

// A pool in files is there, and can be opened, from the moment on when it was
// made, whatever the file system has written by itself in between.
func TestPoolIsDurable(t *testing.T) {
	need(t)
	for _, fs := range drivertest.FileSystems() {
		if strings.HasPrefix(fs.Name, "ext4-") {
			continue // as ext4
		}
		for _, forced := range []string{"files", "nothing"} {
			t.Run(fs.Name+"/"+forced, func(t *testing.T) {
				c := fs.Sized(320).Cuts(t)
				held := heldBase(t)
				d := without(t, filepath.Join(c.Dir, "drv"))
				p, err := d.plan("")
				require.NoError(t, err)
				require.NoError(t, p.prepare(d.Root()))
				if forced == "files" {
					require.NoError(t, blob.SyncTree(c.Dir))
				}
				require.NoError(t, d.start(p))
				require.NoError(t, d.makeBase())
				c.Answered("made", func(t *testing.T, dir string) {
					have, there, err := loadPool(filepath.Join(dir, "drv"))
					require.NoError(t, err)
					require.True(t, there)
					require.Equal(t, d.pool, have)
					d, err := Open(filepath.Join(dir, "drv"), "")
					require.NoError(t, err)
					defer closing{d}.Close()
					require.NoError(t, d.Create("t", nil, 0))
					drivertest.InTop(t, d, "t", nil, func(root string) { require.Empty(t, drivertest.Tree(root)) })
				})
				require.NoError(t, unix.Unmount(held, 0))
				require.NoError(t, closing{d}.Close())
				c.Check()
			})
		}
	}
}

// A block device that was taken bears its mark, after the record in which the
// mark stands and before the pool is made; where its metadata goes there are
// zeros, although it had another pool. The device is in use by another, so
// that closing it writes nothing.
func TestDeviceIsTakenDurably(t *testing.T) {
	drivertest.NeedRoot(t)
	for _, fs := range drivertest.FileSystems() {
		t.Run(fs.Name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "disk")
			require.NoError(t, os.WriteFile(file, bytes.Repeat([]byte{1}, headerBytes+8192), 0o600))
			require.NoError(t, os.Truncate(file, 200<<20))
			f, err := os.OpenFile(file, os.O_RDWR, 0)
			require.NoError(t, err)
			defer f.Close()
			_, err = f.WriteAt(make([]byte, headerBytes), 0) // as the driver's advice has it
			require.NoError(t, err)
			dev, _, err := loopOf(file)
			require.NoError(t, err)
			defer dev.Close()

			c := fs.Cuts(t)
			p, err := without(t, filepath.Join(c.Dir, "drv")).plan(dev.Name())
			require.NoError(t, err)
			require.NoError(t, p.takeDevice())
			c.Answered("taken", func(t *testing.T, dir string) {
				have, there, err := loadPool(filepath.Join(dir, "drv"))
				require.NoError(t, err)
				require.True(t, there, "without the record the device is another store's")
				require.NoError(t, have.takeDevice())
			})
			got := make([]byte, headerBytes+8192)
			_, err = f.ReadAt(got, 0)
			require.NoError(t, err)
			require.True(t, bytes.HasPrefix(got, p.header()))
			require.Equal(t, make([]byte, 4096), got[headerBytes:headerBytes+4096])
			require.Equal(t, byte(1), got[headerBytes+4096], "the rest is the pool's")
			c.Check()
		})
	}
}

// A layer whose content the disk below did not take is none.
func TestLayerNotWritten(t *testing.T) {
	need(t)
	file := filepath.Join(t.TempDir(), "disk")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	require.NoError(t, os.Truncate(file, 200<<20))
	dev, rdev, err := loopOf(file)
	require.NoError(t, err)
	t.Cleanup(func() { dev.Close() })
	const name, mib = "coble-test-bad", 1 << 11 // sectors
	_, err = dm.Create(name, "")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, deactivate(name)) })
	require.NoError(t, dm.Load(name, false, dm.Target{Sectors: 200 * mib, Type: "linear", Params: dm.Number(rdev) + " 0"}))
	disk, err := dm.Resume(name)
	require.NoError(t, err)
	d, err := Open(filepath.Join(t.TempDir(), "dm"), disk.Node())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, closing{d}.Close()) })
	// The pool gives out blocks from the beginning on, so content comes to lie
	// there, and what the file system writes about it at the end does not.
	const from, to = 24 * mib, 28 * mib
	table := fmt.Sprintf("0 %d linear %[3]s 0\n%[1]d %[2]d error\n%[4]d %[5]d linear %[3]s %[4]d\n", from, to-from, dm.Number(rdev), to, 200*mib-to)
	c := cutDisk{t: t}
	c.run("dmsetup", "suspend", "--noudevsync", name)
	c.run("sh", "-c", "printf '"+table+"' | dmsetup load "+name)
	c.run("dmsetup", "resume", "--noudevsync", name)
	_, err = d.Unpack(context.Background(), "1", nil, bytes.NewReader(drivertest.Layer(t, drivertest.Entry{Name: "big", Body: string(make([]byte, 48<<20))})), archive.Limits{})
	require.ErrorContains(t, err, "sync volume")
	require.False(t, d.Has("1"))
}
