package btrfs

import (
	"bytes"
	"context"
	"errors"
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
	"github.com/coble-os/coble/layers/driver/drivertest"
)

func open(root string) (driver.Driver, error) { return Open(root) }

func TestMain(m *testing.M) { drivertest.Main(m, open) }

func TestConformance(t *testing.T) {
	drivertest.Run(t, drivertest.Btrfs(t, 1024), open)
}

// A container may make subvolumes, and set them read-only: they go with it.
func TestSubvolumesOfContainersGo(t *testing.T) {
	drivertest.NeedTool(t, "btrfs")
	d := at(t)
	require.NoError(t, d.Create("t", nil, 0))
	drivertest.InTop(t, d, "t", nil, func(root string) {
		for _, words := range []string{
			"subvolume create a", "subvolume create a/b", "subvolume snapshot -r a/b a/c", "subvolume snapshot -r a e", "property set -ts a ro true",
		} {
			cmd := exec.Command("btrfs", strings.Fields(words)...)
			cmd.Dir = root
			out, err := cmd.CombinedOutput()
			if err != nil {
				panic(words + ": " + string(out))
			}
		}
	})
	require.NoError(t, d.RemoveTop("t"))
	_, tops, err := d.List()
	require.NoError(t, err)
	require.Empty(t, tops)
	left, err := os.ReadDir(filepath.Join(d.Root(), "t"))
	require.NoError(t, err)
	require.Empty(t, left)
	out, err := exec.Command("btrfs", "subvolume", "list", d.Root()).CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Empty(t, string(out))
}

// Not even root changes a layer.
func TestLayersAreReadOnly(t *testing.T) {
	d := at(t)
	unpack(t, d, "1")
	require.ErrorIs(t, os.WriteFile(filepath.Join(tree(d.Layer("1")), "f"), nil, 0o600), unix.EROFS)
	require.NoError(t, d.Remove("1"))
}

func TestLimit(t *testing.T) {
	drivertest.NeedTool(t, "btrfs")
	d := at(t)
	unpack(t, d, "1")
	err := d.Create("t", []string{"1"}, 8<<20)
	require.ErrorIs(t, err, driver.ErrUnsupported)
	require.ErrorContains(t, err, "btrfs quota enable")
	_, tops, err := d.List()
	require.NoError(t, err)
	require.Empty(t, tops)

	out, err := exec.Command("btrfs", "quota", "enable", d.Root()).CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.NoError(t, d.Create("t", []string{"1"}, 8<<20))
	require.NoError(t, d.Create("free", []string{"1"}, 0))
	fill := func(id string) error {
		return os.WriteFile(filepath.Join(tree(d.Top(id)), "big"), make([]byte, 24<<20), 0o600)
	}
	require.ErrorIs(t, fill("t"), unix.EDQUOT)
	require.NoError(t, fill("free"))
}

// A folder on another file system is refused with the reason.
func TestUnsupported(t *testing.T) {
	drivertest.NeedRoot(t)
	_, err := Open(filepath.Join(drivertest.Disk(t, 64, "", "mkfs.ext4", "-q"), "b"))
	require.ErrorIs(t, err, driver.ErrUnsupported)
	require.ErrorContains(t, err, "another file system")
}

func at(t *testing.T) *Driver {
	d, err := Open(filepath.Join(drivertest.Btrfs(t, 256), "b"))
	require.NoError(t, err)
	return d
}

func unpack(t *testing.T, d *Driver, id string) {
	raw := drivertest.Layer(t, drivertest.Entry{Name: "f", Body: "1"})
	_, err := d.Unpack(context.Background(), id, nil, bytes.NewReader(raw), archive.Limits{})
	require.NoError(t, err)
}

// What was answered survives a power cut.
func TestDurable(t *testing.T) {
	for _, fs := range drivertest.FileSystems() {
		if fs.Name == "btrfs" {
			drivertest.Durable(t, fs, open, nil)
		}
	}
}

// What a destroyed subvolume had is free when that was waited for, although the kernel commits nothing by itself.
func TestReclaim(t *testing.T) {
	d, err := Open(filepath.Join(drivertest.Disk(t, 150, "commit=600", "mkfs.btrfs", "-q", "--nodiscard"), "drv"))
	require.NoError(t, err)
	root, err := os.Open(d.Root())
	require.NoError(t, err)
	defer root.Close()
	free := func() int64 {
		var st unix.Statfs_t
		require.NoError(t, unix.Fstatfs(int(root.Fd()), &st))
		return int64(st.Bfree) * int64(st.Bsize)
	}
	temp, err := d.Temp("1")
	require.NoError(t, err)
	require.NoError(t, d.newVolume(temp, nil))
	before := free()
	require.NoError(t, os.WriteFile(filepath.Join(temp, volume, "big"), make([]byte, 20<<20), 0o600))
	require.NoError(t, blob.SyncTree(temp))
	require.Less(t, free(), before-19<<20)
	f, err := os.Open(filepath.Join(temp, volume))
	require.NoError(t, err)
	id, err := subvolID(int(f.Fd()))
	require.NoError(t, errors.Join(err, f.Close()))
	d.Discard(temp)
	require.NoError(t, d.reclaim(id))
	there, err := exists(int(root.Fd()), id)
	require.NoError(t, err)
	require.False(t, there)
	require.Greater(t, free(), before-1<<20)
}
