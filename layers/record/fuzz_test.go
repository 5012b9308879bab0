package record

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"
)

func isBroken(err error) bool                       { return errors.Is(err, ErrBroken) }
func asDamage(err error, target **DamageError) bool { return errors.As(err, target) }

// FuzzReader reads what is no record: items of any form behind a good
// header. It must end, with an error or a stream, and not take memory that
// the input does not have.
func FuzzReader(f *testing.F) {
	sum := strings.Repeat("s", 32)
	for _, s := range []string{
		"", "e", "r\x03abce", "f\x01a\x02" + sum + "e", "k\x01a\x02" + sum + "e",
		"l\x01a\x03" + sum + "\x03abc" + "f\x01a\x03" + sum + "e", "r\xff\xff\xff\xff\xff\xff\xff\xff\x7fx", "f\xff\xff\xff\x7f", "ex",
		"l\x01a\x00" + sum + "\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
	} {
		f.Add([]byte(s), int64(0))
		f.Add([]byte(s), int64(3))
	}
	f.Fuzz(func(t *testing.T, body []byte, lost int64) {
		file, err := os.Create(filepath.Join(t.TempDir(), "record"))
		require.NoError(t, err)
		defer file.Close()
		head, err := Info{Lost: lost, Exact: true, DiffID: digest.FromString("")}.encode()
		require.NoError(t, err)
		_, err = file.Write(head)
		require.NoError(t, err)
		z := gzip.NewWriter(file)
		_, err = z.Write(body)
		require.NoError(t, err)
		require.NoError(t, z.Close())
		r, err := NewReader(file)
		if lost < 0 || lost > maxLost {
			require.ErrorIs(t, err, ErrBroken)
			return
		}
		require.NoError(t, err)
		walked := r.Walk(func(e Entry) error {
			require.GreaterOrEqual(t, e.Size, int64(0))
			require.LessOrEqual(t, len(e.Path), maxPath)
			return nil
		})
		s, err := r.Stream(func(string) (io.ReadCloser, error) { return nil, os.ErrNotExist }, t.TempDir())
		if err != nil {
			require.True(t, isBroken(err), "%v", err)
			return
		}
		defer s.Close()
		n, err := io.Copy(io.Discard, s)
		require.LessOrEqual(t, n, int64(len(body)))
		var bad *DamageError
		if err != nil && !errors.As(err, &bad) {
			require.True(t, isBroken(err), "%v", err)
			require.Error(t, walked)
		}
	})
}
