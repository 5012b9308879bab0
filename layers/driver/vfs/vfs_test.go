package vfs

import (
	"bytes"
	"context"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/coble-os/coble/layers/archive"
	"github.com/coble-os/coble/layers/blob"
	"github.com/coble-os/coble/layers/driver"
	"github.com/coble-os/coble/layers/driver/drivertest"
)

func open(root string) (driver.Driver, error) { return Open(root) }

func TestMain(m *testing.M) { drivertest.Main(m, open) }

func TestConformance(t *testing.T) {
	drivertest.NeedRoot(t)
	for name, disk := range map[string]func(testing.TB) string{
		"plain": func(testing.TB) string { return "" },
		"btrfs": func(t testing.TB) string { return drivertest.Btrfs(t, 1024) },
	} {
		t.Run(name, func(t *testing.T) { drivertest.Run(t, disk(t), open) })
	}
}

// Where the file system can, a layer and a top share the blocks of what they
// have from below, and what a container writes is its own.
func TestBlocksAreShared(t *testing.T) {
	drivertest.NeedRoot(t)
	for name, disk := range map[string]func(testing.TB) string{
		"btrfs": func(t testing.TB) string { return drivertest.Btrfs(t, 256) },
		"xfs":   func(t testing.TB) string { return drivertest.Disk(t, 320, "", "mkfs.xfs", "-q") },
	} {
		t.Run(name, func(t *testing.T) {
			d, err := Open(filepath.Join(disk(t), "v"))
			require.NoError(t, err)
			raw := drivertest.Layer(t, drivertest.Entry{Name: "big", Body: strings.Repeat("0123456789abcdef", 1<<16)})
			_, err = d.Unpack(context.Background(), "1", nil, bytes.NewReader(raw), archive.Limits{})
			require.NoError(t, err)
			require.NotContains(t, extents(t, d.Layer("1")), "shared")
			_, err = d.Unpack(context.Background(), "2", []string{"1"}, bytes.NewReader(drivertest.Layer(t, drivertest.Entry{Name: "x"})), archive.Limits{})
			require.NoError(t, err)
			require.NoError(t, d.Create("t", []string{"2", "1"}, 0))
			for _, p := range []string{d.Layer("1"), d.Layer("2"), d.Top("t")} {
				require.Contains(t, extents(t, p), "shared", p)
			}
			require.NoError(t, d.Remove("2"))
			require.NoError(t, d.RemoveTop("t"))
			require.NoError(t, blob.SyncTree(d.Root()))
		})
	}
}

// extents is what filefrag(8) says of a folder's big file.
func extents(t *testing.T, path string) string {
	t.Helper()
	drivertest.NeedTool(t, "filefrag")
	require.NoError(t, blob.SyncTree(path))
	out, err := exec.Command("filefrag", "-v", filepath.Join(tree(path), "big")).CombinedOutput()
	require.NoError(t, err, "%s", out)
	return string(out)
}

func TestNoLimits(t *testing.T) {
	d, err := Open(filepath.Join(t.TempDir(), "v"))
	require.NoError(t, err)
	err = d.Create("t", nil, 1<<20)
	require.ErrorIs(t, err, driver.ErrUnsupported)
	require.ErrorContains(t, err, "use overlay or btrfs")
}

// What was answered survives a power cut on every file system.
func TestDurable(t *testing.T) {
	for _, fs := range drivertest.FileSystems() {
		t.Run(fs.Name, func(t *testing.T) { drivertest.Durable(t, fs, open, nil) })
	}
}
