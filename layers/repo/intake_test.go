package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"

	"github.com/coble-os/coble/layers/blob"
	"github.com/coble-os/coble/layers/driver"
	"github.com/coble-os/coble/layers/driver/drivertest"
	"github.com/coble-os/coble/layers/image"
	"github.com/coble-os/coble/layers/unpacked"
)

// firstTo puts the members with that suffix first.
func firstTo(fs []file, suffix string) []file {
	var first, rest []file
	for _, f := range fs {
		if strings.HasSuffix(f.name, suffix) {
			first = append(first, f)
		} else {
			rest = append(rest, f)
		}
	}
	return append(first, rest...)
}

// linked has every layer under another name, and a symlink where it was.
func linked(fs []file, linkFirst bool) (out []file) {
	for i, f := range fs {
		if !strings.HasSuffix(f.name, "/layer.tar") {
			out = append(out, f)
			continue
		}
		real := file{name: fmt.Sprint("real", i), body: f.body}
		pair := []file{real, {name: f.name, link: "../" + real.name}}
		if linkFirst {
			slices.Reverse(pair)
		}
		out = append(out, pair...)
	}
	return out
}

// layerNumbers is how many numbers for folders the repository gave out.
func layerNumbers(r *Repo) int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.next
}

// TestStreams: archives of every order and shape, of which nothing stays in memory but JSON, make the images whole, and
// leave nothing else.
func TestStreams(t *testing.T) {
	base := drivertest.Layer(t, drivertest.Entry{Name: "bin/"}, drivertest.Entry{Name: "bin/sh", Body: "shell"})
	other := drivertest.Layer(t, drivertest.Entry{Name: "other", Body: "other"})
	shared := drivertest.Layer(t, drivertest.Entry{Name: "shared", Body: "shared"})
	a := made{label: "a", tags: []string{"a:1"}, layers: [][]byte{base, shared}}
	b := made{label: "b", tags: []string{"b:1"}, layers: [][]byte{base, other}}
	over := made{label: "over", tags: []string{"over:1"}, layers: [][]byte{other, shared}} // over another layer
	twice := made{label: "twice", tags: []string{"twice:1"}, layers: [][]byte{shared, base, shared}}
	stray := file{name: "stray/layer.tar", body: drivertest.Layer(t, drivertest.Entry{Name: "stray", Body: "stray"})}
	hostile := file{name: "hostile.tar", body: drivertest.Layer(t, drivertest.Entry{Name: "../../evil", Body: "x"})}
	notes := file{name: "notes.txt", body: []byte("no layer")}
	broken := file{name: "broken.gz", body: []byte("\x1f\x8b\x08\x00 no more of it")}
	for _, c := range []blob.Compression{blob.Plain, blob.Gzip, blob.Zstd} {
		d := docker(t, c, a)
		for name, tc := range map[string]struct {
			fs       []file
			images   []made
			unpacked int64 // layers, as they came and again
		}{
			"manifest last":      {d, []made{a}, 2},
			"manifest first":     {firstTo(d, "manifest.json"), []made{a}, 2},
			"all JSON first":     {firstTo(firstTo(d, "manifest.json"), ".json"), []made{a}, 2},
			"links behind":       {linked(d, false), []made{a}, 2},
			"links before":       {linked(d, true), []made{a}, 2},
			"links and manifest": {firstTo(firstTo(linked(d, true), "manifest.json"), ".json"), []made{a}, 2},
			"oci last":           {oci(t, c, "a:1", a), []made{a}, 2},
			"oci first":          {firstTo(oci(t, c, "a:1", a), "index.json"), []made{a}, 2},
			"two images":         {docker(t, c, a, b), []made{a, b}, 4}, // base comes twice
			"over another":       {docker(t, c, a, over), []made{a, over}, 4},
			"a layer twice":      {oci(t, c, "twice:1", twice), []made{twice}, 4}, // two came, one again: the blob is written twice
			"strays":             {append([]file{stray, hostile, notes, broken}, d...), []made{a}, 5},
			"strays behind":      {append(slices.Clone(d), stray, hostile, notes, broken), []made{a}, 5},
			"replaced":           {append([]file{{name: d[0].name, body: stray.body}}, d...), []made{a}, 3},
		} {
			t.Run(fmt.Sprint(c, " ", name), func(t *testing.T) {
				r := drivenBy(t, "passing")
				before := layerNumbers(r)
				_, err := r.Load(ctx, bytes.NewReader(tarOf(t, tc.fs...)), nil)
				require.NoError(t, err)
				require.Equal(t, tc.unpacked, layerNumbers(r)-before)
				for _, m := range tc.images {
					img, err := r.Get(m.tags[0])
					require.NoError(t, err)
					require.Equal(t, m.id(t), img.ID)
					for i, chain := range m.chains(t) {
						raw, err := readLayer(r, chain)
						require.NoError(t, err)
						require.True(t, bytes.Equal(m.layers[i], raw))
					}
				}
				agree(t, r)
				require.Empty(t, drivertest.Tree(r.temp()))
				for _, m := range tc.images {
					_, err := r.Remove(m.tags[0], false)
					require.NoError(t, err)
				}
				empty(t, r)
			})
		}
	}
}

// TestStreamOfWhatIsHere: what is here is not unpacked again where that can be known when it comes past: from a manifest
// before it, from a digest in its name. Where not, it is taken away again before anything is synced.
func TestStreamOfWhatIsHere(t *testing.T) {
	a := simple(t, "a", "a:1")
	over := made{label: "over", tags: []string{"over:1"}, layers: [][]byte{a.layers[1], a.layers[0]}}
	rename := func(fs []file) []file {
		hexed := slices.Clone(fs)
		for i, l := range a.layers {
			from, to := hexed[i].name, digest.FromBytes(l).Encoded()+"/layer.tar"
			hexed[i].name = to
			hexed = change(hexed, "manifest.json", func(b []byte) []byte { return bytes.ReplaceAll(b, []byte(from), []byte(to)) })
		}
		return hexed
	}
	d := docker(t, blob.Gzip, a)
	for name, tc := range map[string]struct {
		fs       []file
		unpacked int64
	}{
		"manifest first": {firstTo(firstTo(d, "manifest.json"), ".json"), 0},
		"index first":    {firstTo(firstTo(oci(t, blob.Gzip, "a:1", a), "index.json"), "nothing"), 2}, // its blobs come before they are described
		"named":          {rename(docker(t, blob.Plain, a)), 0},
		"oci named":      {oci(t, blob.Plain, "a:1", a), 0},
		"unknown":        {d, 2},
	} {
		t.Run(name, func(t *testing.T) {
			r := drivenBy(t, "passing")
			loadMade(t, r, a)
			before, was := layerNumbers(r), stateOf(t, r)
			var seen []Status
			got, err := r.Load(ctx, bytes.NewReader(tarOf(t, tc.fs...)), func(p Progress) { seen = append(seen, p.Status) })
			require.NoError(t, err)
			require.Equal(t, []Loaded{{ID: a.id(t), Ref: "a:1"}}, got)
			require.Equal(t, tc.unpacked, layerNumbers(r)-before)
			require.Equal(t, []Status{Present, Present}, seen)
			if tc.unpacked == 0 {
				require.Equal(t, was, stateOf(t, r), "nothing is written")
			}
			agree(t, r)
		})
	}
	t.Run("over another", func(t *testing.T) {
		r := drivenBy(t, "passing")
		loadMade(t, r, a)
		before := layerNumbers(r)
		fs := oci(t, blob.Plain, "over:1", over)
		_, err := r.Load(ctx, bytes.NewReader(tarOf(t, fs...)), nil)
		require.NoError(t, err)
		require.EqualValues(t, 2, layerNumbers(r)-before, "out of the layers that are here")
		for i, chain := range over.chains(t) {
			raw, err := readLayer(r, chain)
			require.NoError(t, err)
			require.True(t, bytes.Equal(over.layers[i], raw))
		}
		agree(t, r)
	})
	t.Run("not what its name says", func(t *testing.T) {
		r := drivenBy(t, "passing")
		loadMade(t, r, a)
		fs := rename(docker(t, blob.Plain, a))
		fs[0].body = drivertest.Layer(t, drivertest.Entry{Name: "other", Body: "other"})
		_, err := r.Load(ctx, bytes.NewReader(tarOf(t, fs...)), nil)
		require.NoError(t, err, "nothing needs it")
		lying := docker(t, blob.Plain, over)
		lying[1].name = digest.FromBytes(a.layers[1]).Encoded() + "/layer.tar" // and has the other
		lying = change(lying, "manifest.json", func(b []byte) []byte {
			return bytes.ReplaceAll(b, []byte("over-1/layer.tar"), []byte(lying[1].name))
		})
		_, err = r.Load(ctx, bytes.NewReader(tarOf(t, lying...)), nil)
		require.ErrorIs(t, err, blob.ErrDigest)
		agree(t, r)
	})
}

// TestStreamEnds: a stream that breaks off anywhere, by itself or because nobody wants it any more, leaves nothing.
func TestStreamEnds(t *testing.T) {
	m := made{label: "m", tags: []string{"m:1"}, layers: [][]byte{manyFiles(t, 20, 3000), manyFiles(t, 30, 100)}}
	for _, c := range []blob.Compression{blob.Plain, blob.Gzip} {
		raw := tarOf(t, docker(t, c, m)...)
		for at := 300; at < len(raw)-2048; at += len(raw)/40 + 1 {
			r := drivenBy(t, "passing")
			_, err := r.Load(ctx, bytes.NewReader(raw[:at]), nil)
			require.Error(t, err, "%s cut at %d", c, at)
			empty(t, r)
			cctx, cancel := context.WithCancelCause(ctx)
			why := errors.New("no longer wanted")
			_, err = r.Load(cctx, io.MultiReader(bytes.NewReader(raw[:at]), &onRead{func() { cancel(why) }}, bytes.NewReader(raw[at:])), nil)
			require.ErrorIs(t, err, why, "%s at %d", c, at)
			empty(t, r)
		}
	}
}

type onRead struct{ fn func() }

func (o *onRead) Read([]byte) (int, error) { o.fn(); return 0, io.EOF }

// TestStreamTooLarge: a stream for which the disk has no room is refused, and leaves nothing.
func TestStreamTooLarge(t *testing.T) {
	drivertest.NeedRoot(t)
	m := made{label: "m", tags: []string{"m:1"}, layers: [][]byte{manyFiles(t, 5, 1000), manyFiles(t, 3000, 10<<10)}}
	for _, c := range []blob.Compression{blob.Plain, blob.Zstd} {
		raw, dbDir := tarOf(t, docker(t, c, m)...), t.TempDir()
		var err error
		var left []string
		drivertest.InMounts(t, []driver.Mount{{Type: "tmpfs", Source: "tmpfs", Data: "size=14m"}}, func(root string) {
			r, db, oerr := openAt(dbDir, root, "overlay")
			if err = oerr; err != nil {
				return
			}
			defer db.Close()
			r.small = 0
			_, err = r.Load(ctx, bytes.NewReader(raw), nil)
			for _, p := range []string{"overlay/d", "overlay/t", "meta", "tmp"} {
				left = append(left, drivertest.Tree(filepath.Join(root, p))...)
			}
		})
		require.ErrorIs(t, err, blob.ErrNoSpace)
		require.Empty(t, left)
	}
}

// TestPublishIsAllOrNothing: if one layer of several can't get its place, none has one.
func TestPublishIsAllOrNothing(t *testing.T) {
	m := simple(t, "x", "x:1")
	for _, drv := range []string{"overlay", "passing"} {
		r := drivenBy(t, drv)
		inTheWay := filepath.Join(unpacked.MetaDir(r.o.Root), "1", "x") // the second layer's record has to go there
		require.NoError(t, os.MkdirAll(inTheWay, 0o700))
		require.EqualValues(t, 0, layerNumbers(r))
		_, err := r.Load(ctx, bytes.NewReader(tarOf(t, docker(t, blob.Plain, m)...)), nil)
		require.ErrorContains(t, err, "publish layer's record")
		require.NoError(t, os.RemoveAll(filepath.Dir(inTheWay)))
		empty(t, r)
		loadMade(t, r, m)
	}
}

func TestDigestIn(t *testing.T) {
	d := digest.FromString("x")
	for name, want := range map[string]digest.Digest{
		d.Encoded(): d, d.Encoded() + ".tar": d, d.Encoded() + ".tar.gz": d, d.Encoded() + "/layer.tar": d,
		image.BlobPath(d): d, "a/" + d.Encoded() + "/layer.tar": d,
		"x-0/layer.tar": "", d.Encoded()[1:]: "", "": "", "blobs/sha256/x": "", d.Encoded() + "/a/b": "",
	} {
		require.Equal(t, want, digestIn(name), name)
	}
}
