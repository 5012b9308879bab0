package mkimage

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/u-root/u-root/pkg/cpio"
)

func TestSameInputSameBytes(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "b"), []byte("x"), 0o755))
	require.NoError(t, os.Symlink("b", filepath.Join(dir, "a")))
	build := func(first, second string) []byte {
		im := New()
		im.File(first, 0o644, []byte(first))
		im.File(second, 0o644, []byte(second))
		require.NoError(t, im.Tree("images/web", dir))
		data, err := im.Bytes()
		require.NoError(t, err)
		return data
	}
	one := build("etc/coble/coble.toml", "init")
	require.NoError(t, os.Chtimes(filepath.Join(dir, "b"), testTime(), testTime()))
	require.Equal(t, one, build("init", "etc/coble/coble.toml"))

	records, err := cpio.ReadAllRecords(cpio.Newc.Reader(bytes.NewReader(one)))
	require.NoError(t, err)
	at := map[string]int{}
	for i, r := range records {
		at[r.Name] = i + 1
		require.Zero(t, r.MTime, r.Name)
		require.Zero(t, r.UID, r.Name)
	}
	require.NotZero(t, at["dev/console"])
	require.NotZero(t, at["images/web/a"])
	require.Less(t, at["etc/coble"], at["etc/coble/coble.toml"], "the kernel makes no parents")
	require.Equal(t, uint64(0o100755), records[at["images/web/b"]-1].Mode)
}

func TestCompressedImages(t *testing.T) {
	im := New()
	im.File("init", 0o755, bytes.Repeat([]byte("x"), 1<<16))
	for suffix, magic := range map[string]string{".gz": "\x1f\x8b", ".zst": "\x28\xb5\x2f\xfd", "": "070701"} {
		name := filepath.Join(t.TempDir(), "initrd"+suffix)
		require.NoError(t, im.WriteFile(name))
		data, err := os.ReadFile(name)
		require.NoError(t, err)
		require.Equal(t, magic, string(data[:len(magic)]))
	}
}

func TestTreeRefusesSockets(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, mkfifo(filepath.Join(dir, "fifo")))
	require.ErrorContains(t, New().Tree("x", dir), "neither file nor folder")
}
