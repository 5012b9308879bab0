package repo

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"

	"github.com/coble-os/coble/layers/archive"
	"github.com/coble-os/coble/layers/catalog"
	"github.com/coble-os/coble/layers/driver/drivertest"
	"github.com/coble-os/coble/layers/graph"
	"github.com/coble-os/coble/layers/image"
	"github.com/coble-os/coble/layers/unpacked"
)

// chains are the chain ids of a made-up image, lowest first.
func (m made) chains(t testing.TB) []digest.Digest {
	t.Helper()
	img, err := image.ParseConfig(m.config(t))
	require.NoError(t, err)
	return image.ChainIDs(img.RootFS)
}

func readLayer(r *Repo, chain digest.Digest) ([]byte, error) {
	rc, err := r.OpenLayer(chain)
	if err != nil {
		return nil, err
	}
	raw, err := io.ReadAll(rc)
	if cerr := rc.Close(); err == nil {
		err = cerr
	}
	return raw, err
}

// catalog.Layer reads a layer's node.
func nodeOf(t testing.TB, r *Repo, chain digest.Digest) (l catalog.Layer) {
	t.Helper()
	require.NoError(t, r.view(func(g graph.Graph) error { return catalog.Load(g, catalog.LayerPrefix+chain.String(), &l) }))
	return l
}

func TestOpenLayer(t *testing.T) {
	drivertest.NeedRoot(t)
	for _, drv := range []string{"overlay", "vfs"} {
		t.Run(drv, func(t *testing.T) {
			w := where{dir: t.TempDir(), driver: drv}
			r, db := w.open(t)
			m := made{label: "a", tags: []string{"a:1"}, layers: [][]byte{
				drivertest.Layer(t, drivertest.Entry{Name: "d/f", Body: "one"}, drivertest.Entry{Name: "g", Body: "g"}),
				append(drivertest.Layer(t, drivertest.Entry{Name: "d/.wh.f"}, drivertest.Entry{Name: "g", Body: "two"}, drivertest.Entry{Name: "g", Body: "three"}), "tail"...),
				drivertest.Layer(t, drivertest.Entry{Name: "d/f", Body: "again", Attrs: map[string]string{"trusted.left": "out"}}),
			}}
			loadMade(t, r, m)
			all := func() {
				for i, c := range m.chains(t) {
					raw, err := readLayer(r, c)
					require.NoError(t, err)
					require.True(t, bytes.Equal(m.layers[i], raw))
				}
			}
			all()
			require.NoError(t, db.Close())
			r, _ = w.open(t) // the sweep leaves what the store names
			all()
			_, err := r.OpenLayer(digest.FromString("none"))
			require.ErrorIs(t, err, image.ErrNotFound)
			_, err = r.Remove("a:1", false)
			require.NoError(t, err)
			empty(t, r)
		})
	}
}

// What is being read stays until it has been read.
func TestOpenLayerHolds(t *testing.T) {
	r := newRepo(t)
	m := simple(t, "a", "a:1")
	loadMade(t, r, m)
	rc, err := r.OpenLayer(m.chains(t)[1])
	require.NoError(t, err)
	_, err = r.Remove("a:1", false)
	require.NoError(t, err)
	raw, err := io.ReadAll(rc)
	require.NoError(t, err)
	require.Equal(t, m.layers[1], raw)
	require.NoError(t, rc.Close())
	require.NoError(t, rc.Close())
	_, err = rc.Read(make([]byte, 1))
	require.ErrorIs(t, err, os.ErrClosed)
	empty(t, r)
}

func TestOpenLayerFindsDamage(t *testing.T) {
	r := newRepo(t)
	m := simple(t, "a", "a:1")
	loadMade(t, r, m)
	chain := m.chains(t)[0]
	l := nodeOf(t, r, chain)
	root, err := r.drv.OpenLayer(l.Folder)
	require.NoError(t, err)
	defer root.Close()
	require.NoError(t, os.WriteFile(filepath.Join(root.Name(), "bin", "sh"), []byte("Shell"), 0o755))
	_, err = readLayer(r, chain)
	require.ErrorIs(t, err, image.ErrDamaged)
	require.ErrorContains(t, err, chain.String()[:19])
	require.ErrorContains(t, err, "file bin/sh: its content has changed")

	other := nodeOf(t, r, m.chains(t)[1])
	raw, err := os.ReadFile(r.disk.RecordPath(other.Folder))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(r.disk.RecordPath(l.Folder), raw, 0o600))
	_, err = readLayer(r, chain)
	require.ErrorIs(t, err, image.ErrDamaged, "the record of another layer")
	require.NoError(t, os.WriteFile(r.disk.RecordPath(l.Folder), raw[:len(raw)/2], 0o600))
	_, err = readLayer(r, chain)
	require.ErrorIs(t, err, image.ErrDamaged, "half a record")
}

// A layer that came before there were records goes out if packing gives the
// same, which it does for layers that were packed here, and is refused if
// not.
func TestOpenLayerWithoutRecord(t *testing.T) {
	r := newRepo(t)
	m := made{label: "a", tags: []string{"a:1"}, layers: [][]byte{
		drivertest.Layer(t, drivertest.Entry{Name: "z", Body: "z"}, drivertest.Entry{Name: "a", Body: "not in order"}),
		drivertest.Layer(t, drivertest.Entry{Name: ".wh.z"}, drivertest.Entry{Name: "b", Body: "b"}, drivertest.Entry{Name: "./", Mode: 0o755}),
	}}
	dir, err := os.Open(folder(t, []file{{name: "d/f", body: []byte("f")}}))
	require.NoError(t, err)
	defer dir.Close()
	var packed bytes.Buffer
	require.NoError(t, archive.Pack(context.Background(), dir, ".", &packed, archive.PackOptions{Marks: archive.OverlayMarks}))
	m.layers = append(m.layers, packed.Bytes())
	loadMade(t, r, m)
	for i, c := range m.chains(t) {
		require.NoError(t, os.Remove(r.disk.RecordPath(nodeOf(t, r, c).Folder)))
		raw, err := readLayer(r, c)
		if i < 2 {
			require.ErrorIs(t, err, unpacked.ErrNoRecord)
			require.ErrorContains(t, err, c.String()[:19])
			continue
		}
		require.NoError(t, err)
		require.Equal(t, m.layers[i], raw)
	}
}

func TestRecordsAreSwept(t *testing.T) {
	drivertest.NeedRoot(t)
	w := where{dir: t.TempDir()}
	r, db := w.open(t)
	m := simple(t, "a", "a:1")
	loadMade(t, r, m)
	for _, n := range []string{"zz", "zy.new", "what"} {
		require.NoError(t, os.WriteFile(r.disk.RecordPath(n), []byte("left over"), 0o600))
	}
	require.NoError(t, db.Close())
	r, _ = w.open(t)
	es, err := os.ReadDir(unpacked.MetaDir(r.o.Root))
	require.NoError(t, err)
	require.Len(t, es, 2)
	require.Greater(t, r.next, int64(35*36+35), "numbers of what was swept are not given out again")

	// A layer that comes again because its folder is gone brings a new record.
	l := nodeOf(t, r, m.chains(t)[0])
	require.NoError(t, r.drv.Remove(l.Folder))
	r.missing[catalog.LayerPrefix+m.chains(t)[0].String()] = "test"
	loadMade(t, r, m)
	require.NoFileExists(t, r.disk.RecordPath(l.Folder))
	raw, err := readLayer(r, m.chains(t)[0])
	require.NoError(t, err)
	require.Equal(t, m.layers[0], raw)
}
