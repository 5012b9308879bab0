package repo

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/layers/blob"
	"github.com/coble-os/coble/layers/driver/drivertest"
)

// BenchmarkLoad loads an image with one layer of 200 MB in 20,000 files, and
// unpacks the same layer with tar x and one sync in the same round; x/tar is
// the ratio of the two.
func BenchmarkLoad(b *testing.B) {
	drivertest.NeedRoot(b)
	layer := manyFiles(b, 20_000, 10_000)
	for _, c := range []blob.Compression{blob.Plain, blob.Gzip, blob.Zstd} {
		b.Run(string(c), func(b *testing.B) {
			path := filepath.Join(b.TempDir(), "a.tar")
			m := made{label: "big", tags: []string{"big:1"}, layers: [][]byte{layer}}
			require.NoError(b, os.WriteFile(path, tarOf(b, docker(b, c, m)...), 0o644))
			plain := filepath.Join(b.TempDir(), "layer.tar")
			require.NoError(b, os.WriteFile(plain, pack(b, c, layer), 0o644))
			unix.Sync()
			var ours, theirs time.Duration
			for i := 0; b.Loop(); i++ {
				dir := filepath.Join(b.TempDir(), fmt.Sprint(i))
				ours += timeLoad(b, path, dir)
				theirs += timeTar(b, plain, dir+"-tar")
			}
			b.ReportMetric(float64(ours)/float64(theirs), "x/tar")
			b.ReportMetric(float64(ours.Milliseconds())/float64(b.N), "load-ms/op")
			b.ReportMetric(0, "ns/op")
		})
	}
}

func timeLoad(b *testing.B, path, dir string) time.Duration {
	require.NoError(b, os.Mkdir(dir, 0o755))
	db, err := bbolt.Open(filepath.Join(dir, "db"), 0o600, nil)
	require.NoError(b, err)
	defer db.Close()
	r, err := Open(Options{Root: filepath.Join(dir, "r"), DB: db})
	require.NoError(b, err)
	start := time.Now()
	_, err = r.LoadPath(ctx, path, "", nil)
	took := time.Since(start)
	require.NoError(b, err)
	require.NoError(b, os.RemoveAll(filepath.Join(dir, "r")))
	return took
}

func timeTar(b *testing.B, path, dir string) time.Duration {
	require.NoError(b, os.Mkdir(dir, 0o755))
	start := time.Now()
	out, err := exec.Command("tar", "-x", "-a", "-f", path, "-C", dir).CombinedOutput()
	require.NoError(b, err, string(out))
	require.NoError(b, blob.SyncTree(dir))
	took := time.Since(start)
	require.NoError(b, os.RemoveAll(dir))
	return took
}

// BenchmarkContainerLayer makes and removes the writable layer of a
// container, both durable.
func BenchmarkContainerLayer(b *testing.B) {
	r := newRepo(b)
	id := loadMade(b, r, simple(b, "a", "a:1"))
	for b.Loop() {
		require.NoError(b, r.CreateLayer("c", id, 0))
		require.NoError(b, r.RemoveLayer("c"))
	}
}
