package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// packed packs name below dir/root.
func packed(t testing.TB, dir, name string, o PackOptions) ([]byte, error) {
	t.Helper()
	f, err := os.Open(filepath.Join(dir, "root"))
	require.NoError(t, err)
	defer f.Close()
	var b bytes.Buffer
	err = Pack(context.Background(), f, name, &b, o)
	return b.Bytes(), err
}

// listing describes each entry of a tar in a line.
func listing(t testing.TB, raw []byte) []string {
	t.Helper()
	var out []string
	r := tar.NewReader(bytes.NewReader(raw))
	for {
		h, err := r.Next()
		if err == io.EOF {
			return out
		}
		require.NoError(t, err)
		body, err := io.ReadAll(r)
		require.NoError(t, err)
		var attrs []string
		for k := range h.PAXRecords {
			if strings.HasPrefix(k, "SCHILY.") {
				attrs = append(attrs, k)
			}
		}
		sort.Strings(attrs)
		out = append(out, strings.TrimRight(fmt.Sprintf("%s %c %o %d:%d %s>%s %d:%d %v", h.Name, h.Typeflag, h.Mode, h.Uid, h.Gid, body, h.Linkname, h.Devmajor, h.Devminor, attrs), " "))
	}
}

func TestPackUnpackIsTheSame(t *testing.T) {
	needRoot(t)
	when := time.Unix(1_234_567_890, 123_456_789)
	raw := makeTar(t,
		ent{name: "d/", kind: tar.TypeDir, mode: 0o1777, uid: 3, gid: 4, time: when},
		ent{name: "d/" + strings.Repeat("long", 60), body: "l", time: when},
		ent{name: "d/null", kind: tar.TypeChar, major: 1, minor: 3, mode: 0o666, uid: 8},
		ent{name: "d/fifo", kind: tar.TypeFifo, mode: 0o622},
		ent{name: "d/su", body: "x", mode: 0o6755, uid: 1, gid: 2, pax: map[string]string{"SCHILY.xattr.user.k": "v"}},
		ent{name: "e-link", kind: tar.TypeLink, link: "d/su", mode: 0o6755, uid: 1, gid: 2},
		ent{name: "sym", kind: tar.TypeSymlink, link: "/etc/passwd", mode: 0o777},
	)
	a, b := t.TempDir(), t.TempDir()
	_, err := unpackInto(t, a, raw, Options{})
	require.NoError(t, err)
	first, err := packed(t, a, ".", PackOptions{})
	require.NoError(t, err)
	_, err = unpackInto(t, b, first, Options{})
	require.NoError(t, err)
	second, err := packed(t, b, "/", PackOptions{})
	require.NoError(t, err)
	require.True(t, bytes.Equal(first, second), "packed again, the same bytes")
	require.Equal(t, []string{
		"d/ 5 1777 3:4 > 0:0 []",
		"d/fifo 6 622 0:0 > 0:0 []",
		"d/" + strings.Repeat("long", 60) + " 0 644 0:0 l> 0:0 []",
		"d/null 3 666 8:0 > 1:3 []",
		"d/su 0 6755 1:2 x> 0:0 [SCHILY.xattr.user.k]",
		"e-link 1 6755 1:2 >d/su 0:0 []",
		"sym 2 777 0:0 >/etc/passwd 0:0 []",
	}, listing(t, first))
}

func TestPackNames(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "secret"), []byte("s"), 0o600))
	_, err := unpackInto(t, dir, makeTar(t,
		ent{name: "etc/f", body: "inside"}, ent{name: "abs", kind: tar.TypeSymlink, link: "/etc"},
		ent{name: "up", kind: tar.TypeSymlink, link: "../secret"}), Options{})
	require.NoError(t, err)
	for name, c := range map[string]struct{ as, want string }{
		"etc/f":         {"x", "x 0 644 0:0 inside> 0:0 []"},
		"abs/f":         {"x", "x 0 644 0:0 inside> 0:0 []"},
		"../../etc/f":   {"y/x", "y/x 0 644 0:0 inside> 0:0 []"},
		"up":            {"up", "up 2 777 0:0 >../secret 0:0 []"},
		"etc":           {"e", "e/ 5 755 0:0 > 0:0 [] e/f 0 644 0:0 inside> 0:0 []"},
		"abs/../etc/./": {"e", "e/ 5 755 0:0 > 0:0 [] e/f 0 644 0:0 inside> 0:0 []"},
	} {
		raw, err := packed(t, dir, name, PackOptions{Name: c.as, Marks: NoMarks})
		require.NoError(t, err, name)
		require.Equal(t, c.want, strings.Join(listing(t, raw), " "), name)
	}
	for _, name := range []string{"none", "etc/f/g", "../secret", "up/x"} {
		_, err := packed(t, dir, name, PackOptions{Name: "x"})
		require.Error(t, err, name)
	}
	_, err = packed(t, dir, "none", PackOptions{Name: "x"})
	require.ErrorIs(t, err, os.ErrNotExist)
}

// The upper folder of a container becomes a layer that does the same.
func TestPackMarks(t *testing.T) {
	needRoot(t)
	a, b := t.TempDir(), t.TempDir()
	_, err := unpackInto(t, a, makeTar(t, ent{name: "d/.wh.x"}, ent{name: "o/.wh..wh..opq"}, ent{name: "o/f", body: "f"}, ent{name: "z"}), Options{})
	require.NoError(t, err)
	raw, err := packed(t, a, "/", PackOptions{Marks: OverlayMarks})
	require.NoError(t, err)
	var names []string
	for _, l := range listing(t, raw) {
		names = append(names, strings.Fields(l)[0])
	}
	require.Equal(t, []string{"d/", "d/.wh.x", "o/", "o/.wh..wh..opq", "o/f", "z"}, names)
	_, err = unpackInto(t, b, raw, Options{})
	require.NoError(t, err)
	again, err := packed(t, b, "/", PackOptions{Marks: OverlayMarks})
	require.NoError(t, err)
	require.True(t, bytes.Equal(raw, again))
}

// Copying into a container: links in the way lead within its root, and the
// folder itself stays as it is.
func TestUnpackInto(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "secret"), []byte("s"), 0o600))
	root := filepath.Join(dir, "root")
	require.NoError(t, os.MkdirAll(filepath.Join(root, "data/sub"), 0o755))
	require.NoError(t, os.Symlink("/data", filepath.Join(root, "abs")))
	require.NoError(t, os.Symlink("../../../../data", filepath.Join(root, "data/up")))
	raw := makeTar(t, ent{name: "./", kind: tar.TypeDir, mode: 0o700, uid: 9}, ent{name: "f", body: "f"}, ent{name: "up/g", body: "g"},
		ent{name: ".wh.f", body: "no mark"}, ent{name: "h", kind: tar.TypeLink, link: "f"})
	_, err := unpackInto(t, dir, raw, Options{Marks: NoMarks, Into: "/../abs"})
	require.NoError(t, err)
	checkOutside(t, dir)
	for _, n := range []string{"f", "g", "h", ".wh.f"} {
		require.FileExists(t, filepath.Join(root, "data", n))
	}
	require.EqualValues(t, unix.S_IFDIR|0o755, lstat(t, filepath.Join(root, "data")).Mode)
	_, err = unpackInto(t, dir, makeTar(t, ent{name: "../../secret"}), Options{Marks: NoMarks, Into: "data/sub"})
	require.ErrorIs(t, err, ErrHostile)
	_, err = unpackInto(t, dir, makeTar(t, ent{name: "sub", body: "x"}), Options{Marks: NoMarks, Into: "data", KeepKinds: true})
	require.ErrorIs(t, err, ErrKind)
	_, err = unpackInto(t, dir, makeTar(t, ent{name: "f", kind: tar.TypeDir}), Options{Marks: NoMarks, Into: "data", KeepKinds: true})
	require.ErrorIs(t, err, ErrKind)
	_, err = unpackInto(t, dir, makeTar(t, ent{name: "sub", body: "x"}), Options{Marks: NoMarks, Into: "data"})
	require.NoError(t, err)
}

// CVE-2018-15664 and its like: a running container swaps what is copied from
// or to for a link to the outside, again and again.
func TestSwappedWhileCopying(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	for _, d := range []string{"root/work/d", "root/spare", "outside"} {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	secret := filepath.Join(dir, "outside", "f")
	require.NoError(t, os.WriteFile(secret, []byte("secret"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(root, "work/d/f"), []byte("inside"), 0o600))
	require.NoError(t, os.Symlink(filepath.Join(dir, "outside"), filepath.Join(root, "spare/abs")))
	require.NoError(t, os.Symlink("../../outside", filepath.Join(root, "spare/rel")))
	before := lstat(t, secret)

	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			link := filepath.Join(root, "spare", []string{"abs", "rel"}[i%2])
			_ = unix.Renameat2(unix.AT_FDCWD, link, unix.AT_FDCWD, filepath.Join(root, "work/d"), unix.RENAME_EXCHANGE)
			_ = unix.Renameat2(unix.AT_FDCWD, link, unix.AT_FDCWD, filepath.Join(root, "work/d"), unix.RENAME_EXCHANGE)
		}
	}()
	raw := makeTar(t, ent{name: "f", body: "new", mode: 0o777, uid: 5}, ent{name: "n", kind: tar.TypeFifo, mode: 0o777, uid: 5},
		ent{name: "f2", kind: tar.TypeLink, link: "f", mode: 0o777, uid: 6})
	for range 300 {
		out, err := packed(t, dir, "work", PackOptions{Name: "work", Marks: NoMarks})
		if err == nil {
			require.NotContains(t, string(out), "secret")
		}
		_, _ = packed(t, dir, "work/d/f", PackOptions{Name: "f", Marks: NoMarks})
		_, _ = unpackInto(t, dir, raw, Options{Marks: NoMarks, Into: "work/d", CrossMounts: true})
		body, err := os.ReadFile(secret)
		require.NoError(t, err)
		require.Equal(t, "secret", string(body))
	}
	close(stop)
	<-stopped
	after := lstat(t, secret)
	require.Equal(t, []any{before.Mode, before.Uid, before.Nlink, before.Mtim}, []any{after.Mode, after.Uid, after.Nlink, after.Mtim})
	es, err := os.ReadDir(filepath.Join(dir, "outside"))
	require.NoError(t, err)
	require.Len(t, es, 1)
}
