package blobinfo

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

func TestBook(t *testing.T) {
	db, err := bbolt.Open(filepath.Join(t.TempDir(), "db"), 0o600, nil)
	require.NoError(t, err)
	t.Cleanup(func() { db.Close() })
	b, layer, img := Book{DB: db}, digest.FromString("layer"), digest.FromString("image")
	none, err := b.Blobs(layer)
	require.NoError(t, err)
	require.Empty(t, none)
	blob := func(i int) Blob { return Blob{Digest: digest.FromString(fmt.Sprint(i)), Size: int64(i), Repo: "a/b"} }
	for i := range maxBlobs + 2 {
		require.NoError(t, b.Learn(layer, blob(i)))
	}
	require.NoError(t, b.Learn(layer, blob(maxBlobs)))
	list, err := b.Blobs(layer)
	require.NoError(t, err)
	require.Len(t, list, maxBlobs)
	require.Equal(t, []Blob{blob(maxBlobs + 1), blob(maxBlobs), blob(maxBlobs - 1)}, list[:3], "what is known keeps its place")
	again := blob(maxBlobs)
	again.Type = "other"
	require.NoError(t, b.Learn(layer, again))
	list, err = b.Blobs(layer)
	require.NoError(t, err)
	require.Equal(t, []Blob{again, blob(maxBlobs + 1), blob(maxBlobs - 1)}, list[:3], "one entry for a blob in a repository")

	want := Manifest{Type: "t", Digest: digest.FromString("{}"), Raw: []byte("{}")}
	require.NoError(t, db.Update(func(tx *bbolt.Tx) error { return SetManifest(tx, img, want) }))
	m, err := b.Manifest(img)
	require.NoError(t, err)
	require.Equal(t, want, m)

	yes, no := func(string) bool { return true }, func(string) bool { return false }
	require.NoError(t, db.Update(func(tx *bbolt.Tx) error {
		require.Empty(t, Stale(tx, yes, yes))
		stale := Stale(tx, no, func(id string) bool { return id == img.String() })
		require.Len(t, stale, 1)
		return Forget(tx, stale)
	}))
	list, err = b.Blobs(layer)
	require.NoError(t, err)
	require.Empty(t, list)
	m, err = b.Manifest(img)
	require.NoError(t, err)
	require.Equal(t, want, m)
}
