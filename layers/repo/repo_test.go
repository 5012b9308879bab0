package repo

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/layers/blob"
	"github.com/coble-os/coble/layers/catalog"
	"github.com/coble-os/coble/layers/driver"
	"github.com/coble-os/coble/layers/driver/drivertest"
	"github.com/coble-os/coble/layers/graph"
	"github.com/coble-os/coble/layers/image"
)

func (m made) id(t testing.TB) digest.Digest { return digest.FromBytes(m.config(t)) }

func loadMade(t testing.TB, r *Repo, m made) digest.Digest {
	t.Helper()
	_, err := r.Load(ctx, bytes.NewReader(tarOf(t, docker(t, blob.Plain, m)...)), nil)
	require.NoError(t, err)
	return m.id(t)
}

func TestGet(t *testing.T) {
	r := newRepo(t)
	id := loadMade(t, r, simple(t, "a", "busybox:latest", "deadbeef:1"))
	hex := id.Encoded()
	for _, name := range []string{"busybox", "busybox:latest", "docker.io/library/busybox", "deadbeef:1", id.String(), hex, hex[:12], hex[:4], "sha256:" + hex[:6]} {
		img, err := r.Get(name)
		require.NoError(t, err, name)
		require.Equal(t, id, img.ID)
		require.Equal(t, []string{"busybox:latest", "deadbeef:1"}, img.RepoTags)
		require.Equal(t, []string{"sh"}, img.Config.Cmd)
	}
	for name, msg := range map[string]string{
		"x": "No such image: x:latest", "busybox:2": "No such image: busybox:2", "Bad Name": "No such image: Bad Name", "": "No such image: ",
		hex[:3]: "No such image: " + hex[:3] + ":latest", "sha256:0000": "No such image: sha256:0000",
		"busybox@" + id.String(): "No such image: busybox@" + id.String(),
	} {
		_, err := r.Get(name)
		require.ErrorIs(t, err, image.ErrNotFound, name)
		require.EqualError(t, err, msg)
	}
}

func TestAmbiguousPrefix(t *testing.T) {
	r := newRepo(t)
	// Two configurations whose ids begin alike, found by trying.
	seen := map[string]int{}
	for i := 0; ; i++ {
		m := simple(t, fmt.Sprint(i))
		m.layers = m.layers[:1]
		p := m.id(t).Encoded()[:4]
		j, again := seen[p]
		seen[p] = i
		if !again {
			continue
		}
		for _, n := range []int{i, j} {
			m := simple(t, fmt.Sprint(n))
			m.layers = m.layers[:1]
			loadMade(t, r, m)
		}
		_, err := r.Get(p)
		require.ErrorIs(t, err, catalog.ErrAmbiguous)
		return
	}
}

func TestTag(t *testing.T) {
	r := newRepo(t)
	a, b := loadMade(t, r, simple(t, "a", "a:1")), loadMade(t, r, simple(t, "b", "b:1"))
	require.NoError(t, r.Tag("a:1", "other"))
	require.NoError(t, r.Tag(b.String(), "other")) // moves
	img, err := r.Get("other")
	require.NoError(t, err)
	require.Equal(t, b, img.ID)
	require.Equal(t, []string{"b:1", "other:latest"}, img.RepoTags)
	img, err = r.Get(a.String())
	require.NoError(t, err)
	require.Equal(t, []string{"a:1"}, img.RepoTags)
	require.ErrorIs(t, r.Tag("none", "x"), image.ErrNotFound)
	require.ErrorIs(t, r.Tag("a:1", "Bad"), image.ErrInvalid)
	require.ErrorIs(t, r.Tag("a:1", "x@"+a.String()), image.ErrInvalid)

	// A load takes a name from who had it, who then has none.
	loadMade(t, r, simple(t, "c", "b:1"))
	img, err = r.Get(b.String())
	require.NoError(t, err)
	require.Equal(t, []string{"other:latest"}, img.RepoTags)
	is, err := r.List()
	require.NoError(t, err)
	require.Len(t, is, 3)
}

func TestRemove(t *testing.T) {
	r := newRepo(t)
	a, b := simple(t, "a", "a:1", "a:2"), simple(t, "b", "b:1")
	aid, bid := loadMade(t, r, a), loadMade(t, r, b)
	achain, bchain := image.ChainIDs([]digest.Digest{digest.FromBytes(a.layers[0]), digest.FromBytes(a.layers[1])}),
		image.ChainIDs([]digest.Digest{digest.FromBytes(b.layers[0]), digest.FromBytes(b.layers[1])})

	_, err := r.Remove("none", true)
	require.ErrorIs(t, err, image.ErrNotFound)
	_, err = r.Remove(aid.String(), false)
	var used *InUseError
	require.ErrorAs(t, err, &used)
	require.ErrorIs(t, err, ErrInUse)
	require.Equal(t, []string{"a:1", "a:2"}, used.Names)

	got, err := r.Remove("a:1", false)
	require.NoError(t, err)
	require.Equal(t, []Removed{{Untagged: "a:1"}}, got)
	got, err = r.Remove(aid.String(), false)
	require.NoError(t, err)
	require.Equal(t, []Removed{{Untagged: "a:2"}, {Deleted: aid.String()}, {Deleted: achain[1].String()}}, got, "b needs the lower layer")
	require.Equal(t, []string{"bin/", "bin/sh:shell", "label:b"}, shown(t, r, bid))
	got, err = r.Remove("b:1", false)
	require.NoError(t, err)
	require.Equal(t, []Removed{{Untagged: "b:1"}, {Deleted: bid.String()}, {Deleted: bchain[1].String()}, {Deleted: bchain[0].String()}}, got)
	empty(t, r)
}

func TestRemoveInUse(t *testing.T) {
	r := newRepo(t)
	id := loadMade(t, r, simple(t, "a", "a:1", "a:2"))
	require.NoError(t, r.CreateLayer("c1", id, 0))
	require.ErrorIs(t, r.CreateLayer("c1", id, 0), ErrExists)
	require.ErrorIs(t, r.CreateLayer("c2", digest.FromString("none"), 0), image.ErrNotFound)
	_, err := r.Remove("a:2", false) // not the last name
	require.NoError(t, err)
	_, err = r.Remove("a:1", false)
	var used *InUseError
	require.ErrorAs(t, err, &used)
	require.Equal(t, []string{"c1"}, used.Keys)
	_, err = r.Remove(id.String(), true)
	require.ErrorIs(t, err, ErrInUse)
	got, err := r.Remove("a:1", true)
	require.NoError(t, err)
	require.Equal(t, []Removed{{Untagged: "a:1"}}, got)
	img, err := r.Get(id.Encoded()[:12])
	require.NoError(t, err)
	require.Empty(t, img.RepoTags)
	require.NoError(t, r.RemoveLayer("c1"))
	require.NoError(t, r.RemoveLayer("c1"))
	_, err = r.Remove(id.String(), false)
	require.NoError(t, err)
	empty(t, r)
}

func TestWritableLayers(t *testing.T) {
	w := where{dir: t.TempDir()}
	drivertest.NeedRoot(t)
	r, db := w.open(t)
	id := loadMade(t, r, simple(t, "a", "a:1"))
	for _, k := range []string{"one", "two", "three"} {
		require.NoError(t, r.CreateLayer(k, id, 0))
	}
	ms, err := r.Mounts("one", "/")
	require.NoError(t, err)
	drivertest.InMounts(t, ms, func(root string) {
		_ = os.WriteFile(root+"/new", []byte("12345"), 0o644)
		_ = os.Remove(root + "/label")
	})
	n, err := r.LayerSize("one")
	require.NoError(t, err)
	require.EqualValues(t, 5, n)

	require.NoError(t, db.Close())
	r, _ = w.open(t) // what a container wrote outlives the engine
	cs, err := r.Changes("one")
	require.NoError(t, err)
	require.Equal(t, []Change{{Path: "/label", Kind: driver.Deleted}, {Path: "/new", Kind: driver.Added}}, cs)
	require.NoError(t, r.SweepLayers(func(k string) bool { return k == "two" }))
	_, err = r.Mounts("one", "/")
	require.ErrorIs(t, err, ErrNoLayer)
	_, err = r.Mounts("two", "/")
	require.NoError(t, err)
	_, tops, err := r.drv.List()
	require.NoError(t, err)
	require.Len(t, tops, 1)
}

func TestOpenSweeps(t *testing.T) {
	drivertest.NeedRoot(t)
	w := where{dir: t.TempDir()}
	r, db := w.open(t)
	id := loadMade(t, r, simple(t, "a", "a:1"))
	base := filepath.Join(w.dir, "r")
	for _, p := range []string{"tmp/spool-1", "overlay/d/zz/half", "overlay/c/zy/u", "overlay/t/9/x"} {
		require.NoError(t, os.MkdirAll(filepath.Join(base, p), 0o755))
	}
	require.NoError(t, db.Close())
	r, _ = w.open(t)
	require.Empty(t, drivertest.Tree(filepath.Join(base, "tmp")))
	require.Empty(t, drivertest.Tree(filepath.Join(base, "overlay/t")))
	layers, tops, err := r.drv.List()
	require.NoError(t, err)
	require.Len(t, layers, 2)
	require.Empty(t, tops)
	require.Equal(t, []string{"bin/", "bin/sh:shell", "label:a"}, shown(t, r, id))
	for _, p := range []string{"", "tmp", "overlay"} {
		var st unix.Stat_t
		require.NoError(t, unix.Lstat(filepath.Join(base, p), &st))
		require.Zero(t, st.Mode&0o007, "CVE-2021-41091: others may not walk %q", p)
	}
}

// A layer that is gone is said by name, stops nothing else, and comes back
// with the next load.
func TestDamage(t *testing.T) {
	drivertest.NeedRoot(t)
	w := where{dir: t.TempDir()}
	r, db := w.open(t)
	a, b := simple(t, "a", "a:1"), made{label: "b", tags: []string{"b:1"}, layers: [][]byte{drivertest.Layer(t, drivertest.Entry{Name: "f"})}}
	loadMade(t, r, a)
	loadMade(t, r, b)
	require.NoError(t, os.RemoveAll(filepath.Join(w.dir, "r/overlay/d/1")))
	require.NoError(t, db.Close())

	r, db = w.open(t)
	ps, err := r.Problems()
	require.NoError(t, err)
	require.Len(t, ps, 1)
	require.Equal(t, "a:1", ps[0].Image)
	require.Contains(t, ps[0].What, "load the image again")
	require.ErrorIs(t, r.CreateLayer("c", a.id(t), 0), image.ErrDamaged)
	require.Equal(t, []string{"f:"}, shown(t, r, b.id(t)))
	loadMade(t, r, a)
	ps, err = r.Problems()
	require.NoError(t, err)
	require.Empty(t, ps)
	require.Equal(t, []string{"bin/", "bin/sh:shell", "label:a"}, shown(t, r, a.id(t)))
	require.NoError(t, db.Close())
	r, _ = w.open(t)
	require.Equal(t, []string{"bin/", "bin/sh:shell", "label:a"}, shown(t, r, a.id(t)))
}

func TestDriverIsKept(t *testing.T) {
	drivertest.NeedRoot(t)
	w := where{dir: t.TempDir(), driver: "vfs"}
	r, db := w.open(t)
	m := simple(t, "a", "a:1")
	loadMade(t, r, m)
	require.NoError(t, db.Close())
	w.driver = ""
	r, db = w.open(t)
	name, why := r.Driver()
	require.Equal(t, "vfs: has the layers that are here", name+": "+why)
	require.NoError(t, db.Close())

	// Another one asked for: the images are damaged until loaded again.
	w.driver = "overlay"
	r, db = w.open(t)
	ps, err := r.Problems()
	require.NoError(t, err)
	require.Len(t, ps, 1)
	loadMade(t, r, m)
	require.Equal(t, []string{"bin/", "bin/sh:shell", "label:a"}, shown(t, r, m.id(t)))
	_, err = r.Remove("a:1", false)
	require.NoError(t, err)
	empty(t, r)

	for name, msg := range map[string]string{"aufs": "no stock kernel", "zfs": "there is overlay, btrfs, devmapper, vfs"} {
		_, err := Open(Options{Root: t.TempDir(), DB: db, Driver: name})
		require.ErrorContains(t, err, msg)
	}
}

func TestFallsBackToVFS(t *testing.T) {
	drivertest.NeedRoot(t)
	dir := filepath.Join(t.TempDir(), "with:colon")
	require.NoError(t, os.Mkdir(dir, 0o700))
	r, _ := where{dir: dir}.open(t)
	name, why := r.Driver()
	require.Equal(t, "vfs", name)
	require.Contains(t, why, "overlay options can't name the folder")
	require.Contains(t, why, "another file system")
}

// btrfs comes after overlay and before vfs.
func TestFallsBackToBtrfs(t *testing.T) {
	disk := drivertest.Btrfs(t, 256)
	for sub, want := range map[string]string{"plain": "overlay", "with:colon": "btrfs"} {
		dir := filepath.Join(disk, sub)
		require.NoError(t, os.Mkdir(dir, 0o700))
		m := simple(t, "a", "a:1")
		r, _ := where{dir: dir}.open(t)
		name, why := r.Driver()
		require.Equal(t, want, name, why)
		require.Equal(t, "btrfs", r.Backing())
		loadMade(t, r, m)
		require.Equal(t, []string{"bin/", "bin/sh:shell", "label:a"}, shown(t, r, m.id(t)))
	}
}

// ENOSPC in the middle leaves nothing, says so, and all works afterwards.
func TestFullDisk(t *testing.T) {
	drivertest.NeedRoot(t)
	big := made{label: "big", tags: []string{"big:1"}, layers: [][]byte{
		drivertest.Layer(t, drivertest.Entry{Name: "f", Body: "small"}),
		manyFiles(t, 600, 10<<10),
	}}
	single := big
	single.layers = [][]byte{big.layers[0], manyFiles(t, 1, 6<<20)}
	small := simple(t, "small", "small:1")
	for _, drv := range []string{"overlay", "vfs"} {
		for name, c := range map[string]blob.Compression{"known before": blob.Plain, "many files": blob.Zstd, "one file": blob.Gzip} {
			big := big
			if name == "one file" {
				big = single
			}
			t.Run(drv+" "+name, func(t *testing.T) {
				path := write(t, tarOf(t, docker(t, c, big)...))
				dbDir := t.TempDir()
				tmpfs := driver.Mount{Type: "tmpfs", Source: "tmpfs", Data: "size=4m"}
				var errs []error
				var layers, left []string
				drivertest.InMounts(t, []driver.Mount{tmpfs}, func(root string) {
					r, db, err := openAt(dbDir, root, drv)
					if err != nil {
						errs = append(errs, err)
						return
					}
					defer db.Close()
					_, err = r.LoadPath(ctx, path, "", nil)
					errs = append(errs, err)
					layers, _, _ = r.drv.List()
					left = drivertest.Tree(filepath.Join(root, drv, "t"))
					_, err = r.Load(ctx, bytes.NewReader(tarOf(t, docker(t, c, small)...)), nil)
					errs = append(errs, err)
				})
				require.Len(t, errs, 2)
				require.ErrorIs(t, errs[0], blob.ErrNoSpace)
				if c != blob.Zstd {
					require.ErrorContains(t, errs[0], "need about")
				} else {
					require.ErrorIs(t, errs[0], unix.ENOSPC)
				}
				require.Empty(t, layers)
				require.Empty(t, left)
				require.NoError(t, errs[1])
			})
		}
	}
}

func manyFiles(t testing.TB, n, size int) []byte {
	t.Helper()
	var es []drivertest.Entry
	body := string(bytes.Repeat([]byte("x"), size))
	for i := range n {
		es = append(es, drivertest.Entry{Name: fmt.Sprintf("d%d/f%d", i%50, i), Body: body})
	}
	return drivertest.Layer(t, es...)
}

// One pull gives a tag and a name by digest: the id alone removes both.
func TestRemoveByIDWithDigest(t *testing.T) {
	d := digest.FromString("manifest")
	for _, c := range []struct {
		names []string
		gone  bool
	}{
		{[]string{"a:1", "a@" + d.String()}, true},
		{[]string{"a@" + d.String()}, true},
		{[]string{"a:1", "a:2", "a@" + d.String()}, false},
		{[]string{"a:1", "b@" + d.String()}, false},
	} {
		r := newRepo(t)
		id := loadMade(t, r, simple(t, "a", "x:1"))
		require.NoError(t, r.update(func(g graph.Graph) error {
			for _, s := range c.names {
				n, err := image.ParseName(s)
				require.NoError(t, err)
				require.NoError(t, catalog.SetName(g, n, catalog.ImagePrefix+id.String()))
			}
			return g.Delete(catalog.NamePrefix + "docker.io/library/x:1")
		}))
		_, err := r.Remove(id.String(), false)
		if !c.gone {
			require.ErrorIs(t, err, ErrInUse)
			_, err = r.Remove(id.String(), true)
		}
		require.NoError(t, err)
		empty(t, r)
	}
}
