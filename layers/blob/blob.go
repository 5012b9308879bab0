// Package blob moves bytes of images from wherever they come to wherever
// they are kept, checking them on the way: digests while streaming, sizes,
// compression by its magic, and files that become visible only when they are
// whole and on stable storage.
//
// It knows nothing of images, names or layers, and never holds more of a
// blob in memory than a few buffers.
package blob

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
)

// Errors about what came in.
var (
	ErrDigest    = errors.New("content does not match its digest")
	ErrSize      = errors.New("content does not match its size")
	ErrTooLarge  = errors.New("content is too large")
	ErrNoSpace   = errors.New("no space left")
	ErrTruncated = errors.New("content ends too early")
)

// Compression of a stream.
type Compression string

// The compressions that are recognised.
const (
	Plain Compression = "plain"
	Gzip  Compression = "gzip"
	Zstd  Compression = "zstd"
	XZ    Compression = "xz"
)

// maxWindow bounds what a zstd stream may ask for as its window, so that a
// small machine can't be filled by a header. 8 MiB is what RFC 8878 asks of
// every decoder, and zstd -19 writes; --ultra goes beyond.
const maxWindow = 32 << 20

// Detect tells a compression by its first bytes (at least 6, unless the
// stream is shorter).
func Detect(head []byte) Compression {
	switch {
	case len(head) >= 3 && head[0] == 0x1f && head[1] == 0x8b && head[2] == 8:
		return Gzip
	case len(head) >= 4 && head[0] == 0x28 && head[1] == 0xb5 && head[2] == 0x2f && head[3] == 0xfd:
		return Zstd
	case len(head) >= 4 && head[1] == 0x2a && head[2] == 0x4d && head[3] == 0x18 && head[0]>>4 == 5:
		return Zstd // a skippable frame first (RFC 8878, 3.1.2)
	case string(head[:min(6, len(head))]) == "\xfd7zXZ\x00":
		return XZ
	}
	return Plain
}

// Decompress gives the plain bytes of r and says what they were packed with.
// Closing the reader frees its buffers and leaves r open.
func Decompress(r io.Reader) (io.ReadCloser, Compression, error) {
	br := bufio.NewReaderSize(r, 64<<10)
	head, err := br.Peek(6)
	if err != nil && err != io.EOF {
		return nil, Plain, fmt.Errorf("read first bytes: %w", err)
	}
	switch c := Detect(head); c {
	case Gzip:
		z, err := gzip.NewReader(br)
		if err != nil {
			return nil, c, fmt.Errorf("open gzip stream: %w", truncated(err))
		}
		return z, c, nil
	case Zstd:
		z, err := zstd.NewReader(br, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, c, fmt.Errorf("open zstd stream: %w", truncated(err))
		}
		return z.IOReadCloser(), c, nil
	case XZ:
		x, err := newXZ(br)
		if err != nil {
			return nil, c, fmt.Errorf("open xz stream: %w", truncated(err))
		}
		return io.NopCloser(x), c, nil
	default:
		return io.NopCloser(br), c, nil
	}
}

// truncated names the error of a packed stream that ends too early.
func truncated(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) || err == io.EOF {
		return fmt.Errorf("%w: %w", ErrTruncated, err)
	}
	return err
}

// Verifier hashes what is read through it. The zero value is not usable; see
// Verify.
type Verifier struct {
	r    io.Reader
	h    hash.Hash
	n    int64
	want digest.Digest
	size int64
}

// Verify reads r and checks at its end that it had the digest want (sha256)
// and size bytes; an empty want or a negative size is not checked. A wrong
// blob is answered with ErrDigest or ErrSize in place of io.EOF, so that
// nobody who reads to the end can miss it.
func Verify(r io.Reader, want digest.Digest, size int64) *Verifier {
	return &Verifier{r: r, h: sha256.New(), want: want, size: size}
}

// Read implements io.Reader.
func (v *Verifier) Read(p []byte) (int, error) {
	n, err := v.r.Read(p)
	v.h.Write(p[:n])
	v.n += int64(n)
	if v.size >= 0 && v.n > v.size {
		return n, fmt.Errorf("%w: more than %d bytes", ErrSize, v.size)
	}
	if err == io.EOF {
		if bad := v.check(); bad != nil {
			return n, bad
		}
	}
	return n, err
}

func (v *Verifier) check() error {
	if v.size >= 0 && v.n != v.size {
		return fmt.Errorf("%w: %d bytes where %d were announced", ErrSize, v.n, v.size)
	}
	return v.is(v.want)
}

// is checks what was read so far against a digest; an empty one is not.
func (v *Verifier) is(want digest.Digest) error {
	if want != "" && v.Digest() != want {
		return fmt.Errorf("%w: it has %s, announced was %s", ErrDigest, v.Digest(), want)
	}
	return nil
}

// Digest of all that was read so far.
func (v *Verifier) Digest() digest.Digest { return digest.NewDigest(digest.SHA256, v.h) }

// Bytes read so far.
func (v *Verifier) Bytes() int64 { return v.n }

// ReadSmall reads a whole small blob, at most limit bytes, and checks it as
// Verify does.
func ReadSmall(r io.Reader, want digest.Digest, size, limit int64) ([]byte, error) {
	if size > limit {
		return nil, fmt.Errorf("%w: %d bytes, at most %d are allowed", ErrTooLarge, size, limit)
	}
	raw, err := io.ReadAll(Verify(io.LimitReader(r, limit+1), "", size))
	if err != nil {
		return nil, err
	}
	if int64(len(raw)) > limit {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrTooLarge, limit)
	}
	if want != "" && digest.FromBytes(raw) != want {
		return nil, fmt.Errorf("%w: it has %s, announced was %s", ErrDigest, digest.FromBytes(raw), want)
	}
	return raw, nil
}

// WithContext makes reads fail once ctx has ended.
func WithContext(ctx context.Context, r io.Reader) io.Reader { return ctxReader{ctx, r} }

type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (c ctxReader) Read(p []byte) (int, error) {
	if err := context.Cause(c.ctx); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
