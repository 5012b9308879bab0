package blob

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"
)

func packed(t testing.TB, c Compression, raw []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser
	switch c {
	case Gzip:
		w = gzip.NewWriter(&b)
	case Zstd:
		z, err := zstd.NewWriter(&b)
		require.NoError(t, err)
		w = z
	default:
		return raw
	}
	_, err := w.Write(raw)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return b.Bytes()
}

func TestOpenLayer(t *testing.T) {
	raw := bytes.Repeat([]byte("some content of a layer "), 200_000) // several buffers
	for _, c := range []Compression{Plain, Gzip, Zstd} {
		t.Run(string(c), func(t *testing.T) {
			p := packed(t, c, raw)
			read := func(src []byte, want digest.Digest, size int64, diff digest.Digest) ([]byte, error) {
				l, err := OpenLayer(bytes.NewReader(src), want, size, diff)
				if err != nil {
					return nil, err
				}
				defer l.Close()
				return io.ReadAll(l)
			}
			blobID, diffID, n := digest.FromBytes(p), digest.FromBytes(raw), int64(len(p))
			got, err := read(p, blobID, n, diffID)
			require.NoError(t, err)
			require.True(t, bytes.Equal(raw, got))
			_, err = read(p, "", -1, diffID)
			require.NoError(t, err)
			_, err = read(p, blobID, n, blobID.Algorithm().FromString("other"))
			require.ErrorIs(t, err, ErrDigest)
			_, err = read(p, blobID.Algorithm().FromString("other"), n, diffID)
			require.ErrorIs(t, err, ErrDigest)
			_, err = read(p, blobID, n-1, diffID)
			require.ErrorIs(t, err, ErrSize)
			_, err = read(p, "", n+1, diffID)
			require.ErrorIs(t, err, ErrSize)
			_, err = read(p[:len(p)/2], "", -1, diffID)
			require.Error(t, err)
			if c != Plain {
				require.ErrorIs(t, err, ErrTruncated)
				_, err = read(append(bytes.Clone(p), "junk behind"...), blobID, -1, diffID)
				require.Error(t, err, "what follows belongs to the blob's digest")
			}
		})
	}
}

func TestDetect(t *testing.T) {
	for in, want := range map[string]Compression{
		"\x1f\x8b\x08\x00": Gzip, "\x28\xb5\x2f\xfd": Zstd, "\x50\x2a\x4d\x18": Zstd, "\x5f\x2a\x4d\x18": Zstd,
		"": Plain, "\x1f": Plain, "BZh9": Plain, "\x60\x2a\x4d\x18": Plain,
	} {
		require.Equal(t, want, Detect([]byte(in)), "%q", in)
	}
}

// Closing in the middle ends the goroutine: it waits for it.
func TestAheadClose(t *testing.T) {
	a := Ahead(zeros{})
	_, err := io.ReadFull(a, make([]byte, 3<<20))
	require.NoError(t, err)
	require.NoError(t, a.Close())
	require.NoError(t, a.Close())
	want := errors.New("broken")
	b := Ahead(io.MultiReader(strings.NewReader("x"), failing{want}))
	defer b.Close()
	got, err := io.ReadAll(b)
	require.ErrorIs(t, err, want)
	require.Equal(t, "x", string(got))
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestReadSmall(t *testing.T) {
	raw, err := ReadSmall(strings.NewReader("abc"), digest.FromString("abc"), 3, 3)
	require.NoError(t, err)
	require.Equal(t, "abc", string(raw))
	_, err = ReadSmall(strings.NewReader("abcd"), "", -1, 3)
	require.ErrorIs(t, err, ErrTooLarge)
	_, err = ReadSmall(zeros{}, "", 1<<40, 3)
	require.ErrorIs(t, err, ErrTooLarge)
	_, err = ReadSmall(strings.NewReader("abc"), digest.FromString("x"), 3, 3)
	require.ErrorIs(t, err, ErrDigest)
	_, err = ReadSmall(strings.NewReader("ab"), "", 3, 3)
	require.ErrorIs(t, err, ErrSize)
}

func TestSpoolLeavesNoName(t *testing.T) {
	dir := t.TempDir()
	f, err := Spool(dir)
	require.NoError(t, err)
	defer f.Close()
	n, err := Fill(f, strings.NewReader("abc"), nil)
	require.NoError(t, err)
	require.EqualValues(t, 3, n)
	es, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, es)
	broken := errors.New("broken")
	_, err = Fill(f, failing{broken}, nil)
	require.ErrorIs(t, err, broken)
}

func TestPublishAndSpace(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "a"), 0o700))
	require.NoError(t, SyncTree(filepath.Join(dir, "a")))
	require.NoError(t, os.Mkdir(filepath.Join(dir, "b"), 0o700))
	require.NoError(t, Publish(filepath.Join(dir, "a"), filepath.Join(dir, "b", "c")))
	require.DirExists(t, filepath.Join(dir, "b", "c"))
	d, err := os.Open(dir)
	require.NoError(t, err)
	defer d.Close()
	require.NoError(t, CheckSpace(d, 1))
	err = CheckSpace(d, 1<<60)
	require.ErrorIs(t, err, ErrNoSpace)
	require.Contains(t, err.Error(), "need about 1099511627776 MiB, have ")
}
