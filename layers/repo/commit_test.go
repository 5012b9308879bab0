package repo

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"

	"github.com/coble-os/coble/layers/blob"
	"github.com/coble-os/coble/layers/driver/drivertest"
	"github.com/coble-os/coble/layers/image"
)

// plainConfig is a configuration with nothing but layers.
func plainConfig(diffs []digest.Digest) ([]byte, error) {
	return json.Marshal(map[string]any{"architecture": "amd64", "os": "linux", "rootfs": map[string]any{"type": "layers", "diff_ids": diffs}})
}

func TestCommit(t *testing.T) {
	drivertest.NeedRoot(t)
	for _, drv := range []string{"overlay", "vfs"} {
		t.Run(drv, func(t *testing.T) {
			r, _ := where{dir: t.TempDir(), driver: drv}.open(t)
			m := simple(t, "a", "a:1")
			loadMade(t, r, m)
			require.NoError(t, r.CreateLayer("c", m.id(t), 0))
			ms, err := r.Mounts("c", "/")
			require.NoError(t, err)
			drivertest.InMounts(t, ms, func(root string) {
				_ = os.WriteFile(root+"/mine", []byte("mine"), 0o640)
				_ = os.Remove(root + "/bin/sh")
			})
			id, err := r.Commit(ctx, "c", NewImage{Config: plainConfig, Name: "made/here:1"})
			require.NoError(t, err)
			img, err := r.Get("made/here:1")
			require.NoError(t, err)
			require.Equal(t, id, img.ID)
			require.Len(t, img.RootFS, 3)
			require.Equal(t, []int64{8, 1, 4}, img.LayerSizes)
			require.Equal(t, []string{"bin/", "label:a", "mine:mine"}, shown(t, r, id))
			raw, err := readLayer(r, image.ChainIDs(img.RootFS)[2])
			require.NoError(t, err)
			require.Equal(t, img.RootFS[2], digest.FromBytes(raw))

			// The image outlives the container and what it was made from.
			require.NoError(t, r.RemoveLayer("c"))
			_, err = r.Remove("a:1", false)
			require.NoError(t, err)
			require.Equal(t, []string{"bin/", "label:a", "mine:mine"}, shown(t, r, id))
			_, err = r.Remove("made/here:1", false)
			require.NoError(t, err)
			empty(t, r)
		})
	}
}

func TestCommitErrors(t *testing.T) {
	r := newRepo(t)
	_, err := r.Commit(ctx, "none", NewImage{Config: plainConfig})
	require.ErrorIs(t, err, ErrNoLayer)
	m := simple(t, "a", "a:1")
	loadMade(t, r, m)
	require.NoError(t, r.CreateLayer("c", m.id(t), 0))
	for _, bad := range []string{"Bad", "x@" + m.id(t).String()} {
		_, err = r.Commit(ctx, "c", NewImage{Config: plainConfig, Name: bad})
		require.ErrorIs(t, err, image.ErrInvalid, bad)
	}
	broken := errors.New("broken")
	_, err = r.Commit(ctx, "c", NewImage{Config: func([]digest.Digest) ([]byte, error) { return nil, broken }})
	require.ErrorIs(t, err, broken)
	is, err := r.List()
	require.NoError(t, err)
	require.Len(t, is, 1)
	require.Empty(t, r.pins)
	require.Empty(t, drivertest.Tree(r.temp()))
}

func TestImport(t *testing.T) {
	r := newRepo(t)
	layer := drivertest.Layer(t, drivertest.Entry{Name: "f", Body: "f"}, drivertest.Entry{Name: "d/g", Body: "g"})
	for _, c := range []blob.Compression{blob.Plain, blob.Gzip, blob.Zstd} {
		id, err := r.Import(ctx, bytes.NewReader(pack(t, c, layer)), NewImage{Config: plainConfig, Name: "im:1"})
		require.NoError(t, err)
		img, err := r.Get("im:1")
		require.NoError(t, err)
		require.Equal(t, id, img.ID)
		require.Equal(t, []digest.Digest{digest.FromBytes(layer)}, img.RootFS)
		require.Equal(t, []string{"d/", "d/g:g", "f:f"}, shown(t, r, id))
	}
	for _, bad := range [][]byte{[]byte("rubbish that is no tar at all"), pack(t, blob.Gzip, layer)[:40]} {
		_, err := r.Import(ctx, bytes.NewReader(bad), NewImage{Config: plainConfig})
		require.Error(t, err)
	}
	_, err := r.Remove("im:1", false)
	require.NoError(t, err)
	empty(t, r)
}

func TestUsage(t *testing.T) {
	r := newRepo(t)
	a, b := simple(t, "a", "a:1"), simple(t, "bb", "b:1")
	loadMade(t, r, a)
	loadMade(t, r, b)
	u, err := r.Usage()
	require.NoError(t, err)
	require.EqualValues(t, 8+1+2, u.Layers, "the first layer of both is one")
	require.Equal(t, map[image.ID]int64{a.id(t): 8, b.id(t): 8}, u.Shared)
}
