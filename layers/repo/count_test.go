package repo

import (
	"bytes"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/coble-os/coble/layers/blob"
)

// TestWrittenIsCounted: a pull counts its downloads, files and records, a load no spool, and
// what is here already costs nothing.
func TestWrittenIsCounted(t *testing.T) {
	r := newRepo(t)
	m := big(t, "x", 1<<20, 2<<20)
	_, n, _ := offered(t, blob.Gzip, m)
	var job, inner atomic.Int64
	counting := blob.CountWritten(ctx, &job)
	_, err := pullFrom(blob.CountWritten(counting, &inner), r, n, nil)
	require.NoError(t, err)
	require.Greater(t, job.Load(), int64(6<<20), "content that does not compress, twice")
	require.Less(t, job.Load(), int64(6<<20+64<<10))
	require.Equal(t, job.Load(), inner.Load(), "a job within a job counts for both")
	before := job.Load()
	_, err = pullFrom(counting, r, n, nil)
	require.NoError(t, err)
	require.Equal(t, before, job.Load())

	job.Store(0)
	y := big(t, "y", 1<<20)
	y.tags = []string{"y:1"}
	raw := tarOf(t, docker(t, blob.Plain, y)...)
	path := write(t, raw)
	_, err = r.LoadPath(counting, path, "", nil)
	require.NoError(t, err)
	require.Greater(t, job.Load(), int64(1<<20))
	require.Less(t, job.Load(), int64(1<<20+64<<10))
	job.Store(0)
	_, err = r.Load(counting, bytes.NewReader(raw), nil)
	require.NoError(t, err)
	require.Greater(t, job.Load(), int64(1<<20), "unpacked as it came past, since its manifest comes last")
	require.Less(t, job.Load(), int64(len(raw)), "and not spooled")

	job.Store(0)
	_, err = r.Load(ctx, bytes.NewReader(raw), nil)
	require.NoError(t, err)
	require.Zero(t, job.Load())
}
