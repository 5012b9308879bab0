package repo

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/coble-os/coble/layers/blob"
	"github.com/coble-os/coble/layers/catalog"
	"github.com/coble-os/coble/layers/driver"
	"github.com/coble-os/coble/layers/driver/drivertest"
	"github.com/coble-os/coble/layers/driver/packed"
	"github.com/coble-os/coble/layers/fsck"
	"github.com/coble-os/coble/layers/graph"
	"github.com/coble-os/coble/layers/image"
	"github.com/coble-os/coble/layers/layout"
	"github.com/coble-os/coble/layers/source"
	"github.com/coble-os/coble/layers/unpacked"
)

var simpleShows = []string{"bin/", "bin/sh:shell", "label:a"}

// packedLayout packs simple image a as an OCI layout in a new folder, and gives
// the paths of its layers' files, lowest first.
func packedLayout(t *testing.T, f packed.Format) (dir string, files []string) {
	t.Helper()
	drivertest.NeedRoot(t)
	drivertest.NeedTool(t, map[packed.Format]string{packed.Squashfs: "mksquashfs", packed.Erofs: "mkfs.erofs"}[f])
	from := filepath.Join(t.TempDir(), "a.tar")
	require.NoError(t, os.WriteFile(from, pack(t, blob.Gzip, tarOf(t, docker(t, blob.Plain, simple(t, "a", "a:1"))...)), 0o600))
	dir = filepath.Join(t.TempDir(), "packed")
	names, err := layout.Pack(ctx, from, dir, layout.Options{Format: f})
	require.NoError(t, err)
	require.Equal(t, []string{"a:1"}, names)
	root, err := os.OpenRoot(dir)
	require.NoError(t, err)
	rs, err := source.Recipes(source.Folder{Root: root}, image.Platform{})
	require.NoError(t, err)
	require.Len(t, rs, 1)
	for i, l := range rs[0].Layers {
		require.Equal(t, f, l.Format)
		require.Equal(t, rs[0].Image.RootFS[i], l.Digest)
		files = append(files, filepath.Join(dir, l.Name))
	}
	require.Equal(t, map[string]string{"l": "a"}, rs[0].Image.Config.Labels, "the rest of the configuration stays")
	require.NoDirExists(t, filepath.Join(dir, "tmp"))
	return dir, files
}

// An image whose layers are packed is used from where it lies: nothing is
// unpacked, its files are read once, and it shows what the image shows.
func TestUsedInPlace(t *testing.T) {
	for _, f := range []packed.Format{packed.Squashfs, packed.Erofs} {
		t.Run(string(f), func(t *testing.T) {
			dir, files := packedLayout(t, f)
			w := where{dir: t.TempDir(), driver: "overlay"}
			r, db := w.open(t)
			l, err := r.LoadPath(ctx, dir, "", nil)
			require.NoError(t, err)
			require.Equal(t, 2, l[0].Unpacked)
			require.Equal(t, simpleShows, shown(t, r, l[0].ID))
			require.Equal(t, files, places(t, r))
			layers, _, err := r.drv.List()
			require.NoError(t, err)
			for _, id := range layers {
				require.Empty(t, drivertest.Tree(filepath.Join(w.dir, "r", "overlay", "d", id)), "there is no second copy")
			}
			require.NoError(t, db.Close())

			// The next boot does not read them: other bytes of the same size and time are not noticed.
			for _, p := range files {
				st, err := os.Stat(p)
				require.NoError(t, err)
				require.NoError(t, os.WriteFile(p, make([]byte, st.Size()), 0o600))
				require.NoError(t, os.Chtimes(p, time.Time{}, st.ModTime()))
			}
			r, _ = w.open(t)
			ps, err := r.Problems()
			require.NoError(t, err)
			require.Empty(t, ps)
			again, err := r.LoadPath(ctx, dir, "", nil)
			require.NoError(t, err)
			require.Zero(t, again[0].Unpacked)
			_, err = r.Remove("a:1", false)
			require.NoError(t, err)
			empty(t, r)
			require.FileExists(t, files[0], "the source stays its owner's")
		})
	}
}

// places are the files that the store's layers lie in, lowest first.
func places(t *testing.T, r *Repo) (out []string) {
	require.NoError(t, r.view(func(g graph.Graph) error {
		images := g.Names(catalog.ImagePrefix)
		require.Len(t, images, 1)
		nodes, err := catalog.StackOf(g, images[0])
		for _, n := range nodes {
			var l catalog.Layer
			require.NoError(t, catalog.Load(g, n, &l))
			out = append([]string{l.Place}, out...)
		}
		return err
	}))
	return out
}

// A damaged file is refused by name when it is loaded, and leaves nothing.
func TestInPlaceDamaged(t *testing.T) {
	dir, files := packedLayout(t, packed.Squashfs)
	raw, err := os.ReadFile(files[1])
	require.NoError(t, err)
	raw[len(raw)/2] ^= 1
	require.NoError(t, os.WriteFile(files[1], raw, 0o600))
	r, _ := where{dir: t.TempDir(), driver: "overlay"}.open(t)
	_, err = r.LoadPath(ctx, dir, "", nil)
	require.ErrorIs(t, err, blob.ErrDigest)
	require.ErrorContains(t, err, files[1])
	empty(t, r)
}

// A file that is missing when the engine starts is a problem of its image
// that names it. One that lies elsewhere now is found by loading again.
func TestInPlaceGone(t *testing.T) {
	dir, files := packedLayout(t, packed.Squashfs)
	w := where{dir: t.TempDir(), driver: "overlay"}
	r, db := w.open(t)
	l, err := r.LoadPath(ctx, dir, "", nil)
	require.NoError(t, err)
	require.NoError(t, r.CreateLayer("c", l[0].ID, 0))
	require.NoError(t, db.Close())
	moved := filepath.Join(t.TempDir(), "moved")
	require.NoError(t, os.Rename(dir, moved))

	r, _ = w.open(t)
	ps, err := r.Problems()
	require.NoError(t, err)
	require.Len(t, ps, 1)
	require.Contains(t, ps[0].What, filepath.Dir(files[0]))
	_, err = r.Mounts("c", "/")
	require.ErrorContains(t, err, filepath.Dir(files[0]))
	require.ErrorIs(t, r.CreateLayer("d", l[0].ID, 0), image.ErrDamaged)

	again, err := r.LoadPath(ctx, moved, "", nil)
	require.NoError(t, err)
	require.Equal(t, 2, again[0].Unpacked)
	ps, err = r.Problems()
	require.NoError(t, err)
	require.Empty(t, ps)
	ms, err := r.Mounts("c", "/")
	require.NoError(t, err)
	require.Len(t, ms, 3)
	var got []string
	drivertest.InMounts(t, ms, func(root string) { got = drivertest.Tree(root) })
	require.Equal(t, simpleShows, got)
	layers, _, err := r.drv.List()
	require.NoError(t, err)
	require.Len(t, layers, 2)
}

// Packed layers come from the machine's owner alone, in a folder, for
// overlay, and under the digest that was checked.
func TestInPlaceRefused(t *testing.T) {
	dir, files := packedLayout(t, packed.Squashfs)
	r, _ := where{dir: t.TempDir(), driver: "overlay"}.open(t)
	var fs []file
	require.NoError(t, filepath.WalkDir(dir, func(p string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			body, rerr := os.ReadFile(p)
			rel, _ := filepath.Rel(dir, p)
			fs, err = append(fs, file{name: rel, body: body}), rerr
		}
		return err
	}))
	archive := filepath.Join(t.TempDir(), "layout.tar")
	require.NoError(t, os.WriteFile(archive, tarOf(t, fs...), 0o600))
	_, err := r.LoadPath(ctx, archive, "", nil)
	require.ErrorIs(t, err, image.ErrInvalid)
	require.ErrorContains(t, err, "OCI layout in a folder")
	empty(t, r)

	v, _ := where{dir: t.TempDir(), driver: "vfs"}.open(t)
	_, err = v.LoadPath(ctx, dir, "", nil)
	require.ErrorContains(t, err, "driver vfs can't: use overlay")
	empty(t, v)

	// A file under the diff id of another layer would be taken for that layer for ever.
	body, err := os.ReadFile(files[0])
	require.NoError(t, err)
	_, err = source.NewRecipe(simple(t, "a").config(t), []source.Layer{
		{Digest: digest.FromBytes(body), Format: packed.Squashfs}, {Digest: digest.FromString("x")},
	})
	require.ErrorIs(t, err, image.ErrInvalid)
	require.ErrorContains(t, err, "diff id")
}

// The same image gives the same squashfs files, layers that are there twice
// are one, and what can't be packed is said.
func TestPack(t *testing.T) {
	drivertest.NeedRoot(t)
	drivertest.NeedTool(t, "mksquashfs")
	m := simple(t, "a", "a:1")
	m.layers = append(m.layers, m.layers[0])
	m.layers[1] = drivertest.Layer(t, drivertest.Entry{Name: ".wh.old"}, drivertest.Entry{Name: "label", Body: "a"}, drivertest.Entry{Name: "im/plicit", Body: "x"})
	from := filepath.Join(t.TempDir(), "a.tar")
	require.NoError(t, os.WriteFile(from, tarOf(t, docker(t, blob.Zstd, m)...), 0o600))
	var index [2][]byte
	for i := range index {
		dir := filepath.Join(t.TempDir(), "out")
		_, err := layout.Pack(ctx, from, dir, layout.Options{Format: packed.Squashfs, Compression: "xz"})
		require.NoError(t, err)
		index[i], err = os.ReadFile(filepath.Join(dir, "index.json"))
		require.NoError(t, err)
		blobs, err := os.ReadDir(filepath.Join(dir, "blobs/sha256"))
		require.NoError(t, err)
		require.Len(t, blobs, 4, "two layers, a configuration and a manifest")
		_, err = layout.Pack(ctx, dir, filepath.Join(t.TempDir(), "again"), layout.Options{Format: packed.Squashfs})
		require.ErrorContains(t, err, "squashfs already")

		r, _ := where{dir: t.TempDir(), driver: "overlay"}.open(t)
		l, err := r.LoadPath(ctx, dir, "", nil)
		require.NoError(t, err)
		require.Equal(t, []string{"bin/", "bin/sh:shell", "im/", "im/plicit:x", "label:a", "old:old"}, shown(t, r, l[0].ID))
		time.Sleep(1100 * time.Millisecond) // squashfs counts in seconds
	}
	require.Equal(t, index[0], index[1])

	dir := filepath.Join(t.TempDir(), "out")
	_, err := layout.Pack(ctx, from, dir, layout.Options{Format: packed.Squashfs, Compression: "none-such"})
	require.ErrorContains(t, err, "mksquashfs")
	require.NoDirExists(t, dir)
	_, err = layout.Pack(ctx, from, t.TempDir(), layout.Options{Format: packed.Squashfs})
	require.ErrorIs(t, err, os.ErrExist)
	t.Setenv("PATH", "/nowhere")
	_, err = layout.Pack(ctx, from, dir, layout.Options{Format: packed.Erofs})
	require.ErrorContains(t, err, "install erofs-utils")
	require.Equal(t, "application/vnd.coble.layer.v1.erofs", packed.Erofs.Media())
	require.Equal(t, packed.Format(""), packed.ByMedia(ocispec.MediaTypeImageLayerGzip))
}

// fsck reads the files, and names one that is damaged though it looks as it
// did. It does not write them, and there is no archive of them to save.
func TestInPlaceChecked(t *testing.T) {
	dir, files := packedLayout(t, packed.Squashfs)
	r, _ := where{dir: t.TempDir(), driver: "overlay"}.open(t)
	_, err := r.LoadPath(ctx, dir, "", nil)
	require.NoError(t, err)
	found, err := r.Check(ctx, fsck.Options{})
	require.NoError(t, err)
	require.Empty(t, found)

	s, err := r.Save([]string{"a:1"}, image.Platform{})
	require.NoError(t, err)
	err = s.Write(ctx, io.Discard)
	require.ErrorIs(t, err, unpacked.ErrInPlace)
	require.ErrorContains(t, err, files[0])
	require.NoError(t, s.Close())

	st, err := os.Stat(files[1])
	require.NoError(t, err)
	raw, err := os.ReadFile(files[1])
	require.NoError(t, err)
	good := slices.Clone(raw)
	raw[len(raw)/2] ^= 1
	put := func(raw []byte) {
		require.NoError(t, os.WriteFile(files[1], raw, 0o600))
		require.NoError(t, os.Chtimes(files[1], time.Time{}, st.ModTime()))
	}
	put(raw)
	origin, end, err := r.OpenOrigin(ctx, dir)
	require.NoError(t, err)
	defer end.Close()
	for _, o := range []fsck.Options{{}, {Image: "a:1"}, {Origin: origin}} {
		found, err = r.Check(ctx, o)
		require.NoError(t, err)
		require.NotEmpty(t, found)
		require.Equal(t, []string{"a:1"}, found[0].Images)
		require.Contains(t, found[0].What, files[1])
		require.False(t, found[0].Repaired)
	}
	found, err = r.Check(ctx, fsck.Options{Quick: true})
	require.NoError(t, err)
	require.Empty(t, found)
	put(good)
	found, err = r.Check(ctx, fsck.Options{})
	require.NoError(t, err)
	require.Empty(t, found)
	require.NoError(t, os.Remove(files[0]))
	found, err = r.Check(ctx, fsck.Options{Quick: true})
	require.NoError(t, err)
	require.Len(t, found, 1)
	require.Contains(t, found[0].What, files[0])
}

// What a container changes over a packed image becomes an image, whose own
// layer is unpacked as any other.
func TestCommitOverInPlace(t *testing.T) {
	dir, _ := packedLayout(t, packed.Squashfs)
	r, _ := where{dir: t.TempDir(), driver: "overlay"}.open(t)
	l, err := r.LoadPath(ctx, dir, "", nil)
	require.NoError(t, err)
	require.NoError(t, r.CreateLayer("c", l[0].ID, 0))
	ms, err := r.Mounts("c", "/")
	require.NoError(t, err)
	drivertest.InMounts(t, ms, func(root string) {
		_ = os.Remove(root + "/label")
		_ = os.WriteFile(root+"/new", []byte("n"), 0o644)
	})
	cs, err := r.Changes("c")
	require.NoError(t, err)
	require.Equal(t, []Change{{Path: "/label", Kind: driver.Deleted}, {Path: "/new", Kind: driver.Added}}, cs)
	id, err := r.Commit(ctx, "c", NewImage{Config: func(diffs []digest.Digest) ([]byte, error) {
		require.Len(t, diffs, 3)
		return json.Marshal(map[string]any{"architecture": "amd64", "os": "linux", "rootfs": map[string]any{"type": "layers", "diff_ids": diffs}})
	}, Name: "made:1"})
	require.NoError(t, err)
	require.Equal(t, []string{"bin/", "bin/sh:shell", "new:n"}, shown(t, r, id))
}
