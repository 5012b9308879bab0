package overlay

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/layers/archive"
	"github.com/coble-os/coble/layers/driver"
	"github.com/coble-os/coble/layers/driver/drivertest"
	"github.com/coble-os/coble/layers/driver/packed"
)

func open(root string) (driver.Driver, error) { return Open(root) }

func TestMain(m *testing.M) { drivertest.Main(m, open) }

func TestConformance(t *testing.T) {
	drivertest.Run(t, "", open)
}

// 127 layers fit the option string with absolute paths where coble usually
// lives, and with relative ones elsewhere.
func TestOptionsFit(t *testing.T) {
	drivertest.NeedRoot(t)
	var stack []string
	for i := range 127 {
		stack = append(stack, strconv.FormatInt(int64(i+36), 36))
	}
	d := &Driver{}
	require.Less(t, len(d.data("/var/lib/coble/overlay/", "zz", stack)), maxData)

	long := filepath.Join(t.TempDir(), strings.Repeat("x", 200))
	require.NoError(t, os.Mkdir(long, 0o700))
	real, err := Open(filepath.Join(long, "o"))
	require.NoError(t, err)
	for _, id := range stack {
		require.NoError(t, os.Mkdir(real.Layer(id), 0o755))
	}
	require.NoError(t, real.Create("zz", stack, 0))
	ms, err := real.Mounts("zz", stack)
	require.NoError(t, err)
	require.Equal(t, real.Root(), ms[0].Dir)
	require.LessOrEqual(t, len(ms[0].Data), maxData)
	drivertest.InMounts(t, ms, func(root string) { err = os.WriteFile(root+"/f", nil, 0o600) })
	require.NoError(t, err)

	ms, err = real.Mounts("zz", stack[:2])
	require.NoError(t, err)
	require.Empty(t, ms[0].Dir)
}

// A folder that no overlay can lie on is refused with the reason.
func TestUnsupported(t *testing.T) {
	drivertest.NeedRoot(t)
	_, err := Open("/proc/self/attr")
	require.Error(t, err)
	colon := filepath.Join(t.TempDir(), "a:b")
	_, err = Open(colon)
	require.ErrorIs(t, err, driver.ErrUnsupported)

	// overlayfs can't be the writable side of another overlayfs.
	base := t.TempDir()
	for _, s := range []string{"l", "u", "w", "m"} {
		require.NoError(t, os.Mkdir(filepath.Join(base, s), 0o755))
	}
	m := driver.Mount{Type: "overlay", Source: "overlay", Data: "lowerdir=" + base + "/l,upperdir=" + base + "/u,workdir=" + base + "/w"}
	drivertest.InMounts(t, []driver.Mount{m}, func(root string) { _, err = Open(filepath.Join(root, "o")) })
	require.ErrorIs(t, err, driver.ErrUnsupported)
}

func TestFoldersAreClosedToOthers(t *testing.T) {
	drivertest.NeedRoot(t)
	d, err := Open(filepath.Join(t.TempDir(), "o"))
	require.NoError(t, err)
	for _, p := range []string{".", "d", "c", "t"} {
		var st unix.Stat_t
		require.NoError(t, unix.Lstat(filepath.Join(d.Root(), p), &st))
		require.Zero(t, st.Mode&0o007, p)
	}
}

// What another overlay's options left in a top is refused, not misread; our
// own mounts never leave any of it, whatever the machine's defaults are.
func TestForeignTops(t *testing.T) {
	drivertest.NeedRoot(t)
	work := func(root string) (err error) {
		return errors.Join(os.Chmod(root+"/f", 0o600), os.Rename(root+"/d", root+"/moved"))
	}
	for name, c := range map[string]struct {
		options string
		refused bool
	}{
		"ours":         {options: plainTops},
		"metacopy":     {options: ",index=off,metacopy=on,redirect_dir=on", refused: true},
		"redirect_dir": {options: ",index=off,metacopy=off,redirect_dir=on", refused: true},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := Open(filepath.Join(t.TempDir(), "o"))
			require.NoError(t, err)
			raw := drivertest.Layer(t, drivertest.Entry{Name: "f", Body: "1"}, drivertest.Entry{Name: "d/g", Body: "1"})
			_, err = d.Unpack(context.Background(), "1", nil, bytes.NewReader(raw), archive.Limits{})
			require.NoError(t, err)
			require.NoError(t, d.Create("t", []string{"1"}, 0))
			ms, err := d.Mounts("t", []string{"1"})
			require.NoError(t, err)
			require.True(t, strings.HasSuffix(ms[0].Data, plainTops))
			ms[0].Data = strings.TrimSuffix(ms[0].Data, plainTops) + c.options
			drivertest.InMounts(t, ms, func(root string) { err = work(root) })
			if !c.refused {
				// Without redirects only an empty folder, or one of the top's own, can be renamed.
				require.ErrorIs(t, err, unix.EXDEV)
				_, err = d.Changes("t", []string{"1"})
				require.NoError(t, err)
				return
			}
			require.NoError(t, err)
			_, err = d.Changes("t", []string{"1"})
			require.ErrorIs(t, err, errForeign)
			require.ErrorIs(t, d.Diff(context.Background(), "t", []string{"1"}, io.Discard), errForeign)
			drivertest.InTop(t, d, "t", []string{"1"}, func(root string) {
				body, rerr := os.ReadFile(root + "/f")
				err = nil
				if rerr == nil && string(body) != "1" {
					err = errors.New("content of a file is lost without a word")
				}
			})
			require.NoError(t, err)
		})
	}
}

// What was answered survives a power cut on every file system.
func TestDurable(t *testing.T) {
	drivertest.NeedRoot(t)
	drivertest.NeedTool(t, packer(packed.Squashfs))
	tree := t.TempDir()
	require.NoError(t, os.Chmod(tree, 0o751))
	place, err := pack(tree, filepath.Join(t.TempDir(), "packed"), packed.Squashfs)
	require.NoError(t, err)
	adopt := func(c *drivertest.Cuts, d driver.Driver) {
		require.NoError(t, d.(driver.Adopter).Adopt("p", place))
		c.Answered("adopt", func(t *testing.T, dir string) {
			d, err := Open(dir + "/drv")
			require.NoError(t, err)
			require.True(t, d.Has("p"))
			st, err := os.Stat(d.Layer("p"))
			require.NoError(t, err)
			require.Equal(t, os.FileMode(0o751), st.Mode().Perm())
		})
	}
	for _, fs := range drivertest.FileSystems() {
		t.Run(fs.Name, func(t *testing.T) { drivertest.Durable(t, fs, open, adopt) })
	}
}
