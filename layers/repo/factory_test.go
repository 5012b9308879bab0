package repo

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/layers/driver/drivertest"
	"github.com/coble-os/coble/layers/fsck"
)

// factory makes a store of its own in a folder, as an engine leaves it.
func factory(t *testing.T, dir, drv string, ms ...made) string {
	t.Helper()
	root := filepath.Join(dir, "store")
	require.NoError(t, os.MkdirAll(root, 0o755))
	db, err := bbolt.Open(filepath.Join(root, "coble.db"), 0o600, &bbolt.Options{NoFreelistSync: true})
	require.NoError(t, err)
	r, err := Open(Options{Root: root, DB: db, Driver: drv})
	require.NoError(t, err)
	for _, m := range ms {
		loadMade(t, r, m)
	}
	require.NoError(t, db.Close())
	return root
}

// readOnly are file systems on which a store can't be written.
func readOnly() map[string]func(t *testing.T, dir string) string {
	mount := func(t *testing.T, source, fstype string, flags uintptr) string {
		dir := t.TempDir()
		require.NoError(t, unix.Mount(source, dir, fstype, flags, ""))
		t.Cleanup(func() { require.NoError(t, unix.Unmount(dir, 0)) })
		return dir
	}
	return map[string]func(*testing.T, string) string{
		"bind mount": func(t *testing.T, dir string) string {
			at := mount(t, dir, "", unix.MS_BIND)
			require.NoError(t, unix.Mount("", at, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""))
			return at
		},
		"squashfs": func(t *testing.T, dir string) string {
			drivertest.NeedTool(t, "mksquashfs")
			file, at := filepath.Join(t.TempDir(), "squashfs"), t.TempDir()
			out, err := exec.Command("mksquashfs", dir, file, "-noappend", "-quiet", "-no-progress", "-xattrs").CombinedOutput()
			require.NoError(t, err, "%s", out)
			out, err = exec.Command("mount", "-t", "squashfs", "-o", "loop,ro", file, at).CombinedOutput()
			require.NoError(t, err, "%s", out)
			t.Cleanup(func() { require.NoError(t, unix.Unmount(at, 0)) })
			return at
		},
	}
}

// TestRepairFromStore: damaged files come back from a store that can't be
// written, whatever driver unpacked what is in it.
func TestRepairFromStore(t *testing.T) {
	drivertest.NeedRoot(t)
	m := rich(t)
	for _, drv := range []string{"overlay", "vfs", "btrfs"} {
		dir := t.TempDir()
		if drv == "btrfs" {
			dir = drivertest.Btrfs(t, 256)
		}
		root := factory(t, dir, drv, simple(t, "other"), m)
		for kind, mounted := range readOnly() {
			t.Run(drv+" on "+kind, func(t *testing.T) {
				r := newRepo(t)
				id := loadMade(t, r, m)
				want := shown(t, r, id)
				from, c, err := r.OpenOrigin(t.Context(), mounted(t, root))
				require.NoError(t, err)
				defer c.Close()
				require.NoError(t, os.Truncate(upper(t, r)+"/own", 0))
				require.NoError(t, os.Remove(upper(t, r)+"/gone"))
				found, err := r.Check(t.Context(), fsck.Options{Origin: from})
				require.NoError(t, err)
				require.Len(t, found, 2)
				for _, f := range found {
					require.True(t, f.Repaired, "%+v", f)
				}
				require.Equal(t, want, shown(t, r, id))

				layers, _, err := r.drv.List()
				require.NoError(t, err)
				for _, l := range layers {
					require.NoError(t, os.RemoveAll(filepath.Join(r.o.Root, "overlay", "d", l)))
				}
				found, err = r.Check(t.Context(), fsck.Options{Origin: from})
				require.NoError(t, err)
				require.Len(t, found, len(layers))
				for _, f := range found {
					require.True(t, f.Repaired, "%+v", f)
				}
				require.Equal(t, want, shown(t, r, id))
			})
		}
	}
}

// TestRepairFromBadStores: what can't be had from a store is said, and
// nothing is changed.
func TestRepairFromBadStores(t *testing.T) {
	drivertest.NeedRoot(t)
	m := rich(t)
	r := newRepo(t)
	loadMade(t, r, m)
	p := upper(t, r) + "/own"
	require.NoError(t, os.Truncate(p, 1))
	open := func(root string) error { _, _, err := r.OpenOrigin(t.Context(), root); return err }
	for name, c := range map[string]struct {
		spoil func(root string) error
		want  string // of opening it
		found string // of checking
	}{
		"in use": {spoil: func(root string) error {
			db, err := bbolt.Open(root+"/coble.db", 0o600, nil)
			t.Cleanup(func() { db.Close() })
			return err
		}, want: "an engine has it open"},
		"cut off": {spoil: func(root string) error { return os.Truncate(root+"/coble.db", 2*int64(os.Getpagesize())) }, want: "its coble.db is damaged"},
		"no database": {spoil: func(root string) error {
			return os.WriteFile(root+"/coble.db", make([]byte, 65536), 0o600)
		}, want: "invalid database"},
		"without the layer":  {spoil: func(root string) error { return os.RemoveAll(root) }, found: "has no layer"},
		"without its folder": {spoil: func(root string) error { return os.RemoveAll(root + "/overlay/d") }, found: "no such file"},
		"without its record": {spoil: func(root string) error { return os.RemoveAll(root + "/meta") }, found: "no such file"},
		"with other content": {spoil: func(root string) error {
			own, err := filepath.Glob(root + "/overlay/d/*/own")
			if err == nil {
				err = os.WriteFile(own[0], []byte("OWN"), 0o644)
			}
			return err
		}, found: "damaged"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			root := factory(t, dir, "overlay", m)
			require.NoError(t, c.spoil(root))
			if name == "without the layer" {
				factory(t, dir, "overlay", simple(t, "other"))
			}
			if c.want != "" {
				require.ErrorContains(t, open(root), c.want)
				return
			}
			from, end, err := r.OpenOrigin(t.Context(), root)
			require.NoError(t, err)
			defer end.Close()
			found, err := r.Check(t.Context(), fsck.Options{Origin: from})
			require.NoError(t, err)
			require.Contains(t, fmt.Sprint(found), c.found)
			require.False(t, found[0].Repaired)
			st, err := os.Stat(p)
			require.NoError(t, err)
			require.EqualValues(t, 1, st.Size())
		})
	}
	require.ErrorContains(t, open(r.o.Root), "open "+r.o.Root+" to repair from")
}
