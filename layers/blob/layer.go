package blob

import (
	"io"

	"github.com/opencontainers/go-digest"
)

// OpenLayer gives the plain tar stream of a layer's blob r. The blob's digest
// and size (if known: else empty and -1) and the diff id of the plain stream
// are checked; a wrong one comes as an error in place of io.EOF. Reading,
// hashing and unpacking run ahead of the caller in a goroutine, which Close
// ends; r stays the caller's, to close afterwards.
func OpenLayer(r io.Reader, want digest.Digest, size int64, diffID digest.Digest) (io.ReadCloser, error) {
	packed := Verify(r, want, size)
	plain, _, err := Decompress(packed)
	if err != nil {
		return nil, err
	}
	checked := Verify(&whole{plain, packed}, diffID, -1)
	return &layer{Ahead(checked), plain}, nil
}

type layer struct {
	io.ReadCloser
	plain io.Closer
}

// Close implements io.Closer.
func (l *layer) Close() error {
	l.ReadCloser.Close()
	return l.plain.Close()
}

// whole reads plain, and at its end sees to it that packed was read to its
// end too, and thereby checked.
type whole struct {
	plain  io.Reader
	packed io.Reader
}

func (w *whole) Read(p []byte) (int, error) {
	n, err := w.plain.Read(p)
	if err != io.EOF {
		return n, truncated(err)
	}
	if _, err := io.Copy(io.Discard, w.packed); err != nil {
		return n, err
	}
	return n, io.EOF
}
