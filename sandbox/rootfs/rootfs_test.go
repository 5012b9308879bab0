package rootfs

import (
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// newTree makes a root with links that lead out, and a secret beside it.
func newTree(t *testing.T) (root *Root, dir, outside string) {
	base := t.TempDir()
	dir, outside = filepath.Join(base, "root"), filepath.Join(base, "outside")
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "etc"), 0o755))
	require.NoError(t, os.Mkdir(outside, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "etc/file"), []byte("inside"), 0o644))
	for link, to := range map[string]string{
		"abs": outside, "up": "../outside", "etc/loop": "loop", "etc/again": "/etc/file", "self": "/proc/self/root",
	} {
		require.NoError(t, os.Symlink(to, filepath.Join(dir, link)))
	}
	root, err := Open(dir)
	require.NoError(t, err)
	t.Cleanup(func() { root.Close() })
	return root, dir, outside
}

func TestStaysInside(t *testing.T) {
	r, _, outside := newTree(t)
	b, err := r.ReadFile("/etc/again", 100)
	require.NoError(t, err)
	require.Equal(t, "inside", string(b))
	for _, p := range []string{"abs/secret", "up/secret", "../outside/secret", "etc/../../outside/secret", outside + "/secret", "etc/loop"} {
		_, err := r.ReadFile(p, 100)
		require.Error(t, err, p)
	}
	f, err := r.Create("abs/made", 0o600)
	require.Error(t, err, "the link dangles inside the root, so its folder cannot be made: %v", f)
	_, err = r.MkdirAll("up/x/y", 0o755)
	require.Error(t, err)
	entries, err := os.ReadDir(outside)
	require.NoError(t, err)
	require.Len(t, entries, 1)
}

func TestMagicLinks(t *testing.T) {
	r, err := Open("/")
	require.NoError(t, err)
	defer r.Close()
	_, err = r.OpenFile("/proc/self/root/etc", unix.O_PATH, 0)
	require.ErrorIs(t, err, unix.ELOOP)
}

func TestCreate(t *testing.T) {
	r, dir, _ := newTree(t)
	for _, text := range []string{"longer text", "short"} {
		f, err := r.Create("a/b/c", 0o640)
		require.NoError(t, err)
		_, err = io.WriteString(f, text)
		require.NoError(t, err)
		require.NoError(t, f.Close())
		b, err := os.ReadFile(filepath.Join(dir, "a/b/c"))
		require.NoError(t, err)
		require.Equal(t, text, string(b))
	}
	require.NoError(t, unix.Mkfifo(filepath.Join(dir, "pipe"), 0o600))
	_, err := r.ReadFile("pipe", 10)
	require.ErrorContains(t, err, "not a regular file")
	_, err = r.ReadFile("etc/file", 3)
	require.ErrorIs(t, err, ErrTooLarge)
}

// TestSwap: a folder that turns into a link to the outside and back, while files are opened below it.
func TestSwap(t *testing.T) {
	r, dir, outside := newTree(t)
	require.NoError(t, os.Mkdir(filepath.Join(dir, "d"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "d/secret"), []byte("inside"), 0o644))
	require.NoError(t, os.Symlink(outside, filepath.Join(dir, "l")))
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-quit:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, dir+"/d", unix.AT_FDCWD, dir+"/l", unix.RENAME_EXCHANGE)
			}
		}
	}()
	for range 300 {
		if b, err := r.ReadFile("d/secret", 100); err == nil {
			require.Equal(t, "inside", string(b))
		}
		if f, err := r.Create("d/new", 0o644); err == nil {
			f.Close()
		}
	}
	close(quit)
	<-done
	require.NoFileExists(t, filepath.Join(outside, "new"))
}

func TestLookupUser(t *testing.T) {
	passwd := []byte("root:x:0:0:root:/root:/bin/sh\n31:x:0:0:evil:/:/bin/sh\n# web:x:9:9::/:\nweb:x:33:34:w:/var/www:/bin/sh\nbroken:x:1\n")
	group := []byte("root:x:0:\nwww:x:34:\nlog:x:40:web,other\naux:x:41:other,web\n")
	for _, c := range []struct {
		spec string
		want User
	}{
		{"", User{0, 0, nil, "/root"}},
		{"31", User{31, 0, nil, "/"}}, // a number, though a user is called so (CVE-2016-3697)
		{"web", User{33, 34, []uint32{40, 41}, "/var/www"}},
		{"33", User{33, 34, []uint32{40, 41}, "/var/www"}},
		{"web:log", User{33, 40, nil, "/var/www"}},
		{"web:7", User{33, 7, nil, "/var/www"}},
		{"1000:1001", User{1000, 1001, nil, "/"}},
		{":7", User{0, 7, nil, "/root"}},
	} {
		got, err := LookupUser(c.spec, passwd, group)
		require.NoError(t, err, c.spec)
		require.Equal(t, c.want, got, c.spec)
	}
	for _, bad := range []string{"nobody", "broken", "web:none", "-1", "4294967295"} {
		_, err := LookupUser(bad, passwd, group)
		require.Error(t, err, bad)
	}
}

func FuzzLookupUser(f *testing.F) {
	f.Add("web:log", []byte("web:x:33:34:w:/:\n"), []byte("log:x:40:web\n"))
	f.Fuzz(func(t *testing.T, spec string, passwd, group []byte) {
		u, err := LookupUser(spec, passwd, group)
		if n, ok := number(spec); ok && err == nil {
			require.Equal(t, n, u.UID)
		}
	})
}
