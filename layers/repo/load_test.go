package repo

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/coble-os/coble/layers/archive"
	"github.com/coble-os/coble/layers/blob"
	"github.com/coble-os/coble/layers/catalog"
	"github.com/coble-os/coble/layers/driver/drivertest"
	"github.com/coble-os/coble/layers/graph"
	"github.com/coble-os/coble/layers/image"
	"github.com/coble-os/coble/layers/source"
)

var ctx = context.Background()

func TestLoadEveryForm(t *testing.T) {
	drivertest.NeedRoot(t)
	m := simple(t, "x", "web:1", "reg.example:5000/a/b:2")
	one := m
	one.tags = []string{"web:1"}
	for _, drv := range []string{"overlay", "passing", "vfs"} {
		for _, c := range []blob.Compression{blob.Plain, blob.Gzip, blob.Zstd} {
			forms := map[string]struct {
				raw  []byte
				dir  string
				tags []string
			}{
				"docker":       {raw: tarOf(t, docker(t, c, m)...), tags: m.tags},
				"docker gz":    {raw: pack(t, blob.Gzip, tarOf(t, docker(t, c, m)...)), tags: m.tags},
				"docker zstd":  {raw: pack(t, blob.Zstd, tarOf(t, docker(t, c, m)...)), tags: m.tags},
				"oci tar":      {raw: tarOf(t, oci(t, c, "web:1", m)...), tags: one.tags},
				"oci folder":   {dir: folder(t, oci(t, c, "web:1", m)), tags: one.tags},
				"oci bare tag": {dir: folder(t, oci(t, c, "latest", m))},
			}
			for name, f := range forms {
				t.Run(fmt.Sprint(drv, " ", c, " ", name), func(t *testing.T) {
					r := drivenBy(t, drv)
					var got []Loaded
					var err error
					if f.dir != "" {
						got, err = r.LoadPath(ctx, f.dir, "", nil)
					} else {
						got, err = r.Load(ctx, bytes.NewReader(f.raw), nil)
					}
					require.NoError(t, err)
					id := digest.FromBytes(m.config(t))
					require.Len(t, got, max(1, len(f.tags)))
					for i, l := range got {
						require.Equal(t, id, l.ID)
						require.Equal(t, 2, l.Unpacked)
						if len(f.tags) > 0 {
							require.Equal(t, f.tags[i], l.Ref)
						}
					}
					img, err := r.Get(id.String())
					require.NoError(t, err)
					require.ElementsMatch(t, f.tags, img.RepoTags)
					require.EqualValues(t, len("shell")+len("old")+len("x"), img.Size)
					require.Equal(t, []string{"bin/", "bin/sh:shell", "label:x"}, shown(t, r, id))
					require.Empty(t, drivertest.Tree(r.temp()))
				})
			}
		}
	}
}

func TestLoadPathNamesAndSkips(t *testing.T) {
	r := newRepo(t)
	m := simple(t, "x", "inside:1")
	raw := tarOf(t, docker(t, blob.Plain, m)...)
	for _, p := range []string{write(t, raw), write(t, pack(t, blob.Gzip, raw)), folder(t, oci(t, blob.Zstd, "q:1", m))} {
		_, err := r.LoadPath(ctx, p, "web", nil)
		require.NoError(t, err)
		img, err := r.Get("web")
		require.NoError(t, err)
		require.Equal(t, []string{"web:latest"}, img.RepoTags, "the given name replaces what the archive says")

		before := stateOf(t, r)
		var seen []Status
		got, err := r.LoadPath(ctx, p, "web", func(p Progress) { seen = append(seen, p.Status) })
		require.NoError(t, err)
		require.Equal(t, []Loaded{{ID: img.ID, Ref: "web:latest"}}, got)
		require.Equal(t, []Status{Present, Present}, seen)
		require.Equal(t, before, stateOf(t, r), "nothing may be written the second time")
	}
}

// stateOf is everything that a write would change: the store's transaction
// number, and inode change times of all folders.
func stateOf(t *testing.T, r *Repo) string {
	t.Helper()
	tx, err := r.o.DB.Begin(false)
	require.NoError(t, err)
	defer tx.Rollback()
	out := fmt.Sprint(tx.ID())
	for _, p := range []string{"", "tmp", "overlay", "overlay/d", "overlay/t", "overlay/c"} {
		st, err := os.Stat(filepath.Join(r.o.Root, p))
		require.NoError(t, err)
		out += fmt.Sprint(" ", st.ModTime().UnixNano())
	}
	return out
}

func TestLoadSeveral(t *testing.T) {
	r := newRepo(t)
	a, b := simple(t, "a", "a:1"), simple(t, "b")
	raw := tarOf(t, docker(t, blob.Plain, a, b)...)
	got, err := r.Load(ctx, bytes.NewReader(raw), nil)
	require.NoError(t, err)
	require.Equal(t, []Loaded{{digest.FromBytes(a.config(t)), "a:1", 2}, {digest.FromBytes(b.config(t)), "", 1}}, got)
	_, err = r.LoadPath(ctx, write(t, raw), "name", nil)
	require.ErrorIs(t, err, image.ErrInvalid)
	require.ErrorContains(t, err, "2 images")
}

// Old docker save wrote a layer once and linked to it.
func TestLinkedLayers(t *testing.T) {
	r := newRepo(t)
	m := simple(t, "x", "x:1")
	fs := docker(t, blob.Plain, m)
	fs = append(fs, file{name: "real", body: fs[0].body})
	fs[0] = file{name: fs[0].name, link: "../real"}
	_, err := r.Load(ctx, bytes.NewReader(tarOf(t, fs...)), nil)
	require.NoError(t, err)
	fs[0].link = "layer.tar" // itself
	r = newRepo(t)
	_, err = r.Load(ctx, bytes.NewReader(tarOf(t, fs...)), nil)
	require.ErrorIs(t, err, source.ErrMember)
	empty(t, r)
}

func change(fs []file, name string, fn func([]byte) []byte) []file {
	out := append([]file(nil), fs...)
	for i, f := range out {
		if strings.HasSuffix(f.name, name) {
			out[i].body = fn(bytes.Clone(f.body))
		}
	}
	return out
}

func drop(fs []file, name string) (out []file) {
	for _, f := range fs {
		if !strings.HasSuffix(f.name, name) {
			out = append(out, f)
		}
	}
	return out
}

// Every bad archive gives an error, and leaves nothing at all.
func TestBadArchives(t *testing.T) {
	drivertest.NeedRoot(t)
	m := simple(t, "x", "x:1")
	d, o := docker(t, blob.Plain, m), oci(t, blob.Gzip, "x:1", m)
	layerBlob := image.BlobPath(digest.FromBytes(pack(t, blob.Gzip, m.layers[1])))
	flip := func(b []byte) []byte { b[len(b)/2] ^= 1; return b }
	evil := m
	evil.layers = append(evil.layers, drivertest.Layer(t, drivertest.Entry{Name: "../../../evil", Body: "x"}))
	raw := tarOf(t, d...)
	cases := map[string]struct {
		raw  []byte
		want error
	}{
		"no layer":                         {tarOf(t, drop(d, "x-1/layer.tar")...), source.ErrMember},
		"no configuration":                 {tarOf(t, drop(d, ".json")...), image.ErrInvalid},
		"no manifest":                      {tarOf(t, drop(d, "manifest.json")...), image.ErrInvalid},
		"changed layer":                    {tarOf(t, change(d, "x-1/layer.tar", flip)...), nil},
		"changed content":                  {tarOf(t, change(d, "x-1/layer.tar", func(b []byte) []byte { return bytes.Replace(b, []byte("x\x00"), []byte("y\x00"), 1) })...), nil},
		"changed configuration":            {tarOf(t, change(d, d[2].name, func(b []byte) []byte { return bytes.Replace(b, []byte("sh"), []byte("hs"), 1) })...), blob.ErrDigest},
		"longer layer":                     {tarOf(t, change(d, "x-0/layer.tar", func(b []byte) []byte { return append(b, 0) })...), blob.ErrDigest},
		"empty layer":                      {tarOf(t, change(d, "x-0/layer.tar", func([]byte) []byte { return nil })...), nil},
		"empty manifest":                   {tarOf(t, change(d, "manifest.json", func([]byte) []byte { return []byte("[]") })...), image.ErrInvalid},
		"null manifest":                    {tarOf(t, change(d, "manifest.json", func([]byte) []byte { return []byte("null") })...), image.ErrInvalid},
		"bad name":                         {tarOf(t, change(d, "manifest.json", func(b []byte) []byte { return bytes.Replace(b, []byte("x:1"), []byte("X Y"), 1) })...), image.ErrInvalid},
		"layer outside":                    {tarOf(t, change(d, "manifest.json", func(b []byte) []byte { return bytes.Replace(b, []byte("x-0/layer.tar"), []byte("../../etc/passwd"), 1) })...), source.ErrMember},
		"huge manifest":                    {tarOf(t, change(d, "manifest.json", func([]byte) []byte { return bytes.Repeat([]byte("["), image.MaxJSON+1) })...), blob.ErrTooLarge},
		"cut in a layer":                   {raw[:1500], archive.ErrBroken},
		"cut in the middle":                {raw[:len(raw)/2], nil},
		"empty":                            {nil, archive.ErrBroken},
		"no archive":                       {bytes.Repeat([]byte("hello "), 1000), archive.ErrBroken},
		"cut gzip":                         {pack(t, blob.Gzip, raw)[:300], nil},
		"climbing layer":                   {tarOf(t, docker(t, blob.Plain, evil)...), archive.ErrHostile},
		"oci: changed layer":               {tarOf(t, change(o, layerBlob, flip)...), nil},
		"oci: another blob of the content": {tarOf(t, change(o, layerBlob, func(b []byte) []byte { b[4] ^= 1; return b })...), blob.ErrDigest},
		"oci: cut layer":                   {tarOf(t, change(o, layerBlob, func(b []byte) []byte { return b[:len(b)-9] })...), blob.ErrSize},
		"oci: no layer":                    {tarOf(t, drop(o, layerBlob)...), source.ErrMember},
		"oci: empty index":                 {tarOf(t, change(o, "index.json", func([]byte) []byte { return []byte("{}") })...), image.ErrInvalid},
		"oci: changed manifest":            {tarOf(t, change(o, o[3].name, func(b []byte) []byte { return append(b, ' ') })...), blob.ErrSize},
		"oci: respelled manifest":          {tarOf(t, change(o, o[3].name, flip)...), blob.ErrDigest},
		"old docker":                       {tarOf(t, file{name: "repositories", body: []byte("{}")}), image.ErrInvalid},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			var r *Repo
			var err error
			for _, drv := range []string{"vfs", "overlay", "passing"} {
				r = drivenBy(t, drv)
				_, err = r.Load(ctx, bytes.NewReader(c.raw), nil)
				require.Error(t, err, drv)
				if c.want != nil {
					require.ErrorIs(t, err, c.want, drv)
				}
				empty(t, r)
			}
			_, err = r.LoadPath(ctx, write(t, c.raw), "x", nil)
			require.Error(t, err)
			empty(t, r)
		})
	}
	t.Run("missing file", func(t *testing.T) {
		_, err := newRepo(t).LoadPath(ctx, "/nowhere/at/all.tar", "", nil)
		require.ErrorIs(t, err, os.ErrNotExist)
	})
	t.Run("oci folder with a link outside", func(t *testing.T) {
		dir := folder(t, o)
		outside := write(t, pack(t, blob.Gzip, m.layers[1]))
		require.NoError(t, os.Remove(filepath.Join(dir, layerBlob)))
		require.NoError(t, os.Symlink(outside, filepath.Join(dir, layerBlob)))
		r := newRepo(t)
		_, err := r.LoadPath(ctx, dir, "x", nil)
		require.Error(t, err)
		empty(t, r)
	})
}

func TestIndexesAndPlatforms(t *testing.T) {
	r := newRepo(t)
	want := simple(t, "right")
	fs := oci(t, blob.Gzip, "", want)
	other := oci(t, blob.Gzip, "", simple(t, "wrong"))
	var in, wrong ocispec.Index
	require.NoError(t, json.Unmarshal(fs[4].body, &in))
	require.NoError(t, json.Unmarshal(other[4].body, &wrong))
	in.Manifests[0].Platform = &ocispec.Platform{OS: "linux", Architecture: "amd64"}
	wrong.Manifests[0].Platform = &ocispec.Platform{OS: "linux", Architecture: "s390x"}
	in.Manifests = append(wrong.Manifests, in.Manifests...)
	nested, err := json.Marshal(in)
	require.NoError(t, err)
	d := ocispec.Descriptor{
		MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromBytes(nested), Size: int64(len(nested)),
		Annotations: map[string]string{"io.containerd.image.name": "docker.io/library/multi:3", ocispec.AnnotationRefName: "3"},
	}
	top, err := json.Marshal(ocispec.Index{Manifests: []ocispec.Descriptor{d}})
	require.NoError(t, err)
	fs[4].body = top
	fs = append(fs, file{name: image.BlobPath(d.Digest), body: nested})
	here := r
	if _, ok := image.Choose(in.Manifests, source.Here()); !ok {
		t.Skip("the test's index is for amd64 only")
	}
	got, err := here.LoadPath(ctx, folder(t, fs), "", nil)
	require.NoError(t, err)
	require.Equal(t, []Loaded{{digest.FromBytes(want.config(t)), "multi:3", 2}}, got)
}

// Many loads of the same and of like images at once share the work.
func TestLoadsAtOnce(t *testing.T) {
	for _, drv := range []string{"overlay", "passing", "vfs"} {
		t.Run(drv, func(t *testing.T) { loadsAtOnce(t, drivenBy(t, drv)) })
	}
}

func loadsAtOnce(t *testing.T, r *Repo) {
	raws := [][]byte{tarOf(t, docker(t, blob.Gzip, simple(t, "a", "a:1"))...), tarOf(t, docker(t, blob.Plain, simple(t, "b", "b:1"))...)}
	var wg sync.WaitGroup
	errs := make([]error, 16)
	unpacked := make([]int, 16)
	for i := range errs {
		wg.Go(func() {
			var l []Loaded
			l, errs[i] = r.Load(ctx, bytes.NewReader(raws[i%2]), nil)
			if errs[i] == nil {
				unpacked[i] = l[0].Unpacked
			}
		})
	}
	wg.Wait()
	sum := 0
	for i := range errs {
		require.NoError(t, errs[i])
		sum += unpacked[i]
	}
	require.Equal(t, 3, sum, "one layer that both share, one of each")
	layers, _, err := r.drv.List()
	require.NoError(t, err)
	require.Len(t, layers, 3)
}

// While an image is loading, what it has already got is not collected.
func TestRemoveWhileLoading(t *testing.T) {
	r := newRepo(t)
	a, b := simple(t, "a", "a:1"), simple(t, "b", "b:1")
	loadMade(t, r, a)
	_, err := r.LoadPath(ctx, write(t, tarOf(t, docker(t, blob.Plain, b)...)), "", func(p Progress) {
		if p.Index == 1 && p.Status == Present {
			_, err := r.Remove("a:1", false)
			require.NoError(t, err)
		}
	})
	require.NoError(t, err)
	require.Equal(t, []string{"bin/", "bin/sh:shell", "label:b"}, shown(t, r, b.id(t)))
}

func TestCancelledLoad(t *testing.T) {
	r := newRepo(t)
	c, cancel := context.WithCancel(ctx)
	_, err := r.LoadPath(c, write(t, tarOf(t, docker(t, blob.Plain, simple(t, "a", "a:1"))...)), "", func(Progress) { cancel() })
	require.ErrorIs(t, err, context.Canceled)
	empty(t, r)
}

// A small blob that unpacks to much more than is allowed is refused, whatever
// it is made of, and nothing is left of it.
func TestBombs(t *testing.T) {
	drivertest.NeedRoot(t)
	big := strings.Repeat("\x00", 64<<20)
	for name, e := range map[string]drivertest.Entry{
		"file": {Name: "f", Body: big}, "whiteout": {Name: ".wh.f", Body: big}, "dropped": {Name: ".wh..wh.aufs", Body: big},
	} {
		for _, c := range []blob.Compression{blob.Gzip, blob.Zstd} {
			t.Run(name+" "+string(c), func(t *testing.T) {
				m := made{label: "bomb", tags: []string{"bomb:1"}, layers: [][]byte{drivertest.Layer(t, drivertest.Entry{Name: "a", Body: "a"}, e)}}
				raw := tarOf(t, docker(t, c, m)...)
				require.Less(t, len(raw), 1<<20)
				for _, drv := range []string{"overlay", "passing"} {
					r := drivenBy(t, drv)
					r.disk.Limits.Bytes = 8 << 20
					_, err := r.Load(ctx, bytes.NewReader(raw), nil)
					require.ErrorIs(t, err, archive.ErrLimit)
					empty(t, r)
				}
			})
		}
	}
}

// Layers that have come, of an image that has not when the power goes, go at the next start.
func TestLayersWithoutImage(t *testing.T) {
	drivertest.NeedRoot(t)
	w := where{dir: t.TempDir()}
	r, db := w.open(t)
	id := loadMade(t, r, simple(t, "a"))
	require.NoError(t, r.update(func(g graph.Graph) error { return g.Delete(catalog.ImagePrefix + id.String()) }))
	layers, _, err := r.drv.List()
	require.NoError(t, err)
	require.Len(t, layers, 2)
	require.NoError(t, db.Close())
	r, db = w.open(t)
	defer db.Close()
	layers, _, err = r.drv.List()
	require.NoError(t, err)
	require.Empty(t, layers)
	require.NoError(t, r.view(func(g graph.Graph) error { require.Empty(t, g.Names(catalog.LayerPrefix)); return nil }))
}
