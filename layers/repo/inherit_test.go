package repo

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/layers/driver/drivertest"
	"github.com/coble-os/coble/layers/fsck"
)

// stacked is an image whose upper layers have much from below.
func stacked(t testing.TB) made {
	type e = drivertest.Entry
	return made{label: "stacked", tags: []string{"stacked:1"}, layers: [][]byte{
		drivertest.Layer(t,
			e{Name: "etc/", Mode: 0o755}, e{Name: "etc/passwd", Body: "root"}, e{Name: "etc/old", Body: "x"}, e{Name: "opq/below", Body: "x"}, e{Name: "gone/deep/f", Body: "x"},
			e{Name: "sym", Kind: tar.TypeSymlink, Link: "etc"}, e{Name: "fifo", Kind: tar.TypeFifo}, e{Name: "attr", Body: "a", Attrs: map[string]string{"user.a": "b"}},
			e{Name: "was/inside", Body: "x"}, e{Name: "plain", Body: "x"}, e{Name: "same", Body: "twice"}, e{Name: "also", Kind: tar.TypeLink, Link: "same"}, e{Name: "again/f", Body: "1"}),
		drivertest.Layer(t,
			e{Name: "etc/.wh.old"}, e{Name: "opq/"}, e{Name: "opq/.wh..wh..opq"}, e{Name: "opq/new", Body: "new"}, e{Name: ".wh.gone"},
			e{Name: "was", Body: "a file now"}, e{Name: "plain/"}, e{Name: "plain/f", Body: "x"}, e{Name: "implicit/folder/file", Body: "x"},
			e{Name: ".wh.again"}, e{Name: "again/"}, e{Name: "again/g", Body: "2"}, e{Name: "same", Body: "alone"}),
		drivertest.Layer(t, e{Name: "top", Body: "top"}),
	}}
}

// Drivers whose layers hold what lies below: damage of that is found in each
// layer that has it, and is made good from the layer below, without the
// archive; what the layer brought itself still needs the archive.
func TestInheritedDamage(t *testing.T) {
	drivertest.NeedRoot(t)
	w := where{dir: t.TempDir(), driver: "vfs"}
	r, _ := w.open(t)
	id := loadMade(t, r, stacked(t))
	check := func(o fsck.Options) []fsck.Finding {
		t.Helper()
		found, err := r.Check(t.Context(), o)
		require.NoError(t, err)
		return found
	}
	require.Empty(t, check(fsck.Options{}))
	want := shown(t, r, id)
	top := func() string { // its tree
		layers, _, err := r.drv.List()
		require.NoError(t, err)
		require.Len(t, layers, 3)
		for _, l := range layers {
			if p := filepath.Join(r.o.Root, "vfs/d", l, "r"); exists(p + "/top") {
				return p
			}
		}
		require.Fail(t, "there is no such layer")
		return ""
	}
	for name, c := range map[string]struct {
		path string
		do   func(p string) error
		what string
	}{
		"content":     {"etc/passwd", func(p string) error { return keepTime(p, func() error { return os.WriteFile(p, []byte("evil"), 0) }) }, "its content is not that of the layer below"},
		"zero length": {"opq/new", func(p string) error { return os.Truncate(p, 0) }, "it has 0 bytes, not 3"},
		"gone":        {"was", os.Remove, "it is missing, and the layer below has it"},
		"folder gone": {"implicit", os.RemoveAll, "it is missing, and the layer below has it"},
		"mode":        {"etc", func(p string) error { return os.Chmod(p, 0o700) }, "its mode is 0700, not 0755"},
		"owner":       {"also", func(p string) error { return os.Chown(p, 5, 5) }, "its owner is 5:5, not 0:0"},
		"time":        {"again/g", func(p string) error { return os.Chtimes(p, time.Time{}, time.Unix(5, 0)) }, "its time is 1970-01-01 00:00:05 +0000 UTC, not 2001-09-09 01:46:40 +0000 UTC"},
		"link":        {"sym", func(p string) error { os.Remove(p); return os.Symlink("/etc", p) }, ""},
		"kind":        {"fifo", func(p string) error { os.Remove(p); return os.Mkdir(p, 0o755) }, "it is a folder, not a fifo"},
		"attribute":   {"attr", func(p string) error { return unix.Removexattr(p, "user.a") }, "its attributes are not those of the layer below"},
		"extra":       {"opq/evil", func(p string) error { return os.WriteFile(p, nil, 0o755) }, "neither the layer nor one below it has such a path"},
		"back again":  {"etc/old", func(p string) error { return os.WriteFile(p, []byte("x"), 0o755) }, "neither the layer nor one below it has such a path"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := top()
			require.NoError(t, c.do(filepath.Join(dir, c.path)))
			found := check(fsck.Options{})
			require.Len(t, found, 1, "%+v", found)
			require.Equal(t, c.path, found[0].Path)
			require.Equal(t, []string{"stacked:1"}, found[0].Images)
			if c.what != "" {
				require.Equal(t, c.what, found[0].What)
			}
			found = check(fsck.Options{Origin: nowhere{}})
			require.Len(t, found, 1, "%+v", found)
			require.True(t, found[0].Repaired, "%+v", found)
			require.Empty(t, check(fsck.Options{}))
			require.Equal(t, want, shown(t, r, id))
			require.NotEqual(t, dir, top())
		})
	}
	t.Run("its own", func(t *testing.T) {
		require.NoError(t, os.Truncate(filepath.Join(top(), "top"), 0))
		require.NoError(t, os.Remove(filepath.Join(top(), "was")))
		found := check(fsck.Options{Origin: nowhere{}})
		require.False(t, found[0].Repaired, "%+v", found)
		require.Contains(t, found[len(found)-1].What, "the archive is not here")
	})
}

// nowhere is an origin that has nothing.
type nowhere struct{}

func (nowhere) Layer(context.Context, digest.Digest, []string) (io.ReadCloser, error) {
	return nil, errNowhere
}

var errNowhere = errors.New("the archive is not here")
