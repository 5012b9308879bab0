package localtar

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestAim(t *testing.T) {
	folder, file, none := Place{true, true}, Place{true, false}, Place{}
	for _, c := range []struct {
		src          string
		srcDir       bool
		dst          string
		at           Place
		folder, name string // empty: an error
	}{
		{"a/f", false, "d", folder, "d", "f"},
		{"a/f", false, "d/", folder, "d", "f"},
		{"a/f", false, "d/g", file, "d", "g"},
		{"a/f", false, "d/g", none, "d", "g"},
		{"a/f", false, "d/g/", none, "", ""},
		{"a/f", false, "d/g/", file, "", ""},
		{"a", true, "d", folder, "d", "a"},
		{"a/", true, "d", folder, "d", "a"},
		{"a/.", true, "d", folder, "d", "."},
		{".", true, "d", folder, "d", "."},
		{"a", true, "d/new", none, "d", "new"},
		{"a/.", true, "d/new", none, "d", "new"},
		{"a", true, "d/new/", none, "d", "new"},
		{"a", true, "d/g", file, "", ""},
		{"f", false, "/f", none, "/", "f"},
	} {
		f, n, err := Aim(c.src, c.srcDir, c.dst, c.at)
		require.Equal(t, c.name == "", err != nil, "%+v", c)
		if err == nil {
			require.Equal(t, [2]string{c.folder, c.name}, [2]string{f, n}, "%+v", c)
		}
	}
}

func TestCopyLocally(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(from, "d", "ro"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(from, "d", "ro", "f"), []byte("f"), 0o640))
	require.NoError(t, os.Symlink("ro/f", filepath.Join(from, "d", "l")))
	require.NoError(t, os.Chtimes(filepath.Join(from, "d", "ro", "f"), time.Unix(5, 0), time.Unix(5, 0)))
	require.NoError(t, os.Chmod(filepath.Join(from, "d", "ro"), 0o555))
	pack := func(src, name string, o Options) *bytes.Buffer {
		var b bytes.Buffer
		require.NoError(t, Pack(&b, src, name, o))
		return &b
	}
	x := Extraction{From: "d", To: "renamed"}
	require.NoError(t, x.Unpack(to, pack(filepath.Join(from, "d"), "d", Options{})))
	fi, err := os.Stat(filepath.Join(to, "renamed", "ro", "f"))
	require.NoError(t, err)
	require.EqualValues(t, 0o640, fi.Mode())
	require.EqualValues(t, 5, fi.ModTime().Unix())
	fi, err = os.Stat(filepath.Join(to, "renamed", "ro"))
	require.NoError(t, err)
	require.EqualValues(t, os.ModeDir|0o555, fi.Mode())
	l, err := os.Readlink(filepath.Join(to, "renamed", "l"))
	require.NoError(t, err)
	require.Equal(t, "ro/f", l)

	// The contents alone, into a folder that keeps its mode.
	require.NoError(t, os.Mkdir(filepath.Join(to, "there"), 0o711))
	x = Extraction{From: ".", To: "."}
	require.NoError(t, x.Unpack(filepath.Join(to, "there"), pack(filepath.Join(from, "d")+"/.", ".", Options{})))
	require.FileExists(t, filepath.Join(to, "there", "ro", "f"))
	fi, err = os.Stat(filepath.Join(to, "there"))
	require.NoError(t, err)
	require.EqualValues(t, os.ModeDir|0o711, fi.Mode())

	// A link is copied, or what it leads to.
	x = Extraction{From: "l", To: "l"}
	require.NoError(t, x.Unpack(to, pack(filepath.Join(from, "d", "l"), "l", Options{})))
	l, err = os.Readlink(filepath.Join(to, "l"))
	require.NoError(t, err)
	require.Equal(t, "ro/f", l)
	require.NoError(t, x.Unpack(to, pack(filepath.Join(from, "d", "l"), "l", Options{Follow: true})))
	b, err := os.ReadFile(filepath.Join(to, "l"))
	require.NoError(t, err)
	require.Equal(t, "f", string(b))
}

// What a container sends stays in the folder, whatever it is called and whatever links it brings.
func TestHostileCopies(t *testing.T) {
	for name, hs := range map[string][]tar.Header{
		"climbing":      {{Name: "../evil", Typeflag: tar.TypeReg}},
		"absolute":      {{Name: "/evil", Typeflag: tar.TypeReg}},
		"another name":  {{Name: "other", Typeflag: tar.TypeReg}},
		"through link":  {{Name: "top/", Typeflag: tar.TypeDir}, {Name: "top/l", Typeflag: tar.TypeSymlink, Linkname: "../.."}, {Name: "top/l/evil", Typeflag: tar.TypeReg}},
		"hard link":     {{Name: "top", Typeflag: tar.TypeLink, Linkname: "../secret"}},
		"link as a dir": {{Name: "top", Typeflag: tar.TypeSymlink, Linkname: "../.."}, {Name: "top/evil", Typeflag: tar.TypeReg}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			require.NoError(t, os.Mkdir(filepath.Join(dir, "in"), 0o755))
			require.NoError(t, os.WriteFile(filepath.Join(dir, "secret"), []byte("secret"), 0o600))
			var b bytes.Buffer
			w := tar.NewWriter(&b)
			for _, h := range hs {
				h.Mode = 0o777
				require.NoError(t, w.WriteHeader(&h))
			}
			require.NoError(t, w.Close())
			x := Extraction{From: "top", To: "top", Skipped: func(string) {}}
			require.Error(t, x.Unpack(filepath.Join(dir, "in"), &b))
			es, err := os.ReadDir(dir)
			require.NoError(t, err)
			require.Len(t, es, 2)
			fi, err := os.Stat(filepath.Join(dir, "secret"))
			require.NoError(t, err)
			require.EqualValues(t, 0o600, fi.Mode())
		})
	}
	// A link that lay there before is replaced, not written through; devices are left out.
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "mine"), []byte("mine"), 0o600))
	require.NoError(t, os.Symlink("mine", filepath.Join(dir, "top")))
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	require.NoError(t, w.WriteHeader(&tar.Header{Name: "top", Typeflag: tar.TypeReg, Size: 3, Mode: 0o4777}))
	_, err := w.Write([]byte("new"))
	require.NoError(t, err)
	require.NoError(t, w.WriteHeader(&tar.Header{Name: "top2", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}))
	require.NoError(t, w.Close())
	var skipped []string
	x := Extraction{From: ".", To: ".", Skipped: func(s string) { skipped = append(skipped, s) }}
	require.NoError(t, x.Unpack(dir, &b))
	got, err := os.ReadFile(filepath.Join(dir, "mine"))
	require.NoError(t, err)
	require.Equal(t, "mine", string(got))
	fi, err := os.Lstat(filepath.Join(dir, "top"))
	require.NoError(t, err)
	require.EqualValues(t, 0o777, fi.Mode(), "no set-id bits")
	require.Len(t, skipped, 1)
	require.True(t, strings.HasPrefix(skipped[0], "top2"))
}
