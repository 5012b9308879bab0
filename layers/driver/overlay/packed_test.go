package overlay

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/layers/archive"
	"github.com/coble-os/coble/layers/driver"
	"github.com/coble-os/coble/layers/driver/drivertest"
	"github.com/coble-os/coble/layers/driver/packed"
)

// packing is the driver with layers that lie in files elsewhere.
type packing struct {
	*Driver
	dir    string
	format packed.Format
}

func (p packing) Unpack(ctx context.Context, id string, _ []string, tar io.Reader, l archive.Limits) (st archive.Stats, err error) {
	if err := driver.CheckID(id); err != nil {
		return st, err
	}
	tree, err := os.MkdirTemp(p.dir, "tree")
	if err != nil {
		return st, err
	}
	if st, err = fill(ctx, tree, tar, l); err != nil {
		return st, err
	}
	place, err := pack(tree, filepath.Join(p.dir, id), p.format)
	if err != nil {
		return st, err
	}
	return st, p.Adopt(id, place)
}

func packer(f packed.Format) string {
	if f == packed.Erofs {
		return "mkfs.erofs"
	}
	return "mksquashfs"
}

func pack(tree, file string, format packed.Format) (packed.Place, error) {
	cmd := exec.Command("mksquashfs", tree, file, "-noappend", "-quiet", "-no-progress", "-xattrs")
	if format == packed.Erofs {
		cmd = exec.Command("mkfs.erofs", "-zlz4", file, tree)
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return packed.Place{}, fmt.Errorf("%v: %w: %s", cmd, err, out)
	}
	f, err := os.Open(file)
	if err != nil {
		return packed.Place{}, err
	}
	defer f.Close()
	return packed.Of(f, format)
}

// Layers that stay in their files keep the whole contract of those that are
// unpacked.
func TestPackedConformance(t *testing.T) {
	drivertest.NeedRoot(t)
	for _, f := range []packed.Format{packed.Squashfs, packed.Erofs} {
		t.Run(string(f), func(t *testing.T) {
			drivertest.NeedTool(t, packer(f))
			drivertest.Run(t, "", func(root string) (driver.Driver, error) {
				d, err := Open(root)
				return packing{d, t.TempDir(), f}, err
			}, "full disk", "killed") // of Unpack's own
		})
	}
}

// one is a driver with the layer 1, which is packed and has f.
func one(t *testing.T, f packed.Format) (*Driver, packed.Place) {
	t.Helper()
	drivertest.NeedRoot(t)
	drivertest.NeedTool(t, packer(f))
	d, err := Open(filepath.Join(t.TempDir(), "o"))
	require.NoError(t, err)
	p := packing{d, t.TempDir(), f}
	body := make([]byte, 200_000)
	_, _ = rand.NewChaCha8([32]byte{}).Read(body) // it can't be packed
	raw := drivertest.Layer(t, drivertest.Entry{Name: "f", Body: string(body)})
	_, err = p.Unpack(context.Background(), "1", nil, bytes.NewReader(raw), archive.Limits{})
	require.NoError(t, err)
	place, is, err := d.place("1")
	require.NoError(t, err)
	require.True(t, is)
	return d, place
}

// A file that is gone or has changed is an error that names it, before
// anything is mounted.
func TestPackedFileGone(t *testing.T) {
	for name, c := range map[string]struct {
		damage func(path string) error
		says   string
	}{
		"gone":    {os.Remove, "no such file"},
		"shorter": {func(p string) error { return os.Truncate(p, 4096) }, "it has 4096 bytes"},
		"touched": {func(p string) error { return os.Chtimes(p, time.Now(), time.Unix(1, 0)) }, "time of modification"},
	} {
		t.Run(name, func(t *testing.T) {
			d, place := one(t, packed.Squashfs)
			require.True(t, d.Has("1"))
			require.NoError(t, d.Create("t", []string{"1"}, 0))
			require.NoError(t, c.damage(place.Path))
			require.False(t, d.Has("1"))
			_, err := d.Mounts("t", []string{"1"})
			_, err2 := d.Changes("t", []string{"1"})
			err3 := d.Create("u", []string{"1"}, 0)
			require.ErrorIs(t, err, driver.ErrMissing)
			require.ErrorIs(t, err3, driver.ErrMissing)
			for _, err := range []error{err, err2, err3} {
				require.ErrorContains(t, err, place.Path)
				require.ErrorContains(t, err, c.says)
			}
			require.NoError(t, d.RemoveTop("t"))
			require.NoError(t, d.Remove("1"))
		})
	}
}

// A file that is no file system of its kind, or a damaged one, is refused by
// name and leaves nothing.
func TestPackedFileDamaged(t *testing.T) {
	for _, f := range []packed.Format{packed.Squashfs, packed.Erofs} {
		for name, damage := range map[string]func(raw []byte) []byte{
			"other":     func(raw []byte) []byte { return bytes.Repeat([]byte("no file system "), 1000) },
			"truncated": func(raw []byte) []byte { return raw[:len(raw)/2] },
			"header":    func(raw []byte) []byte { return append(make([]byte, 2048), raw[2048:]...) },
			"empty":     func(raw []byte) []byte { return nil },
		} {
			if f == packed.Erofs && name == "truncated" {
				continue // what is missing is only met when it is read: the digest is checked before
			}
			t.Run(string(f)+" "+name, func(t *testing.T) {
				d, place := one(t, f)
				raw, err := os.ReadFile(place.Path)
				require.NoError(t, err)
				bad := filepath.Join(t.TempDir(), "bad")
				require.NoError(t, os.WriteFile(bad, damage(raw), 0o600))
				err = d.Adopt("2", packed.Place{Path: bad, Format: f, Size: int64(len(damage(raw))), MTime: mtime(t, bad)})
				require.ErrorContains(t, err, bad)
				require.False(t, d.Has("2"))
				left, err := os.ReadDir(filepath.Join(d.Root(), "t"))
				require.NoError(t, err)
				require.Empty(t, left)
			})
		}
	}
}

func mtime(t *testing.T, path string) int64 {
	st, err := os.Stat(path)
	require.NoError(t, err)
	return st.ModTime().UnixNano()
}

// One file, however many containers use it, is one loop device, read-only,
// which goes with the last of them; the machine sees no mount.
func TestPackedSharesOneDevice(t *testing.T) {
	for _, f := range []packed.Format{packed.Squashfs, packed.Erofs} {
		t.Run(string(f), func(t *testing.T) {
			d, place := one(t, f)
			t.Cleanup(func() { detach(place.Path) })
			before := mountsHere(t)
			var inside [2][]string
			for _, id := range []string{"a", "b"} {
				require.NoError(t, d.Create(id, []string{"1"}, 0))
			}
			drivertest.InTop(t, d, "a", []string{"1"}, func(string) {
				inside[0] = devices(place.Path)
				drivertest.InTop(t, d, "b", []string{"1"}, func(string) { inside[1] = devices(place.Path) })
			})
			require.Len(t, inside[0], 1)
			require.Equal(t, inside[0], inside[1])
			require.Equal(t, before, mountsHere(t))
			require.Eventually(t, func() bool { return len(devices(place.Path)) == 0 }, 5*time.Second, 10*time.Millisecond, "the loop device goes by itself")
			_, err := d.Changes("a", []string{"1"})
			require.NoError(t, err)
			require.Eventually(t, func() bool { return len(devices(place.Path)) == 0 }, 5*time.Second, 10*time.Millisecond)
		})
	}
}

func mountsHere(t *testing.T) string {
	raw, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	return string(raw)
}

// devices are the loop devices of a file.
func devices(path string) (out []string) {
	all, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, p := range all {
		if raw, err := os.ReadFile(p); err == nil && strings.TrimSpace(string(raw)) == path {
			out = append(out, p)
		}
	}
	return out
}

// detach takes away what a broken driver would leave on the machine.
func detach(path string) {
	for _, p := range devices(path) {
		if f, err := os.Open("/dev/" + filepath.Base(filepath.Dir(filepath.Dir(p)))); err == nil {
			_ = unix.IoctlSetInt(int(f.Fd()), unix.LOOP_CLR_FD, 0)
			f.Close()
		}
	}
}

// Layers that are one file twice in an image are mounted once: overlayfs
// refuses to stack a file system on itself.
func TestPackedTwiceInOneStack(t *testing.T) {
	d, place := one(t, packed.Squashfs)
	require.NoError(t, d.Adopt("2", place))
	require.NoError(t, d.Create("t", []string{"2", "1"}, 0))
	ms, err := d.Mounts("t", []string{"2", "1"})
	require.NoError(t, err)
	require.Len(t, ms, 2)
	n := 0
	drivertest.InMounts(t, ms, func(root string) { n = len(drivertest.Tree(root)) })
	require.Equal(t, 1, n)
}

// A kernel without loop devices is named, and still runs erofs if it can
// mount it from the file itself.
func TestPackedWithoutLoop(t *testing.T) {
	hideLoop := func(t *testing.T) {
		require.NoError(t, unix.Mount("/dev/null", "/dev/loop-control", "", unix.MS_BIND, ""))
		t.Cleanup(func() { require.NoError(t, unix.Unmount("/dev/loop-control", 0)) })
	}
	t.Run("squashfs", func(t *testing.T) {
		d, _ := one(t, packed.Squashfs)
		hideLoop(t)
		_, err := d.trees2(t)
		require.ErrorIs(t, err, packed.ErrKernel)
		require.ErrorContains(t, err, "CONFIG_BLK_DEV_LOOP")
	})
	t.Run("erofs", func(t *testing.T) {
		d, place := one(t, packed.Erofs)
		hideLoop(t)
		_, err := d.trees2(t)
		if err != nil { // before Linux 6.12
			require.ErrorIs(t, err, packed.ErrKernel)
			require.ErrorContains(t, err, "CONFIG_BLK_DEV_LOOP")
			return
		}
		require.NoError(t, d.Create("t", []string{"1"}, 0))
		var got []string
		drivertest.InTop(t, d, "t", []string{"1"}, func(root string) { got = drivertest.Tree(root) })
		require.Len(t, got, 1)
		require.Empty(t, devices(place.Path))
	})
}

func (d *Driver) trees2(t *testing.T) ([]string, error) {
	paths, done, err := d.trees([]string{"1"})
	if err == nil {
		t.Cleanup(done)
	}
	return paths, err
}
