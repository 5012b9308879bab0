package blob

import (
	"context"
	"io"
	"os"
	"sync/atomic"
)

type countKey struct{}

// CountWritten has what is written on behalf of a context counted, in bytes. A
// context within another one counts for both.
func CountWritten(ctx context.Context, n *atomic.Int64) context.Context {
	counters, _ := ctx.Value(countKey{}).([]*atomic.Int64)
	return context.WithValue(ctx, countKey{}, append(counters[:len(counters):len(counters)], n))
}

// Wrote adds bytes that went into files on storage to the context's counters,
// if it has any.
func Wrote(ctx context.Context, n int64) {
	counters, _ := ctx.Value(countKey{}).([]*atomic.Int64)
	for _, c := range counters {
		c.Add(n)
	}
}

// WroteFile is Wrote for a file that was written from its beginning.
func WroteFile(ctx context.Context, f *os.File) {
	if st, err := f.Stat(); err == nil {
		Wrote(ctx, st.Size())
	}
}

// Counted is a writer whose bytes count for the context.
func Counted(ctx context.Context, w io.Writer) io.Writer { return countedWriter{ctx, w} }

type countedWriter struct {
	ctx context.Context
	w   io.Writer
}

// Write implements io.Writer.
func (c countedWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	Wrote(c.ctx, int64(n))
	return n, err
}
