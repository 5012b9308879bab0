package boot

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/init/mkimage"
)

func TestReadExt4(t *testing.T) {
	image := filepath.Join(t.TempDir(), "disk")
	require.NoError(t, mkimage.Ext4(t.Context(), image, "", "data", 8))
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	require.NoError(t, err)
	defer f.Close()
	fs, ok := ReadExt4(f)
	require.True(t, ok)
	require.Equal(t, "data", fs.Label)
	require.Regexp(t, `^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`, fs.UUID)
	require.False(t, fs.Errors)

	_, err = f.WriteAt([]byte{2}, 1024+0x3a) // EXT4_ERROR_FS
	require.NoError(t, err)
	fs, _ = ReadExt4(f)
	require.True(t, fs.Errors)

	_, err = f.WriteAt([]byte{0}, 1024+0x38)
	require.NoError(t, err)
	_, ok = ReadExt4(f)
	require.False(t, ok)
}

func TestFindDisk(t *testing.T) {
	sys, dev := t.TempDir(), t.TempDir()
	for _, name := range []string{"ram0", "sda", "sdb", "sdb1"} {
		require.NoError(t, os.Mkdir(filepath.Join(sys, name), 0o755))
	}
	require.NoError(t, os.WriteFile(filepath.Join(dev, "sda"), make([]byte, 4096), 0o600))
	require.NoError(t, mkimage.Ext4(t.Context(), filepath.Join(dev, "sdb"), "", "data", 8))
	require.NoError(t, os.WriteFile(filepath.Join(sys, "sdb1", "uevent"), []byte("MAJOR=8\nPARTNAME=slot-a\n"), 0o600))
	f, err := os.Open(filepath.Join(dev, "sdb"))
	require.NoError(t, err)
	defer f.Close()
	fs, _ := ReadExt4(f)

	for spec, want := range map[string]string{
		"LABEL=data": "sdb", "UUID=" + fs.UUID: "sdb", "PARTLABEL=slot-a": "sdb1",
	} {
		got, err := findDisk(t.Context(), sys, dev, spec)
		require.NoError(t, err)
		require.Equal(t, filepath.Join(dev, want), got)
	}
	got, err := findDisk(t.Context(), sys, dev, "/dev/null")
	require.NoError(t, err)
	require.Equal(t, "/dev/null", got)

	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = findDisk(ended, sys, dev, "LABEL=other")
	require.ErrorContains(t, err, "find disk LABEL=other among ram0, sda, sdb, sdb1")
	for _, bad := range []string{"", "data", "LABEL=", "NAME=x"} {
		_, err = findDisk(t.Context(), sys, dev, bad)
		require.ErrorContains(t, err, "is not LABEL=")
	}
}

func TestParseOptions(t *testing.T) {
	flags, data := parseOptions("rw,noatime,nosuid,commit=60,data=ordered")
	require.Equal(t, uintptr(unix.MS_NOATIME|unix.MS_NOSUID), flags)
	require.Equal(t, "commit=60,data=ordered", data)
	flags, data = parseOptions("ro")
	require.Equal(t, uintptr(unix.MS_RDONLY), flags)
	require.Empty(t, data)
}

func TestParam(t *testing.T) {
	const line = "console=ttyS0 coble.config=/a quiet coble.note=\"two words\" coble.config=/b\n"
	for key, want := range map[string]string{"coble.config": "/b", "console": "ttyS0", "coble.note": "two words", "quiet": ""} {
		got, ok := Param(line, key)
		require.True(t, ok, key)
		require.Equal(t, want, got)
	}
	_, ok := Param(line, "coble")
	require.False(t, ok)
	got, ok := Param(`a="open end`, "a")
	require.True(t, ok)
	require.Equal(t, "open end", got)
}

func TestHasBit(t *testing.T) {
	require.True(t, hasBit("10000000000000 0\n", keyPower)) // as an ACPI button shows it
	require.False(t, hasBit("0 0", keyPower))
	require.False(t, hasBit("", keyPower))
	require.False(t, hasBit("zz 0", keyPower))
}

func TestHostnameRefusals(t *testing.T) {
	for _, bad := range []string{"", "a b", "a/b", "é", string(make([]byte, 65))} {
		require.Error(t, Hostname(bad), bad)
	}
}

func TestNameFiles(t *testing.T) {
	root := t.TempDir()
	require.NoError(t, NameFiles(root, "gateway"))
	hosts, err := os.ReadFile(root + "/etc/hosts")
	require.NoError(t, err)
	require.Contains(t, string(hosts), "127.0.1.1\tgateway\n")
	require.FileExists(t, root+"/etc/resolv.conf")

	require.NoError(t, NameFiles(root, "other"))
	again, err := os.ReadFile(root + "/etc/hosts")
	require.NoError(t, err)
	require.Equal(t, hosts, again, "files that are there are the owner's")
}
