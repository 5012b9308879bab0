package quota_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/layers/archive"
	"github.com/coble-os/coble/layers/driver"
	"github.com/coble-os/coble/layers/driver/drivertest"
	"github.com/coble-os/coble/layers/driver/overlay"
	"github.com/coble-os/coble/layers/driver/quota"
)

func TestMain(m *testing.M) { drivertest.Main(m, nil) }

// disks are file systems that can have project quotas.
func disks() map[string][]string {
	return map[string][]string{
		"ext4": {"mkfs.ext4", "-q", "-O", "project,quota", "-E", "quotatype=prjquota"},
		"xfs":  {"mkfs.xfs", "-q"},
	}
}

// withQuotas mounts a disk with its quotas on.
func withQuotas(t *testing.T, mkfs []string) string {
	t.Helper()
	dir, err := drivertest.TryDisk(t, 400, "prjquota", mkfs...)
	if err != nil && os.Getenv("COBLE_VM") == "" {
		t.Skipf("this kernel has no project quotas: make test-vm (%v)", err)
	}
	require.NoError(t, err)
	return dir
}

// A container can write as much as its limit, others do not count, and its
// number is free again when it is gone.
func TestLimit(t *testing.T) {
	for name, mkfs := range disks() {
		t.Run(name, func(t *testing.T) {
			root := filepath.Join(withQuotas(t, mkfs), "o")
			d, err := overlay.Open(root)
			require.NoError(t, err)
			raw := drivertest.Layer(t, drivertest.Entry{Name: "below", Body: "1"})
			_, err = d.Unpack(context.Background(), "1", nil, bytes.NewReader(raw), archive.Limits{})
			require.NoError(t, err)
			require.NoError(t, d.Create("free", []string{"1"}, 0))
			for range 2 {
				require.NoError(t, d.Create("a", []string{"1"}, 8<<20))
				require.NoError(t, d.Create("b", []string{"1"}, 16<<20))
				for id, want := range map[string]int64{"a": 8 << 20, "b": 16 << 20, "free": 0} {
					got, err := quota.Limit(d.Top(id))
					require.NoError(t, err)
					require.Equal(t, want, got, id)
				}
				require.True(t, full(write(t, d, "a", 10)))
				require.NoError(t, write(t, d, "b", 10))
				require.NoError(t, write(t, d, "free", 30))
				size, err := d.Size("a", []string{"1"})
				require.NoError(t, err)
				require.LessOrEqual(t, size, int64(8<<20))
				require.NoError(t, d.RemoveTop("a"))
				require.NoError(t, d.RemoveTop("b"))
			}
		})
	}
}

func full(err error) bool { return errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.ENOSPC) }

// write writes so many MiB in a container, and sees to it that they are given
// blocks.
func write(t *testing.T, d driver.Driver, id string, mib int) (err error) {
	t.Helper()
	drivertest.InTop(t, d, id, []string{"1"}, func(root string) {
		var f *os.File
		if f, err = os.Create(root + "/big"); err != nil {
			return
		}
		_, err = f.Write(make([]byte, mib<<20))
		err = errors.Join(err, f.Sync(), f.Close())
	})
	return err
}

// What has an administrator's project is left alone, and a file system that
// counts no projects is refused with what to do.
func TestRefused(t *testing.T) {
	drivertest.NeedRoot(t)
	dir := drivertest.Disk(t, 32, "", "mkfs.ext4", "-q")
	err := quota.Set(dir, "x", 1<<20)
	require.ErrorIs(t, err, quota.ErrUnsupported)
	require.ErrorContains(t, err, "tune2fs -O project,quota")
	d, err := overlay.Open(filepath.Join(dir, "o"))
	require.NoError(t, err)
	err = d.Create("t", nil, 1<<20)
	require.ErrorIs(t, err, driver.ErrUnsupported)
	_, tops, err := d.List()
	require.NoError(t, err)
	require.Empty(t, tops)
	f, err := os.Open(dir)
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, quota.Clear(f))
}

func TestNested(t *testing.T) {
	for name, mkfs := range disks() {
		t.Run(name, func(t *testing.T) {
			dir := withQuotas(t, mkfs)
			outer := filepath.Join(dir, "outer")
			require.NoError(t, os.Mkdir(outer, 0o755))
			require.NoError(t, quota.Set(outer, "x", 64<<20))
			inner := filepath.Join(outer, "inner")
			require.NoError(t, os.Mkdir(inner, 0o755))
			err := quota.Set(inner, "y", 1<<20)
			require.ErrorIs(t, err, quota.ErrUnsupported)
			require.ErrorContains(t, err, "belongs to project")
			other := filepath.Join(dir, "other")
			require.NoError(t, os.Mkdir(other, 0o755))
			require.NoError(t, quota.Set(other, "x", 32<<20), "a name whose number is taken gets another")
			n, err := quota.Limit(outer)
			require.NoError(t, err)
			require.EqualValues(t, 64<<20, n)
		})
	}
}
