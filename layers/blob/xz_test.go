package blob

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
)

// xz packs with the real tool.
func xz(t testing.TB, raw []byte, args ...string) []byte {
	t.Helper()
	path, err := exec.LookPath("xz")
	require.NoError(t, err, "xz is missing: run make deps")
	c := exec.Command(path, append([]string{"-z", "-c"}, args...)...)
	c.Stdin = bytes.NewReader(raw)
	out, err := c.Output()
	require.NoError(t, err)
	return out
}

func unxz(p []byte) ([]byte, error) {
	r, c, err := Decompress(bytes.NewReader(p))
	if err != nil {
		return nil, err
	}
	if c != XZ {
		return nil, fmt.Errorf("taken for %s", c)
	}
	return io.ReadAll(r)
}

func TestXZ(t *testing.T) {
	rnd := rand.NewChaCha8([32]byte{1})
	noise := make([]byte, 300_000)
	_, _ = rnd.Read(noise)
	for name, raw := range map[string][]byte{"nothing": nil, "little": []byte("abc"), "text": bytes.Repeat([]byte("some text "), 60_000), "noise": noise} {
		for _, args := range [][]string{{"-0"}, {"-9"}, {"--check=none"}, {"--check=crc32"}, {"-0", "-T2", "--block-size=50000"}} {
			got, err := unxz(xz(t, raw, args...))
			require.NoError(t, err, "%s %v", name, args)
			require.True(t, bytes.Equal(raw, got), "%s %v", name, args)
		}
	}
}

func TestXZRefuses(t *testing.T) {
	raw := bytes.Repeat([]byte("some text "), 3000)
	_, err := unxz(xz(t, raw, "--lzma2=dict=128MiB"))
	require.ErrorIs(t, err, ErrTooLarge)
	_, err = unxz(xz(t, raw, "--check=sha256"))
	require.ErrorIs(t, err, errXZ)
	_, err = unxz(xz(t, raw, "--x86", "--lzma2"))
	require.ErrorIs(t, err, errXZ)

	whole := xz(t, raw, "-0", "--block-size=10000")
	_, err = unxz(append(bytes.Clone(whole), whole...))
	require.ErrorIs(t, err, errXZ, "a second stream must not be dropped")
	_, err = unxz(append(bytes.Clone(whole), 0, 0, 0, 0))
	require.NoError(t, err, "padding")
	for n := 6; n < len(whole); n++ {
		_, err := unxz(whole[:n])
		require.Error(t, err, "cut at %d of %d", n, len(whole))
		bad := bytes.Clone(whole)
		bad[n] ^= 4
		if got, err := unxz(bad); err == nil {
			require.Equal(t, raw, got, "changed at %d", n)
		}
	}
}

func FuzzXZ(f *testing.F) {
	for _, args := range [][]string{{"-0"}, {"--check=crc32"}, {"-0", "--block-size=100"}} {
		f.Add(xz(f, bytes.Repeat([]byte("fuzz"), 100), args...))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, _, err := Decompress(bytes.NewReader(append([]byte("\xfd7zXZ\x00"), b...)))
		if err == nil {
			_, _ = io.Copy(io.Discard, io.LimitReader(r, 1<<20))
		}
	})
}
