package repo

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"

	"github.com/coble-os/coble/layers/blob"
	"github.com/coble-os/coble/layers/driver/drivertest"
	"github.com/coble-os/coble/layers/image"
)

func save(t testing.TB, r *Repo, names ...string) []byte {
	t.Helper()
	s, err := r.Save(names, image.Platform{})
	require.NoError(t, err)
	var b bytes.Buffer
	require.NoError(t, s.Write(ctx, &b))
	require.NoError(t, s.Close())
	return b.Bytes()
}

// members reads a tar into memory.
func members(t testing.TB, raw []byte) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	for tr := tar.NewReader(bytes.NewReader(raw)); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return out
		}
		require.NoError(t, err)
		require.NotContains(t, out, h.Name)
		out[h.Name], err = io.ReadAll(tr)
		require.NoError(t, err)
	}
}

// What was loaded goes out with the same layers and configuration, and comes
// back as the same image, whichever of its two tables is read.
func TestSave(t *testing.T) {
	drivertest.NeedRoot(t)
	for _, drv := range []string{"overlay", "vfs"} {
		t.Run(drv, func(t *testing.T) {
			r, _ := where{dir: t.TempDir(), driver: drv}.open(t)
			a, b := simple(t, "a", "a:1", "a:2", "host:5/other/a:x"), simple(t, "b", "b:1")
			b.layers[0] = a.layers[0]
			loadMade(t, r, a)
			loadMade(t, r, b)
			raw := save(t, r, "a:1", "b:1", "a:2", "a:1")
			require.Equal(t, raw, save(t, r, "a:1", "b:1", "a:2", "a:1"), "the same bytes every time")
			ms := members(t, raw)
			for _, m := range []made{a, b} {
				require.Equal(t, m.config(t), ms[image.BlobPath(m.id(t))])
				for _, l := range m.layers {
					require.Equal(t, l, ms[image.BlobPath(digest.FromBytes(l))])
				}
			}
			list, err := image.ParseArchive(ms["manifest.json"])
			require.NoError(t, err)
			require.Len(t, list, 2)
			require.Equal(t, []string{"a:1", "a:2"}, list[0].RepoTags)
			var repos map[string]map[string]string
			require.NoError(t, json.Unmarshal(ms["repositories"], &repos))
			require.Len(t, repos["a"], 2)

			for _, leave := range []string{"index.json", "manifest.json"} {
				var fs []file
				for n, body := range ms {
					if n != leave && n[len(n)-1] != '/' {
						fs = append(fs, file{name: n, body: body})
					}
				}
				other := newRepo(t)
				loaded, err := other.Load(ctx, bytes.NewReader(tarOf(t, fs...)), nil)
				require.NoError(t, err)
				require.Len(t, loaded, 3)
				for _, m := range []made{a, b} {
					img, err := other.Get(m.tags[0])
					require.NoError(t, err)
					require.Equal(t, m.id(t), img.ID)
				}
				_, err = other.Get("host:5/other/a:x")
				require.ErrorIs(t, err, image.ErrNotFound, "a name that was not asked for")
			}
		})
	}
}

func TestSaveNames(t *testing.T) {
	r := newRepo(t)
	m := simple(t, "a", "some/a:1", "some/a:2", "some/ab:1")
	id := loadMade(t, r, m)
	tags := func(name string) []string {
		list, err := image.ParseArchive(members(t, save(t, r, name))["manifest.json"])
		require.NoError(t, err)
		return list[0].RepoTags
	}
	require.Equal(t, []string{"some/a:2"}, tags("some/a:2"))
	require.Equal(t, []string{"some/a:1", "some/a:2"}, tags("some/a"), "a repository without a tag")
	for _, byID := range []string{id.String(), id.Encoded(), id.Encoded()[:12]} {
		require.Nil(t, tags(byID))
		require.Contains(t, string(members(t, save(t, r, byID))["manifest.json"]), `"RepoTags":null`)
		require.NotContains(t, members(t, save(t, r, byID)), "repositories")
	}
	for _, none := range []string{"some/a:3", "some", "none", "sha256:" + id.Encoded()[:3]} {
		_, err := r.Save([]string{"some/a:1", none}, image.Platform{})
		require.ErrorIs(t, err, image.ErrNotFound, none)
	}
	require.Empty(t, r.pins)
}

// A damaged file ends the archive with an error that names it.
func TestSaveDamaged(t *testing.T) {
	r := newRepo(t)
	m := simple(t, "a", "a:1")
	loadMade(t, r, m)
	root, err := r.drv.OpenLayer(nodeOf(t, r, m.chains(t)[0]).Folder)
	require.NoError(t, err)
	defer root.Close()
	require.NoError(t, os.Truncate(filepath.Join(root.Name(), "bin", "sh"), 0))
	s, err := r.Save([]string{"a:1"}, image.Platform{})
	require.NoError(t, err)
	defer s.Close()
	err = s.Write(ctx, io.Discard)
	require.ErrorIs(t, err, image.ErrDamaged)
	require.ErrorContains(t, err, "bin/sh")
	stopped, cancel := context.WithCancel(ctx)
	cancel()
	require.ErrorIs(t, s.Write(stopped, io.Discard), context.Canceled)
}

// skopeo and umoci read what Save writes, and every digest stays.
func TestSaveForForeignTools(t *testing.T) {
	r := newRepo(t)
	m := simple(t, "a", "foreign/a:1")
	m.layers = append(m.layers, drivertest.Layer(t, drivertest.Entry{Name: "z", Body: "z"}, drivertest.Entry{Name: "bin/.wh..wh..opq"}, drivertest.Entry{Name: "bin/sh", Body: "new shell", Mode: 0o4755}))
	loadMade(t, r, m)
	dir := t.TempDir()
	saved := filepath.Join(dir, "saved.tar")
	require.NoError(t, os.WriteFile(saved, save(t, r, "foreign/a:1"), 0o644))

	// Between Docker's form and OCI's, skopeo writes the configuration anew.
	back := func(path string, converted bool) {
		t.Helper()
		other := newRepo(t)
		l, err := other.LoadPath(ctx, path, "", nil)
		require.NoError(t, err)
		img, err := other.Get(l[0].ID.String())
		require.NoError(t, err)
		require.Equal(t, []digest.Digest{digest.FromBytes(m.layers[0]), digest.FromBytes(m.layers[1]), digest.FromBytes(m.layers[2])}, img.RootFS)
		if !converted {
			require.Equal(t, m.id(t), img.ID)
		}
	}
	for from, name := range map[string]string{"docker-archive": saved, "oci-archive": saved + ":1"} {
		for _, kind := range []string{"docker-archive", "oci-archive", "oci"} {
			to := filepath.Join(dir, from+kind)
			tool(t, "skopeo", "--insecure-policy", "copy", "-q", from+":"+name, kind+":"+to+":foreign/a:1")
			back(to, from[0] != kind[0])
		}
	}
	layout := filepath.Join(dir, "layout")
	require.NoError(t, os.Mkdir(layout, 0o755))
	tool(t, "tar", "-x", "-f", saved, "-C", layout)
	bundle := filepath.Join(dir, "bundle")
	tool(t, "umoci", "raw", "unpack", "--image", layout+":1", bundle)
	require.ElementsMatch(t, shown(t, r, m.id(t)), drivertest.Tree(bundle))
	out, err := exec.Command("skopeo", "inspect", "oci:"+layout+":1").Output()
	require.NoError(t, err)
	require.Contains(t, string(out), digest.FromBytes(m.layers[2]).String())
	back(layout, false)
}

func TestLoadXZ(t *testing.T) {
	r := newRepo(t)
	m := simple(t, "a", "a:1")
	c := exec.Command("xz", "-c")
	c.Stdin = bytes.NewReader(tarOf(t, docker(t, blob.Plain, m)...))
	packed, err := c.Output()
	require.NoError(t, err)
	l, err := r.Load(ctx, bytes.NewReader(packed), nil)
	require.NoError(t, err)
	require.Equal(t, m.id(t), l[0].ID)
	l, err = newRepo(t).LoadPath(ctx, write(t, packed), "", nil)
	require.NoError(t, err)
	require.Equal(t, m.id(t), l[0].ID)
}
