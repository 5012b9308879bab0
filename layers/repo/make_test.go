package repo

import (
	"archive/tar"
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"

	"github.com/coble-os/coble/layers/blob"
	"github.com/coble-os/coble/layers/driver/drivertest"
	"github.com/coble-os/coble/layers/image"
	"github.com/coble-os/coble/layers/unpacked"
)

// file is one member of a made-up archive of images.
type file struct {
	name string
	body []byte
	link string // a symlink if set
}

func tarOf(t testing.TB, fs ...file) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range fs {
		h := &tar.Header{Name: f.name, Size: int64(len(f.body)), Mode: 0o644, Typeflag: tar.TypeReg}
		if f.link != "" {
			h.Typeflag, h.Linkname = tar.TypeSymlink, f.link
		}
		require.NoError(t, w.WriteHeader(h))
		_, err := w.Write(f.body)
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	return b.Bytes()
}

func pack(t testing.TB, c blob.Compression, raw []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser
	switch c {
	case blob.Gzip:
		w = gzip.NewWriter(&b)
	case blob.Zstd:
		z, err := zstd.NewWriter(&b)
		require.NoError(t, err)
		w = z
	default:
		return raw
	}
	_, err := w.Write(raw)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return b.Bytes()
}

// made is an image for tests: its layers' tars, lowest first.
type made struct {
	layers [][]byte
	label  string // makes configurations differ
	tags   []string
	arch   string // empty: amd64
}

func simple(t testing.TB, label string, tags ...string) made {
	t.Helper()
	return made{label: label, tags: tags, layers: [][]byte{
		drivertest.Layer(t, drivertest.Entry{Name: "bin/"}, drivertest.Entry{Name: "bin/sh", Body: "shell"}, drivertest.Entry{Name: "old", Body: "old"}),
		drivertest.Layer(t, drivertest.Entry{Name: ".wh.old"}, drivertest.Entry{Name: "label", Body: label}),
	}}
}

func (m made) config(t testing.TB) []byte {
	t.Helper()
	var diffs []digest.Digest
	for _, l := range m.layers {
		diffs = append(diffs, digest.FromBytes(l))
	}
	raw, err := m.configOf(diffs)
	require.NoError(t, err)
	return raw
}

func (m made) configOf(diffs []digest.Digest) ([]byte, error) {
	return json.Marshal(map[string]any{
		"architecture": cmp.Or(m.arch, "amd64"), "os": "linux", "config": map[string]any{"Labels": map[string]string{"l": m.label}, "Cmd": []string{"sh"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": diffs},
	})
}

// docker makes a docker-archive, with manifest.json last, as docker save
// writes it.
func docker(t testing.TB, c blob.Compression, ms ...made) []file {
	t.Helper()
	var fs []file
	var list []image.Archived
	for _, m := range ms {
		cfg := m.config(t)
		a := image.Archived{Config: digest.FromBytes(cfg).Encoded() + ".json", RepoTags: m.tags, Layers: []string{}}
		for i, l := range m.layers {
			name := fmt.Sprintf("%s-%d/layer.tar", m.label, i)
			fs = append(fs, file{name: name, body: pack(t, c, l)})
			a.Layers = append(a.Layers, name)
		}
		fs = append(fs, file{name: a.Config, body: cfg})
		list = append(list, a)
	}
	raw, err := json.Marshal(list)
	require.NoError(t, err)
	return append(fs, file{name: "manifest.json", body: raw})
}

// oci makes an OCI layout.
func oci(t testing.TB, c blob.Compression, ref string, m made) []file {
	t.Helper()
	var fs []file
	put := func(kind string, body []byte) ocispec.Descriptor {
		d := ocispec.Descriptor{MediaType: kind, Digest: digest.FromBytes(body), Size: int64(len(body))}
		fs = append(fs, file{name: image.BlobPath(d.Digest), body: body})
		return d
	}
	man := ocispec.Manifest{Config: put(ocispec.MediaTypeImageConfig, m.config(t))}
	for _, l := range m.layers {
		man.Layers = append(man.Layers, put(ocispec.MediaTypeImageLayer, pack(t, c, l)))
	}
	raw, err := json.Marshal(man)
	require.NoError(t, err)
	d := put(ocispec.MediaTypeImageManifest, raw)
	if ref != "" {
		d.Annotations = map[string]string{ocispec.AnnotationRefName: ref}
	}
	raw, err = json.Marshal(ocispec.Index{Manifests: []ocispec.Descriptor{d}})
	require.NoError(t, err)
	return append(fs, file{name: "index.json", body: raw}, file{name: "oci-layout", body: []byte(`{"imageLayoutVersion":"1.0.0"}`)})
}

// folder writes files below a new folder.
func folder(t testing.TB, fs []file) string {
	t.Helper()
	dir := t.TempDir()
	for _, f := range fs {
		p := filepath.Join(dir, f.name)
		require.NoError(t, os.MkdirAll(filepath.Dir(p), 0o755))
		require.NoError(t, os.WriteFile(p, f.body, 0o644))
	}
	return dir
}

func write(t testing.TB, raw []byte) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), "archive")
	require.NoError(t, os.WriteFile(p, raw, 0o644))
	return p
}

// where is a repository's folder and store, to be opened more than once.
type where struct {
	dir    string
	driver string
}

func (w where) open(t testing.TB) (*Repo, *bbolt.DB) {
	t.Helper()
	db, err := bbolt.Open(filepath.Join(w.dir, "db"), 0o600, nil)
	require.NoError(t, err)
	t.Cleanup(func() { db.Close() })
	r, err := Open(Options{Root: filepath.Join(w.dir, "r"), DB: db, Driver: w.driver})
	require.NoError(t, err)
	return r, db
}

func newRepo(t testing.TB) *Repo {
	t.Helper()
	drivertest.NeedRoot(t)
	r, _ := where{dir: t.TempDir()}.open(t)
	return r
}

// drivenBy is a new repository with a driver; "passing" is overlay, and no
// layer of an archive that comes past is so small that it stays in memory.
func drivenBy(t testing.TB, drv string) *Repo {
	t.Helper()
	drivertest.NeedRoot(t)
	passing := drv == "passing"
	if passing {
		drv = "overlay"
	}
	r, _ := where{t.TempDir(), drv}.open(t)
	if passing {
		r.small = 0
	}
	return r
}

// openAt is open for where there is no test to stop: other goroutines.
func openAt(dbDir, root, drv string) (*Repo, *bbolt.DB, error) {
	db, err := bbolt.Open(filepath.Join(dbDir, "db"), 0o600, nil)
	if err != nil {
		return nil, nil, err
	}
	r, err := Open(Options{Root: root, DB: db, Driver: drv})
	if err != nil {
		db.Close()
	}
	return r, db, err
}

// empty sees to it that neither store nor disk have anything.
func empty(t testing.TB, r *Repo) {
	t.Helper()
	layers, tops, err := r.drv.List()
	require.NoError(t, err)
	require.Empty(t, layers)
	require.Empty(t, tops)
	require.Empty(t, drivertest.Tree(r.temp()))
	require.Empty(t, drivertest.Tree(unpacked.MetaDir(r.o.Root)))
	is, err := r.List()
	require.NoError(t, err)
	require.Empty(t, is)
}

// shown lists what a container of the image sees.
func shown(t testing.TB, r *Repo, id digest.Digest) []string {
	t.Helper()
	require.NoError(t, r.CreateLayer("look", id, 0))
	defer func() { require.NoError(t, r.RemoveLayer("look")) }()
	ms, err := r.Mounts("look", "/")
	require.NoError(t, err)
	var got []string
	drivertest.InMounts(t, ms, func(root string) { got = drivertest.Tree(root) })
	return got
}
