package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: run as root or make test-vm")
	}
}

// ent is one entry of a made-up archive; a missing type is a regular file.
type ent struct {
	name, link, body string
	kind             byte
	mode             int64
	uid, gid         int
	major, minor     int64
	time             time.Time
	pax              map[string]string
}

func makeTar(t testing.TB, ents ...ent) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range ents {
		h := &tar.Header{
			Name: e.name, Linkname: e.link, Typeflag: e.kind, Mode: e.mode, Uid: e.uid, Gid: e.gid,
			Devmajor: e.major, Devminor: e.minor, Size: int64(len(e.body)), ModTime: e.time, PAXRecords: e.pax,
		}
		if e.kind == 0 {
			h.Typeflag = tar.TypeReg
		}
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		if h.ModTime.IsZero() {
			h.ModTime = time.Unix(1_000_000_000, 0)
		}
		if !e.time.IsZero() || len(e.pax) > 0 {
			h.Format = tar.FormatPAX
		}
		require.NoError(t, w.WriteHeader(h))
		_, err := io.WriteString(w, e.body)
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	return b.Bytes()
}

// unpackInto unpacks into dir/root, so that a test sees what lands beside it.
func unpackInto(t testing.TB, dir string, raw []byte, o Options) (Stats, error) {
	t.Helper()
	root := filepath.Join(dir, "root")
	require.NoError(t, os.MkdirAll(root, 0o755))
	f, err := os.Open(root)
	require.NoError(t, err)
	defer f.Close()
	return Unpack(context.Background(), f, bytes.NewReader(raw), o)
}

func lstat(t testing.TB, path string) unix.Stat_t {
	t.Helper()
	var st unix.Stat_t
	require.NoError(t, unix.Lstat(path, &st), path)
	return st
}

func TestHostileArchives(t *testing.T) {
	needRoot(t)
	many := func(n int, kind byte) (es []ent) {
		for i := range n {
			es = append(es, ent{name: fmt.Sprint("n", i), kind: kind, major: 1, minor: 3})
		}
		return es
	}
	cases := []struct {
		name string
		ents []ent
		opts Options
		want error
	}{
		{name: "climbing name", ents: []ent{{name: "../evil"}}, want: ErrHostile},
		{name: "climbing in the middle", ents: []ent{{name: "a/../../evil"}}, want: ErrHostile},
		{name: "climbing from an absolute name", ents: []ent{{name: "/../evil"}}, want: ErrHostile},
		{name: "the folder above", ents: []ent{{name: "..", kind: tar.TypeDir}}, want: ErrHostile},
		{name: "hard link outside", ents: []ent{{name: "l", kind: tar.TypeLink, link: "../secret"}}, want: ErrHostile},
		{name: "hard link to nothing", ents: []ent{{name: "l", kind: tar.TypeLink, link: "none"}}, want: unix.ENOENT},
		{name: "hard link to a folder", ents: []ent{{name: "d", kind: tar.TypeDir}, {name: "l", kind: tar.TypeLink, link: "d"}}, want: unix.EPERM},
		{name: "through a dangling link", ents: []ent{{name: "s", kind: tar.TypeSymlink, link: "nowhere"}, {name: "s/f"}}, want: ErrHostile},
		{name: "link in a circle", ents: []ent{{name: "s", kind: tar.TypeSymlink, link: "s"}, {name: "s/f"}}, want: ErrHostile},
		{name: "file as folder", ents: []ent{{name: "f"}, {name: "f/g"}}, want: ErrHostile},
		{name: "whiteout of ..", ents: []ent{{name: ".wh..."}}, want: ErrHostile},
		{name: "whiteout of .", ents: []ent{{name: "d/.wh.."}}, want: ErrHostile},
		{name: "whiteout of nothing", ents: []ent{{name: ".wh."}}, want: ErrHostile},
		{name: "forged overlay mark", ents: []ent{{name: "c", kind: tar.TypeChar}}, want: ErrHostile},
		{name: "hard link to a whiteout", ents: []ent{{name: ".wh.c"}, {name: "d", kind: tar.TypeLink, link: "c"}}, want: ErrHostile},
		{name: "the root as a link", ents: []ent{{name: "./", kind: tar.TypeSymlink, link: "/etc"}}, want: ErrHostile},
		{name: "long name", ents: []ent{{name: strings.Repeat(strings.Repeat("a", 200)+"/", 21) + "f"}}, want: ErrLimit},
		{name: "deep folders", ents: []ent{{name: strings.Repeat("a/", 600) + "f"}}, want: ErrLimit},
		{name: "long part of a name", ents: []ent{{name: strings.Repeat("a", 300)}}, want: unix.ENAMETOOLONG},
		{name: "too many entries", ents: many(11, tar.TypeFifo), opts: Options{Limits: Limits{Entries: 10}}, want: ErrLimit},
		{name: "device bomb", ents: many(11, tar.TypeChar), opts: Options{Limits: Limits{Devices: 10}}, want: ErrLimit},
		{name: "device number", ents: []ent{{name: "b", kind: tar.TypeBlock, major: 5000}}, want: ErrHostile},
		{name: "too many bytes", ents: []ent{{name: "f", body: "12345"}, {name: "g", body: "123456"}}, opts: Options{Limits: Limits{Bytes: 10}}, want: ErrLimit},
		{name: "bytes in whiteouts", ents: []ent{{name: ".wh.f", body: "12345"}, {name: ".wh..wh.g", body: "123456"}}, opts: Options{Limits: Limits{Bytes: 10}}, want: ErrLimit},
		{name: "name of 4096 bytes", ents: []ent{{name: strings.Repeat(strings.Repeat("a", 255)+"/", 15) + strings.Repeat("b", 256)}}, want: ErrLimit},
		{name: "link of 4096 bytes", ents: []ent{{name: "l", kind: tar.TypeSymlink, link: strings.Repeat("a", 4096)}}, want: ErrHostile},
		{name: "unknown type", ents: []ent{{name: "x", kind: 'Q'}}, want: ErrBroken},
		{name: "symlink to nothing", ents: []ent{{name: "x", kind: tar.TypeSymlink}}, want: ErrHostile},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			require.NoError(t, os.WriteFile(filepath.Join(dir, "secret"), []byte("s"), 0o600))
			_, err := unpackInto(t, dir, makeTar(t, c.ents...), c.opts)
			require.ErrorIs(t, err, c.want)
			checkOutside(t, dir)
		})
	}
}

// checkOutside sees to it that nothing but the secret lies beside the root.
func checkOutside(t *testing.T, dir string) {
	t.Helper()
	es, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, es, 2)
	st := lstat(t, filepath.Join(dir, "secret"))
	require.EqualValues(t, 1, st.Nlink)
	require.EqualValues(t, unix.S_IFREG|0o600, st.Mode)
	body, err := os.ReadFile(filepath.Join(dir, "secret"))
	require.NoError(t, err)
	require.Equal(t, "s", string(body))
}

// Links that point outside are kept as they are, and what goes through them
// stays inside.
func TestLinksAreConfined(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "secret"), []byte("s"), 0o600))
	_, err := unpackInto(t, dir, makeTar(t,
		ent{name: "/", kind: tar.TypeDir},
		ent{name: "/evil", body: "inside"},
		ent{name: "//tmp", kind: tar.TypeDir},
		ent{name: "abs", kind: tar.TypeSymlink, link: "/tmp"},
		ent{name: "abs/a", body: "a"},
		ent{name: "up", kind: tar.TypeSymlink, link: "../../.."},
		ent{name: "up/b", body: "b"},
		ent{name: "file", kind: tar.TypeSymlink, link: "../secret"},
		ent{name: "file", body: "replaced"},
		ent{name: "s2", kind: tar.TypeSymlink, link: "../secret"},
		ent{name: "hard", kind: tar.TypeLink, link: "s2", mode: 0o4777, uid: 5},
		ent{name: "hard", body: "replaced too"},
		ent{name: "proc", kind: tar.TypeSymlink, link: "/proc/self/fd"},
	), Options{})
	require.NoError(t, err)
	checkOutside(t, dir)
	for name, body := range map[string]string{"evil": "inside", "tmp/a": "a", "b": "b", "file": "replaced", "hard": "replaced too"} {
		got, err := os.ReadFile(filepath.Join(dir, "root", name))
		require.NoError(t, err)
		require.Equal(t, body, string(got))
		require.EqualValues(t, unix.S_IFREG, lstat(t, filepath.Join(dir, "root", name)).Mode&unix.S_IFMT)
	}
}

// A link that replaces the folder used last must not lead the next file out
// of the way it says.
func TestFolderSwappedForLink(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "secret"), []byte("s"), 0o600))
	_, err := unpackInto(t, dir, makeTar(t,
		ent{name: "other", kind: tar.TypeDir},
		ent{name: "d/one", body: "1"},
		ent{name: "d", kind: tar.TypeSymlink, link: "other"},
		ent{name: "d/two", body: "2"},
	), Options{})
	require.NoError(t, err)
	checkOutside(t, dir)
	require.FileExists(t, filepath.Join(dir, "root/other/two"))
	require.NoFileExists(t, filepath.Join(dir, "root/other/one"))
}

// The same for a link that leads elsewhere from one file to the next.
func TestLinkPointsElsewhere(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	_, err := unpackInto(t, dir, makeTar(t,
		ent{name: "one", kind: tar.TypeDir}, ent{name: "two", kind: tar.TypeDir},
		ent{name: "s", kind: tar.TypeSymlink, link: "one"}, ent{name: "s/f"},
		ent{name: "s", kind: tar.TypeSymlink, link: "two"}, ent{name: "s/g"},
	), Options{})
	require.NoError(t, err)
	require.FileExists(t, filepath.Join(dir, "root/one/f"))
	require.FileExists(t, filepath.Join(dir, "root/two/g"))
}

// A container puts a link to the outside where a file is about to be made, again and again: nothing is written through it.
func TestNewFileSwappedForLink(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	secret, file := filepath.Join(dir, "secret"), filepath.Join(dir, "root/f")
	require.NoError(t, os.WriteFile(secret, []byte("s"), 0o600))
	require.NoError(t, os.Mkdir(filepath.Join(dir, "root"), 0o755))
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				_ = unix.Symlink("../secret", file)
			}
		}
	}()
	raw := makeTar(t, ent{name: "f", body: "written", mode: 0o4777})
	for range 2000 {
		_, _ = unpackInto(t, dir, raw, Options{Marks: NoMarks})
	}
	close(stop)
	<-stopped
	checkOutside(t, dir)
}

func TestCleanName(t *testing.T) {
	for name, want := range map[string]string{"a": "a", "/a/./b/": "a/b", "./": ".", "a/..": ".", "..a": "..a", "//x": "x"} {
		got, err := cleanName(name, 100)
		require.NoError(t, err, name)
		require.Equal(t, want, got, name)
	}
	for name, want := range map[string]error{"": ErrHostile, "..": ErrHostile, "a/../..": ErrHostile, "a\x00b": ErrHostile, strings.Repeat("x", 101): ErrLimit} {
		_, err := cleanName(name, 100)
		require.ErrorIs(t, err, want, "%q", name)
	}
}

// What a container puts in place of a new device is not followed.
func TestSwappedDevice(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "secret"), nil, 0o600))
	require.NoError(t, os.Symlink("secret", filepath.Join(dir, "n")))
	f, err := os.Open(dir)
	require.NoError(t, err)
	defer f.Close()
	require.ErrorIs(t, chmodNode(int(f.Fd()), "n", 0o4777), ErrHostile)
	require.EqualValues(t, unix.S_IFREG|0o600, lstat(t, filepath.Join(dir, "secret")).Mode)
}

func TestPropertiesAreKept(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	when := time.Unix(1_234_567_890, 123_456_789)
	st, err := unpackInto(t, dir, makeTar(t,
		ent{name: "./", kind: tar.TypeDir, mode: 0o711, uid: 7},
		ent{name: "d/", kind: tar.TypeDir, mode: 0o1777, uid: 3, gid: 4, time: when},
		ent{name: "d/su", body: "x", mode: 0o6755, uid: 1, gid: 2, time: when},
		ent{name: "d/ln", kind: tar.TypeLink, link: "d/su", mode: 0o4711, uid: 9, gid: 2, time: when},
		ent{name: "d/sym", kind: tar.TypeSymlink, link: "su", uid: 5, gid: 6, time: when},
		ent{name: "d/null", kind: tar.TypeChar, major: 1, minor: 3, mode: 0o666, uid: 8},
		ent{name: "d/fifo", kind: tar.TypeFifo, mode: 0o622},
		ent{name: "deep/er/f", body: "f"},
		ent{name: "x", pax: map[string]string{
			"SCHILY.xattr.user.k": "v", "SCHILY.xattr.trusted.overlay.opaque": "y",
			"SCHILY.xattr.security.selinux": "no", "SCHILY.xattr.user.overlay.opaque": "y",
			"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
		}},
		ent{name: "old", time: time.Unix(-5, 0)},
		ent{name: "late", time: time.Unix(13_000_000_000, 0)},
		ent{name: "never", time: time.Unix(1<<40, 0)},
	), Options{})
	require.NoError(t, err)
	root := filepath.Join(dir, "root")

	require.EqualValues(t, unix.S_IFDIR|0o711, lstat(t, root).Mode)
	require.EqualValues(t, 7, lstat(t, root).Uid)
	d := lstat(t, root+"/d")
	require.EqualValues(t, unix.S_IFDIR|0o1777, d.Mode)
	require.Equal(t, when.UnixNano(), d.Mtim.Nano(), "time of a folder, after files were put into it")
	su := lstat(t, root+"/d/su")
	require.EqualValues(t, unix.S_IFREG|0o4711, su.Mode, "a hard link's mode is the file's")
	require.EqualValues(t, []uint32{9, 2}, []uint32{su.Uid, su.Gid})
	require.Equal(t, when.UnixNano(), su.Mtim.Nano())
	require.Equal(t, su.Ino, lstat(t, root+"/d/ln").Ino)
	sym := lstat(t, root+"/d/sym")
	require.EqualValues(t, []uint32{5, 6}, []uint32{sym.Uid, sym.Gid})
	require.Equal(t, when.UnixNano(), sym.Mtim.Nano())
	null := lstat(t, root+"/d/null")
	require.EqualValues(t, unix.Mkdev(1, 3), null.Rdev)
	require.EqualValues(t, unix.S_IFCHR|0o666, null.Mode)
	require.EqualValues(t, unix.S_IFIFO|0o622, lstat(t, root+"/d/fifo").Mode)
	require.EqualValues(t, unix.S_IFDIR|0o755, lstat(t, root+"/deep/er").Mode)
	require.Zero(t, lstat(t, root+"/old").Mtim.Sec)

	if strconv.IntSize == 64 {
		require.EqualValues(t, int64(13_000_000_000), lstat(t, root+"/late").Mtim.Sec, "beyond what 64 bits of nanoseconds hold")
		require.EqualValues(t, int64(15032385535), lstat(t, root+"/never").Mtim.Sec)
	}

	require.EqualValues(t, 3, st.DroppedAttrs)
	require.Equal(t, "v", xattr(t, root+"/x", "user.k"))
	require.Len(t, xattr(t, root+"/x", "security.capability"), 20)
	require.Empty(t, xattr(t, root+"/x", "trusted.overlay.opaque"))
	require.EqualValues(t, 12, st.Entries)
	require.EqualValues(t, 6, st.Files)
	require.EqualValues(t, 2, st.Bytes)
}

func xattr(t *testing.T, path, name string) string {
	t.Helper()
	b := make([]byte, 256)
	n, err := unix.Lgetxattr(path, name, b)
	if errors.Is(err, unix.ENODATA) {
		return ""
	}
	require.NoError(t, err)
	return string(b[:n])
}

func TestOverlayMarks(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	_, err := unpackInto(t, dir, makeTar(t,
		ent{name: "a/.wh.gone"},
		ent{name: "o/.wh..wh..opq"}, ent{name: "o/new", body: "n"},
		ent{name: ".wh.re"}, ent{name: "re/f", body: "f"}, // hidden, then made anew
		ent{name: ".wh.re2"}, ent{name: "re2", kind: tar.TypeDir, mode: 0o700},
		ent{name: "later/f"}, ent{name: ".wh.later"}, // made, then what is below hidden
		ent{name: "stay", body: "s"}, ent{name: ".wh.stay"},
		ent{name: ".wh..wh.plnk", kind: tar.TypeDir}, ent{name: ".wh..wh.aufs"},
	), Options{})
	require.NoError(t, err)
	root := filepath.Join(dir, "root")
	gone := lstat(t, root+"/a/gone")
	require.True(t, IsWhiteout(&gone))
	for _, d := range []string{"o", "re", "re2", "later"} {
		require.Equal(t, "y", xattr(t, filepath.Join(root, d), "trusted.overlay.opaque"), d)
	}
	for _, f := range []string{"o/new", "re/f", "later/f", "stay"} {
		require.FileExists(t, filepath.Join(root, f))
	}
	es, err := os.ReadDir(root)
	require.NoError(t, err)
	require.Len(t, es, 6, "aufs's own files are left out")
}

func TestBrokenStreams(t *testing.T) {
	needRoot(t)
	whole := makeTar(t, ent{name: "f", body: strings.Repeat("x", 5000)}, ent{name: "g"})
	cases := map[string][]byte{
		"truncated body":   whole[:2000],
		"truncated header": whole[:100],
		"garbage":          bytes.Repeat([]byte("no tar "), 500),
		"endless tail":     append(bytes.Clone(whole), make([]byte, maxTail+1)...),
	}
	for name, raw := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := unpackInto(t, t.TempDir(), raw, Options{})
			want := ErrBroken
			if name == "endless tail" {
				want = ErrLimit
			}
			require.ErrorIs(t, err, want)
		})
	}
}

// Sizes that no file can have, written where the standard library would not.
func TestImpossibleSizes(t *testing.T) {
	needRoot(t)
	for name, size := range map[string]string{
		"negative": "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00", "2^62": "\x80\x00\x00\x00\x40\x00\x00\x00\x00\x00\x00\x00",
		"beyond 64 bits": "\x80\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", "octal": "77777777777 ", "no number": "not a number",
	} {
		t.Run(name, func(t *testing.T) {
			raw := makeTar(t, ent{name: "f", body: "12345"}, ent{name: "g", body: "behind"})
			copy(raw[124:136], size)
			copy(raw[148:156], "        ")
			sum := 0
			for _, c := range raw[:512] {
				sum += int(c)
			}
			copy(raw[148:156], fmt.Sprintf("%06o\x00 ", sum))
			dir := t.TempDir()
			_, err := unpackInto(t, dir, raw, Options{})
			require.Error(t, err)
			require.NoFileExists(t, filepath.Join(dir, "root", "g"))
		})
	}
}

// Many entries, and memory stays flat: nothing is kept of an entry.
func TestManyEntries(t *testing.T) {
	needRoot(t)
	const n = 100_000
	one := makeTar(t, ent{name: "same"})[:512]
	src := io.MultiReader(&repeated{block: one, left: n}, bytes.NewReader(make([]byte, 1024)))
	dir := t.TempDir()
	root, err := os.Open(dir)
	require.NoError(t, err)
	defer root.Close()
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	_, err = Unpack(context.Background(), root, io.LimitReader(src, 512*n/2), Options{})
	require.NoError(t, err)
	runtime.GC()
	runtime.ReadMemStats(&after)
	require.Less(t, int64(after.HeapAlloc)-int64(before.HeapAlloc), int64(1<<20))
	st, err := Unpack(context.Background(), root, src, Options{Limits: Limits{Entries: n/2 - 1}})
	require.ErrorIs(t, err, ErrLimit)
	require.EqualValues(t, n/2, st.Entries)
}

// repeated is a block again and again.
type repeated struct {
	block []byte
	left  int
	at    int
}

func (r *repeated) Read(p []byte) (int, error) {
	if r.left == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.block[r.at:])
	if r.at += n; r.at == len(r.block) {
		r.at = 0
		r.left--
	}
	return n, nil
}

func TestCancel(t *testing.T) {
	needRoot(t)
	ctx, cancel := context.WithCancelCause(context.Background())
	why := errors.New("enough")
	cancel(why)
	f, err := os.Open(t.TempDir())
	require.NoError(t, err)
	defer f.Close()
	_, err = Unpack(ctx, f, bytes.NewReader(makeTar(t, ent{name: "a"})), Options{})
	require.ErrorIs(t, err, why)
}

// Times of more folders than fit in memory come from the spill file.
func TestFolderTimesSpill(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	f, err := os.Open(dir)
	require.NoError(t, err)
	defer f.Close()
	d := dirTimes{root: f}
	defer d.close()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "a"), 0o755))
	require.NoError(t, os.Mkdir(filepath.Join(dir, "b"), 0o755))
	require.NoError(t, d.add("a", time.Unix(11, 5)))
	for d.file == nil {
		require.NoError(t, d.add(strings.Repeat("gone", 250), time.Unix(1, 0)))
	}
	require.NoError(t, d.add("b", time.Unix(22, 0)))
	require.NoError(t, d.apply())
	require.EqualValues(t, 11, lstat(t, filepath.Join(dir, "a")).Mtim.Sec)
	require.EqualValues(t, 22, lstat(t, filepath.Join(dir, "b")).Mtim.Sec)
}

func FuzzUnpack(f *testing.F) {
	f.Add(makeTar(f, ent{name: "a/b", body: "x"}, ent{name: "a/.wh.c"}, ent{name: "l", kind: tar.TypeLink, link: "a/b"}))
	f.Add(makeTar(f, ent{name: "s", kind: tar.TypeSymlink, link: "../.."}, ent{name: "s/x"}, ent{name: "s/.wh..wh..opq"}))
	f.Add(makeTar(f, ent{name: "d/", kind: tar.TypeDir}, ent{name: "d", kind: tar.TypeSymlink, link: "/"}, ent{name: "d/../e"}))
	f.Fuzz(func(t *testing.T, raw []byte) {
		needRoot(t)
		dir := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(dir, "secret"), []byte("s"), 0o600))
		for _, m := range []Marks{OverlayMarks, FileMarks, NoMarks} {
			_, _ = unpackInto(t, dir, raw, Options{Marks: m, Limits: Limits{Bytes: 1 << 20, Entries: 200, Depth: 20}})
			checkOutside(t, dir)
		}
	})
}
