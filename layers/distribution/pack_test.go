package distribution

import (
	"bytes"
	"crypto/rand"
	"io"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"

	"github.com/coble-os/coble/layers/blob"
	"github.com/coble-os/coble/layers/blobinfo"
)

// oneLayer is a Store with one layer, whatever it is asked for.
type oneLayer struct {
	Store
	raw []byte
}

func (s oneLayer) OpenLayer(digest.Digest) (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(s.raw)), nil
}

// The bytes do not depend on how the stream is cut into pieces.
func TestPackIsReproducible(t *testing.T) {
	raw := make([]byte, 300_000)
	rand.Read(raw)
	l := New(oneLayer{raw: raw}, blobinfo.Book{}, nil)
	var a, b bytes.Buffer
	p, err := l.pack(&a, "")
	require.NoError(t, err)
	_, err = l.pack(&oneByOne{w: &b}, "")
	require.NoError(t, err)
	require.True(t, bytes.Equal(a.Bytes(), b.Bytes()))
	require.Equal(t, blobinfo.Blob{Digest: digest.FromBytes(a.Bytes()), Size: int64(a.Len()), Type: typePacked, Own: true}, p)
	require.Equal(t, make([]byte, 5), a.Bytes()[3:8], "no name, no time (RFC 1952)")
	plain, _, err := blob.Decompress(&a)
	require.NoError(t, err)
	got, err := io.ReadAll(plain)
	require.NoError(t, err)
	require.True(t, bytes.Equal(raw, got))
}

type oneByOne struct{ w io.Writer }

func (o *oneByOne) Write(p []byte) (int, error) {
	for i := range p {
		if _, err := o.w.Write(p[i : i+1]); err != nil {
			return i, err
		}
	}
	return len(p), nil
}
