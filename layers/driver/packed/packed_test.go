package packed

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// superblock is a squashfs's, packed with the compression of that number.
func superblock(t *testing.T, compression uint16, attrs bool) Place {
	t.Helper()
	h := make([]byte, 96)
	copy(h, "hsqs")
	binary.LittleEndian.PutUint16(h[20:], compression)
	if !attrs {
		binary.LittleEndian.PutUint64(h[56:], 1<<64-1)
	}
	path := filepath.Join(t.TempDir(), "layer")
	require.NoError(t, os.WriteFile(path, h, 0o600))
	return Place{Path: path, Format: Squashfs}
}

// What a kernel lacks is said by the name of its option, with the file's.
func TestExplain(t *testing.T) {
	erofs := Place{Path: "/images/layer", Format: Erofs}
	for name, c := range map[string]struct {
		place  Place
		err    error
		kernel bool
		says   string
	}{
		"no squashfs":      {superblock(t, 1, true), unix.ENODEV, true, "CONFIG_SQUASHFS (module squashfs)"},
		"no erofs":         {erofs, unix.ENODEV, true, "CONFIG_EROFS_FS (module erofs)"},
		"no zlib":          {superblock(t, 1, true), unix.EINVAL, false, "packed with gzip, for which the kernel needs CONFIG_SQUASHFS_ZLIB"},
		"no xz":            {superblock(t, 4, true), unix.EINVAL, false, "packed with xz, for which the kernel needs CONFIG_SQUASHFS_XZ"},
		"no zstd":          {superblock(t, 6, true), unix.EINVAL, false, "packed with zstd, for which the kernel needs CONFIG_SQUASHFS_ZSTD"},
		"no compression":   {superblock(t, 99, true), unix.EINVAL, false, "what no kernel has"},
		"no loop":          {erofs, unix.ENOTBLK, true, "CONFIG_EROFS_FS_BACKED_BY_FILE"},
		"no erofs feature": {erofs, unix.EOPNOTSUPP, false, "CONFIG_EROFS_FS_ZIP"},
		"unreadable":       {erofs, unix.EIO, false, "can't be read"},
	} {
		t.Run(name, func(t *testing.T) {
			err := c.place.explain(c.err)
			require.ErrorIs(t, err, c.err)
			require.ErrorContains(t, err, c.place.Path)
			require.ErrorContains(t, err, c.says)
			if c.kernel {
				require.ErrorIs(t, err, ErrKernel)
			}
		})
	}
}

// A kernel without the file system, as the kernel itself says it.
func TestNoSuchFileSystem(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: run as root or make test-vm")
	}
	path := filepath.Join(t.TempDir(), "layer")
	require.NoError(t, os.WriteFile(path, bytes.Repeat([]byte{0}, 4096), 0o600))
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	p, err := Of(f, "nosuchfs")
	require.NoError(t, err)
	require.Equal(t, path, p.Path)
	_, err = p.Mount()
	require.ErrorIs(t, err, ErrKernel)
	require.ErrorContains(t, err, path)
}

// Attributes that the kernel passes over are refused; a file without any is
// not.
func TestAttributesPassedOver(t *testing.T) {
	root, err := os.Open("/proc") // answers EOPNOTSUPP, as a file system without attributes does
	require.NoError(t, err)
	defer root.Close()
	err = superblock(t, 1, true).checkAttrs(root)
	require.ErrorIs(t, err, ErrKernel)
	require.ErrorContains(t, err, "CONFIG_SQUASHFS_XATTR")
	require.NoError(t, superblock(t, 1, false).checkAttrs(root))
	require.ErrorContains(t, Place{Path: "/x", Format: Erofs}.checkAttrs(root), "CONFIG_EROFS_FS_XATTR")
}

func TestPlaceIsStored(t *testing.T) {
	p := Place{Path: "/images/a \"b\" ü", Format: Erofs, Size: 1 << 40, MTime: -5}
	again, err := Parse(p.String())
	require.NoError(t, err)
	require.Equal(t, p, again)
	_, err = Parse("{")
	require.Error(t, err)
}
