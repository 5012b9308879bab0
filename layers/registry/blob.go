package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/coble-os/coble/layers/blob"
)

// stall is how long a connection may bring nothing before it counts as
// broken.
const stall = time.Minute

// Blob reads a blob from an offset to its end, at most one byte more than its
// size. Whoever reads checks the digest. When the connection breaks or brings
// nothing for a minute, reading goes on over another by byte range (RFC 9110,
// section 14), at most 6 times in a row without getting on. Nothing is asked
// before the first Read.
func (s *Session) Blob(ctx context.Context, d ocispec.Descriptor, offset int64) io.ReadCloser {
	return &download{s: s, ctx: ctx, d: d, at: offset}
}

type download struct {
	s    *Session
	ctx  context.Context
	d    ocispec.Descriptor
	at   int64 // offset of the next byte
	bad  int   // tries since the last byte
	body io.ReadCloser
	stop context.CancelFunc // ends body's request
	idle *time.Timer        // calls stop
}

// Read implements io.Reader.
func (b *download) Read(p []byte) (int, error) {
	for {
		if b.body == nil {
			if err := b.open(); err != nil {
				return 0, err
			}
		}
		room := b.d.Size + 1 - b.at
		if room <= 0 {
			return 0, io.EOF // the reader knows by the byte too many
		}
		b.idle.Reset(stall)
		n, err := b.body.Read(p[:min(int64(len(p)), room)])
		b.at += int64(n)
		if n > 0 {
			b.bad = 0
		}
		if err == nil || n > 0 {
			return n, nil
		}
		b.Close()
		if err == io.EOF && b.at >= b.d.Size {
			return 0, io.EOF
		}
		if err := b.pause(err); err != nil {
			return 0, err
		}
	}
}

// pause waits after an error, or gives it back if there were too many.
func (b *download) pause(err error) error {
	if cause := context.Cause(b.ctx); cause != nil {
		return cause
	}
	if err == io.EOF {
		err = fmt.Errorf("%w after %d of %d bytes", io.ErrUnexpectedEOF, b.at, b.d.Size)
	}
	if b.bad++; b.bad >= maxTries {
		return fmt.Errorf("fetch blob %s: %w", b.d.Digest, err)
	}
	wait, _ := retry(nil, err, b.bad, b.s.c.conf.Backoff)
	return sleep(b.ctx, wait)
}

// open asks for the blob from where it stands.
func (b *download) open() error {
	if b.at > 0 && b.at == b.d.Size {
		return io.EOF
	}
	ctx, stop := context.WithCancel(b.ctx)
	h := http.Header{}
	if b.at > 0 {
		h.Set("Range", "bytes="+strconv.FormatInt(b.at, 10)+"-")
	}
	resp, err := b.s.do(ctx, call{
		method: http.MethodGet, url: b.s.path("blobs/" + b.d.Digest.String()), header: h, want: []int{http.StatusOK, http.StatusPartialContent},
	})
	if err != nil {
		stop()
		var e *Error
		if errors.As(err, &e) && e.Status == http.StatusRequestedRangeNotSatisfiable {
			err = fmt.Errorf("%w: %d bytes where %d were announced", blob.ErrSize, b.at, b.d.Size)
		}
		return fmt.Errorf("fetch blob %s: %w", b.d.Digest, err)
	}
	b.body, b.stop, b.idle = resp.Body, stop, time.AfterFunc(stall, stop)
	if err := b.align(resp); err != nil {
		b.Close()
		return fmt.Errorf("fetch blob %s: %w", b.d.Digest, err)
	}
	return nil
}

// align sees to it that the body begins where reading stands: some servers
// know no ranges and send everything.
func (b *download) align(resp *http.Response) error {
	if resp.StatusCode == http.StatusPartialContent {
		from, ok := rangeStart(resp.Header.Get("Content-Range"))
		if !ok || from != b.at {
			return fmt.Errorf("%w: it sent the range %q, asked was from byte %d on", ErrInvalid, resp.Header.Get("Content-Range"), b.at)
		}
		return nil
	}
	if b.at == 0 {
		return nil
	}
	skip := make([]byte, 64<<10)
	for left := b.at; left > 0; {
		b.idle.Reset(stall)
		n, err := b.body.Read(skip[:min(left, int64(len(skip)))])
		left -= int64(n)
		if err != nil && left > 0 {
			return errors.Join(ErrInvalid, err)
		}
	}
	return nil
}

// rangeStart reads "bytes 100-199/200".
func rangeStart(s string) (int64, bool) {
	from, _, ok := strings.Cut(strings.TrimPrefix(s, "bytes "), "-")
	n, err := strconv.ParseInt(from, 10, 64)
	return n, ok && err == nil && strings.HasPrefix(s, "bytes ")
}

// Close implements io.Closer. Reading may go on afterwards.
func (b *download) Close() error {
	if b.body == nil {
		return nil
	}
	b.idle.Stop()
	b.stop()
	err := b.body.Close()
	b.body = nil
	return err
}

// HasBlob tells whether the repository has a blob, and its size.
func (s *Session) HasBlob(ctx context.Context, d digest.Digest) (size int64, ok bool, err error) {
	resp, err := s.do(ctx, call{method: http.MethodHead, url: s.path("blobs/" + d.String()), want: []int{http.StatusOK, http.StatusNotFound}})
	if err != nil {
		return 0, false, err
	}
	drop(resp)
	return resp.ContentLength, resp.StatusCode == http.StatusOK, nil
}
