package repo

import (
	"archive/tar"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/layers/blob"
	"github.com/coble-os/coble/layers/distribution"
	"github.com/coble-os/coble/layers/driver/drivertest"
	"github.com/coble-os/coble/layers/fsck"
	"github.com/coble-os/coble/layers/image"
	"github.com/coble-os/coble/layers/registry"
	"github.com/coble-os/coble/layers/registry/registrytest"
	"github.com/coble-os/coble/layers/registry/server"
)

// rich is an image with every kind of entry.
func rich(t testing.TB) made {
	type e = drivertest.Entry
	return made{label: "rich", tags: []string{"rich:1"}, layers: [][]byte{
		drivertest.Layer(t, e{Name: "gone", Body: "x"}, e{Name: "opq/"}, e{Name: "opq/below", Body: "x"}),
		drivertest.Layer(t,
			e{Name: "./", Mode: 0o755}, e{Name: "bin/", Mode: 0o750}, e{Name: "bin/sh", Body: "shell", Mode: 0o4755}, e{Name: "bin/ash", Kind: tar.TypeLink, Link: "bin/sh", Mode: 0o4755},
			e{Name: "sym", Kind: tar.TypeSymlink, Link: "bin"}, e{Name: "sym/through", Body: "in bin"}, e{Name: "own", Body: "own", Uid: 7},
			e{Name: "fifo", Kind: tar.TypeFifo}, e{Name: "attr", Body: "a", Attrs: map[string]string{"user.a": "b"}},
			e{Name: ".wh.gone"}, e{Name: "opq/"}, e{Name: "opq/.wh..wh..opq"}, e{Name: "opq/new", Body: "new"},
			e{Name: "twice", Body: "first"}, e{Name: "twice", Body: "second"}, e{Name: "was/"}, e{Name: "was/inside", Body: "x"}, e{Name: "was", Body: "a file now"},
			e{Name: "implicit/folder/file", Body: "x"}, e{Name: "empty"},
		),
	}}
}

// damages are what may happen to the upper layer's folder, with what is to be
// found.
func damages() map[string]struct {
	do   func(dir string) error
	want map[string]string
} {
	type damage = struct {
		do   func(dir string) error
		want map[string]string
	}
	in := func(name string, fn func(p string) error) func(string) error {
		return func(dir string) error { return fn(filepath.Join(dir, name)) }
	}
	return map[string]damage{
		"content":          {in("own", func(p string) error { return keepTime(p, func() error { return os.WriteFile(p, []byte("OWN"), 0) }) }), map[string]string{"own": "its content has changed"}},
		"zero length":      {in("twice", func(p string) error { return os.Truncate(p, 0) }), map[string]string{"twice": "it has 0 bytes, not 6"}},
		"shared content":   {in("bin/ash", func(p string) error { return keepTime(p, func() error { return os.WriteFile(p, []byte("SHELL"), 0) }) }), map[string]string{"bin/sh": "its content has changed"}},
		"file gone":        {in("empty", os.Remove), map[string]string{"empty": "it is missing"}},
		"name gone":        {in("bin/ash", os.Remove), map[string]string{"bin/ash": "it is missing"}},
		"first name gone":  {in("bin/sh", os.Remove), map[string]string{"bin/sh": "it is missing", "bin/ash": "it is not the same file as bin/sh"}},
		"behind a link":    {in("bin/through", os.Remove), map[string]string{"bin/through": "it is missing"}},
		"folder gone":      {in("implicit", os.RemoveAll), map[string]string{"implicit/folder/file": "it is missing: folder implicit/folder: no such file or directory"}},
		"folder's mode":    {in("bin", func(p string) error { return os.Chmod(p, 0o777) }), map[string]string{"bin": "its mode is 0777, not 0750"}},
		"root's mode":      {in(".", func(p string) error { return os.Chmod(p, 0o700) }), map[string]string{".": "its mode is 0700, not 0755"}},
		"set-id bit":       {in("bin/sh", func(p string) error { return os.Chmod(p, 0o755) }), map[string]string{"bin/ash": "its mode is 0755, not 4755"}},
		"owner":            {in("own", func(p string) error { return os.Chown(p, 0, 0) }), map[string]string{"own": "its owner is 0:0, not 7:0"}},
		"time":             {in("own", func(p string) error { return os.Chtimes(p, time.Time{}, time.Unix(5, 0)) }), map[string]string{"own": ""}},
		"link":             {in("sym", func(p string) error { os.Remove(p); return os.Symlink("/etc", p) }), map[string]string{"sym": `it leads to "/etc", not to "bin"`, "sym/through": "", "bin/through": "the layer has no such path"}},
		"kind":             {in("fifo", func(p string) error { os.Remove(p); return os.Mkdir(p, 0o644) }), map[string]string{"fifo": "it is a folder, not a fifo"}},
		"attribute":        {in("attr", func(p string) error { return unix.Removexattr(p, "user.a") }), map[string]string{"attr": "its attribute user.a is not what it came with"}},
		"whiteout gone":    {in("gone", os.Remove), map[string]string{"gone": "the mark that hides it is missing"}},
		"not opaque":       {in("opq", func(p string) error { return unix.Removexattr(p, "trusted.overlay.opaque") }), map[string]string{"opq": "it does not hide what lies below it (no trusted.overlay.opaque)"}},
		"extra file":       {in("bin/evil", func(p string) error { return os.WriteFile(p, []byte("x"), 0o755) }), map[string]string{"bin/evil": "the layer has no such path"}},
		"extra folder":     {in("more/and/more", func(p string) error { return os.MkdirAll(p, 0o755) }), map[string]string{"more": "the layer has no such path"}},
		"hidden by a mark": {in("empty", func(p string) error { os.Remove(p); return unix.Mknod(p, unix.S_IFCHR, 0) }), map[string]string{"empty": "it is a character device, not a file"}},
	}
}

func keepTime(p string, fn func() error) error {
	st, err := os.Stat(p)
	if err != nil {
		return err
	}
	if err := fn(); err != nil {
		return err
	}
	return os.Chtimes(p, time.Time{}, st.ModTime())
}

// TestCheckAndRepair: each kind of damage is found by image and path, nothing
// else is, and repairing brings back that path and touches no other file.
func TestCheckAndRepair(t *testing.T) {
	r := newRepo(t)
	m := rich(t)
	id := loadMade(t, r, m)
	archive := write(t, tarOf(t, docker(t, blob.Gzip, m)...))
	from, c, err := r.OpenOrigin(t.Context(), archive)
	require.NoError(t, err)
	defer c.Close()
	check := func(o fsck.Options) []fsck.Finding {
		t.Helper()
		found, err := r.Check(t.Context(), o)
		require.NoError(t, err)
		return found
	}
	require.Empty(t, check(fsck.Options{}))
	want := shown(t, r, id)
	for name, d := range damages() {
		t.Run(name, func(t *testing.T) {
			dir := upper(t, r)
			require.NoError(t, d.do(dir))
			found := check(fsck.Options{Image: "rich:1"})
			got := map[string]string{}
			for _, f := range found {
				require.Equal(t, []string{"rich:1"}, f.Images)
				require.False(t, f.Repaired)
				got[f.Path] = f.What
			}
			for p, what := range d.want {
				require.Contains(t, got, p)
				if what == "" {
					got[p] = ""
				}
			}
			require.Equal(t, d.want, got)
			require.Empty(t, check(fsck.Options{Quick: true}))

			before := inodes(t, dir)
			for _, f := range check(fsck.Options{Origin: from}) {
				require.True(t, f.Repaired, "%+v", f)
			}
			require.Empty(t, check(fsck.Options{}))
			require.Equal(t, want, shown(t, r, id))
			if name == "behind a link" { // its entry has another name: the whole layer is made again
				require.NotEqual(t, dir, upper(t, r))
				return
			}
			require.Equal(t, dir, upper(t, r), "the layer is where it was")
			for p, ino := range inodes(t, dir) {
				if _, bad := d.want[p]; !bad && before[p] != 0 && p != "bin/sh" && p != "bin/ash" {
					require.Equal(t, before[p], ino, "%s was written again", p)
				}
			}
		})
	}
}

// upper is the folder of the topmost layer of rich.
func upper(t testing.TB, r *Repo) string {
	t.Helper()
	layers, _, err := r.drv.List()
	require.NoError(t, err)
	for _, l := range layers {
		if p := filepath.Join(r.o.Root, "overlay/d", l); exists(p + "/own") {
			return p
		}
	}
	require.Fail(t, "there is no such layer")
	return ""
}

func exists(p string) bool { _, err := os.Lstat(p); return err == nil }

func inodes(t testing.TB, dir string) map[string]uint64 {
	t.Helper()
	out := map[string]uint64{}
	require.NoError(t, filepath.Walk(dir, func(p string, st os.FileInfo, err error) error {
		if err == nil && st.Mode().IsRegular() {
			rel, _ := filepath.Rel(dir, p)
			out[rel] = st.Sys().(*syscall.Stat_t).Ino
		}
		return err
	}))
	return out
}

// TestRepairWhole: layers that are gone, or whose record is, are unpacked
// again, with either driver.
func TestRepairWhole(t *testing.T) {
	drivertest.NeedRoot(t)
	for _, drv := range []string{"overlay", "vfs"} {
		for name, do := range map[string]func(r *Repo, id string) error{
			"folder":            func(r *Repo, id string) error { return r.drv.Remove(id) },
			"record":            func(r *Repo, id string) error { return os.Remove(r.disk.RecordPath(id)) },
			"record's bytes":    func(r *Repo, id string) error { return os.Truncate(r.disk.RecordPath(id), 100) },
			"record of another": func(r *Repo, id string) error { return os.WriteFile(r.disk.RecordPath(id), []byte("rubbish"), 0o600) },
		} {
			t.Run(drv+" "+name, func(t *testing.T) {
				w := where{dir: t.TempDir(), driver: drv}
				r, db := w.open(t)
				m := rich(t)
				id := loadMade(t, r, m)
				want := shown(t, r, id)
				layers, _, err := r.drv.List()
				require.NoError(t, err)
				require.Len(t, layers, 2)
				for _, l := range layers {
					require.NoError(t, do(r, l))
				}
				require.NoError(t, db.Close())
				r, _ = w.open(t)
				found, err := r.Check(t.Context(), fsck.Options{})
				require.NoError(t, err)
				require.Len(t, found, 2, "%v", found)
				require.Empty(t, found[0].Path)

				from, c, err := r.OpenOrigin(t.Context(), folder(t, oci(t, blob.Zstd, "rich:1", m)))
				require.NoError(t, err)
				defer c.Close()
				found, err = r.Check(t.Context(), fsck.Options{Origin: from})
				require.NoError(t, err)
				for _, f := range found {
					require.True(t, f.Repaired, "%+v", f)
				}
				found, err = r.Check(t.Context(), fsck.Options{})
				require.NoError(t, err)
				require.Empty(t, found)
				require.Equal(t, want, shown(t, r, id))
			})
		}
	}
}

// TestRepairFromTheWrongPlace: an origin without the layer, or with a damaged
// one, changes nothing.
func TestRepairFromTheWrongPlace(t *testing.T) {
	r := newRepo(t)
	m := rich(t)
	loadMade(t, r, m)
	p := upper(t, r) + "/own"
	require.NoError(t, os.Truncate(p, 1))
	bad := rich(t)
	bad.layers[1] = slices.Concat(bad.layers[1][:len(bad.layers[1])-1024], make([]byte, 2048))
	fs := docker(t, blob.Plain, m)
	for i := range fs {
		if fs[i].name == "rich-1/layer.tar" {
			fs[i].body = bad.layers[1]
		}
	}
	for want, archive := range map[string]string{
		"has no layer":              write(t, tarOf(t, docker(t, blob.Plain, simple(t, "other"))...)),
		"does not match its digest": write(t, tarOf(t, fs...)),
	} {
		from, c, err := r.OpenOrigin(t.Context(), archive)
		require.NoError(t, err)
		found, err := r.Check(t.Context(), fsck.Options{Origin: from})
		require.NoError(t, err)
		require.Contains(t, fmt.Sprint(found), want)
		require.False(t, found[0].Repaired)
		st, err := os.Stat(p)
		require.NoError(t, err)
		require.EqualValues(t, 1, st.Size())
		require.NoError(t, c.Close())
		require.NoError(t, r.CreateLayer("still", m.id(t), 0), "what is whole of it can be used")
		require.NoError(t, r.RemoveLayer("still"))
	}
	_, _, err := r.OpenOrigin(t.Context(), "/nowhere")
	require.ErrorContains(t, err, "open /nowhere to repair from")
}

// TestCheckStore: an edge that leads to nothing is found.
func TestCheckStore(t *testing.T) {
	r := newRepo(t)
	loadMade(t, r, simple(t, "a", "a:1"))
	require.NoError(t, r.o.DB.Update(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte("layers/out")).Put([]byte("name:x\x00names\x00image:y"), nil)
	}))
	found, err := r.Check(t.Context(), fsck.Options{Quick: true})
	require.NoError(t, err)
	require.Len(t, found, 3)
	require.Equal(t, `graph: edge "names" name:x to image:y: there is no name:x`, found[0].What)
}

// TestRepairFromRegistry: from the registry that an image came from, and from a neighbour that has it by its own means.
func TestRepairFromRegistry(t *testing.T) {
	r := newRepo(t)
	m := rich(t)
	reg := registrytest.New(t, server.Access{}, nil)
	reg.Put(t, "rich", "1", ocispec.MediaTypeImageLayer, m.config(t), m.layers...)
	name := reg.Host() + "/rich:1"
	n, err := image.ParseName(name)
	require.NoError(t, err)
	_, err = r.Distribution().Pull(t.Context(), reg.Open(t, "rich"), distribution.PullOptions{Name: n, Platform: image.Platform{OS: "linux", Architecture: "amd64"}})
	require.NoError(t, err)

	other, _ := where{dir: t.TempDir()}.open(t)
	loadMade(t, other, m)
	require.NoError(t, other.Tag("rich:1", name))
	neighbour := registrytest.New(t, server.Access{}, other.Distribution().Offer())
	open := func(ctx context.Context, at registry.Repository) (*registry.Session, error) {
		return registrytest.Client().Open(ctx, at, registry.Credentials{}, false)
	}
	for _, host := range []string{"", neighbour.Host()} {
		p := upper(t, r) + "/own"
		require.NoError(t, os.Truncate(p, 0))
		found, err := r.Check(t.Context(), fsck.Options{Origin: r.Distribution().Remote(host, open)})
		require.NoError(t, err)
		require.Len(t, found, 1)
		require.Equal(t, []string{name}, found[0].Images)
		require.True(t, found[0].Repaired, "%+v", found)
	}
	require.NoError(t, os.Truncate(upper(t, r)+"/own", 0))
	reg.Spoil("GET /v2/rich/blobs", -1, registrytest.Body("application/octet-stream", []byte("rubbish")))
	found, err := r.Check(t.Context(), fsck.Options{Origin: r.Distribution().Remote("", open)})
	require.NoError(t, err)
	require.False(t, found[0].Repaired)
	require.Contains(t, fmt.Sprint(found), "content does not match its size: 7 bytes")
}
