package download

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/coble-os/coble/layers/blob"
)

var ctx = context.Background()

// left is what lies in the folder.
func left(t *testing.T, fs *Folder) []os.DirEntry {
	es, err := os.ReadDir(fs.dir)
	require.NoError(t, err)
	return es
}

// What brings more than it should is an error before it fills the disk.
func TestBounded(t *testing.T) {
	for name, size := range map[string]int64{"in memory": 1000, "in a file": smallBlob + 1000} {
		t.Run(name, func(t *testing.T) {
			fs, err := Open(t.TempDir())
			require.NoError(t, err)
			d := ocispec.Descriptor{Digest: digest.FromString("x"), Size: size}
			f, err := fs.Get(ctx, d, func(context.Context, ocispec.Descriptor, int64) io.ReadCloser {
				return io.NopCloser(io.LimitReader(endless{}, smallBlob+runAhead/2))
			})
			require.NoError(t, err)
			<-f.done
			require.ErrorIs(t, f.State().Err, blob.ErrSize)
			require.NoError(t, f.Release(false))
			require.Empty(t, left(t, fs))
			require.Zero(t, fs.memory)
		})
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// A blob that nobody reads yet waits a little ahead, and leaves its slot to
// others.
func TestWaitsForItsReader(t *testing.T) {
	fs, err := Open(t.TempDir())
	require.NoError(t, err)
	size := int64(3 * runAhead)
	open := func(_ context.Context, _ ocispec.Descriptor, at int64) io.ReadCloser {
		return io.NopCloser(io.LimitReader(endless{}, size-at))
	}
	var all []*Blob
	for i := range parallelFetches + 2 {
		f, err := fs.Get(ctx, ocispec.Descriptor{Digest: digest.FromString(fmt.Sprint(i)), Size: size}, open)
		require.NoError(t, err)
		all = append(all, f)
	}
	for _, f := range all {
		require.Eventually(t, func() bool { return f.State().Have >= runAhead }, 10*time.Second, 5*time.Millisecond)
		require.Less(t, f.State().Have, size/2)
	}
	for _, f := range all[1:] {
		n, err := io.Copy(io.Discard, f.Reader(ctx))
		require.NoError(t, err)
		require.Equal(t, size, n)
	}
	for _, f := range all {
		require.NoError(t, f.Release(true), "also of one that still waits")
	}
	require.Empty(t, left(t, fs))
	require.Empty(t, fs.slots)
}

// A folder that cannot be made is the downloads' trouble.
func TestNoFolder(t *testing.T) {
	fs := &Folder{dir: filepath.Join(t.TempDir(), "none"), live: map[digest.Digest]*Blob{}}
	_, err := fs.Get(ctx, ocispec.Descriptor{Digest: digest.FromString("x"), Size: smallBlob + 1}, nil)
	require.ErrorContains(t, err, "make file for download")
}
