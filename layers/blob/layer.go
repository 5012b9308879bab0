package blob

import (
	"io"

	"github.com/opencontainers/go-digest"
)

// Layer is the plain tar stream of a layer's blob, hashed on its way.
type Layer struct {
	io.ReadCloser
	plain  io.Closer
	packed *Verifier
	sum    *Verifier // of the plain stream; packed, if the blob is plain
}

// OpenLayer gives the plain tar stream of a layer's blob r. The blob's digest
// and size and the diff id of the plain stream are checked, where they are
// known: else they are empty and -1. A wrong one comes as an error in place of
// io.EOF. Reading, hashing and unpacking run ahead of the caller in a
// goroutine, which Close ends; r stays the caller's, to close afterwards.
func OpenLayer(r io.Reader, want digest.Digest, size int64, diffID digest.Digest) (*Layer, error) {
	packed := Verify(r, want, size)
	plain, c, err := Decompress(packed)
	if err != nil {
		return nil, err
	}
	l := &Layer{plain: plain, packed: packed, sum: packed}
	all := &whole{plain, packed, diffID}
	if c == Plain {
		l.ReadCloser = Ahead(all) // one digest does for both
		return l, nil
	}
	all.diffID = ""
	l.sum = Verify(all, diffID, -1)
	l.ReadCloser = Ahead(l.sum)
	return l, nil
}

// Sums are the digests of the blob and of the plain stream. They are to be
// asked for after io.EOF has come.
func (l *Layer) Sums() (blob, diffID digest.Digest) { return l.packed.Digest(), l.sum.Digest() }

// Close implements io.Closer.
func (l *Layer) Close() error {
	l.ReadCloser.Close()
	return l.plain.Close()
}

// whole reads plain, and at its end sees to it that packed was read to its
// end too, and thereby checked. With diffID, packed has to be that.
type whole struct {
	plain  io.Reader
	packed *Verifier
	diffID digest.Digest
}

func (w *whole) Read(p []byte) (int, error) {
	n, err := w.plain.Read(p)
	if err != io.EOF {
		return n, truncated(err)
	}
	if _, err := io.Copy(io.Discard, w.packed); err != nil {
		return n, err
	}
	if err := w.packed.is(w.diffID); err != nil {
		return n, err
	}
	return n, io.EOF
}
