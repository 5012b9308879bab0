package record

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/layers/archive"
)

var ctx = context.Background()

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: run as root or make test-vm")
	}
}

// layer is an unpacked stream with its record.
type layer struct {
	root *os.File
	file *os.File
	rec  *Reader
}

// unpack unpacks a stream and records it. edit, if not nil, may change the
// writer before.
func unpack(t testing.TB, raw []byte, marks archive.Marks, edit func(*Writer)) layer {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "root"), 0o755))
	root, err := os.Open(filepath.Join(dir, "root"))
	require.NoError(t, err)
	t.Cleanup(func() { root.Close() })
	f, err := os.Create(filepath.Join(dir, "record"))
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	w, err := NewWriter(f, bytes.NewReader(raw))
	require.NoError(t, err)
	if edit != nil {
		edit(w)
	}
	_, err = archive.Unpack(ctx, root, w, archive.Options{Marks: marks})
	require.NoError(t, err)
	require.NoError(t, w.Finish(digest.FromBytes(raw)))
	rec, err := NewReader(f)
	require.NoError(t, err)
	return layer{root, f, rec}
}

// again makes the stream again.
func (l layer) again(t testing.TB) ([]byte, error) {
	t.Helper()
	s, err := l.rec.Stream(func(p string) (io.ReadCloser, error) { return archive.OpenFile(l.root, p) }, t.TempDir())
	if err != nil {
		return nil, err
	}
	defer s.Close()
	return io.ReadAll(s)
}

type ent struct {
	name, link, body string
	kind             byte
	pax              map[string]string
}

func makeTar(t testing.TB, ents ...ent) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range ents {
		h := &tar.Header{Name: e.name, Linkname: e.link, Typeflag: e.kind, Mode: 0o755, Size: int64(len(e.body)), PAXRecords: e.pax}
		if e.kind == 0 {
			h.Typeflag = tar.TypeReg
		}
		if e.kind == tar.TypeXGlobalHeader {
			h = &tar.Header{Typeflag: e.kind, PAXRecords: e.pax}
		}
		require.NoError(t, w.WriteHeader(h))
		_, err := io.WriteString(w, e.body)
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	return b.Bytes()
}

// rawHeader makes a header with a body that the standard library would not
// write.
func rawHeader(t testing.TB, name string, kind byte, body string) []byte {
	t.Helper()
	b := makeTar(t, ent{name: name, body: body})
	b = b[:len(b)-1024]
	b[156] = kind
	copy(b[148:156], "        ")
	sum := 0
	for _, c := range b[:512] {
		sum += int(c)
	}
	copy(b[148:156], fmt.Sprintf("%06o\x00 ", sum))
	return b
}

// streams are layers that are hard to make again.
func streams(t testing.TB) map[string][]byte {
	long := strings.Repeat("long/", 60) + "name"
	long2 := strings.Repeat("x", 200)
	cat := func(bs ...[]byte) []byte { return bytes.Join(bs, nil) }
	end := make([]byte, 1024)
	return map[string][]byte{
		"empty": makeTar(t),
		"kinds": makeTar(t, ent{name: "./", kind: tar.TypeDir}, ent{name: "d/", kind: tar.TypeDir}, ent{name: "d/f", body: "some content"}, ent{name: "e"},
			ent{name: "h", kind: tar.TypeLink, link: "d/f"}, ent{name: "s", kind: tar.TypeSymlink, link: "/d/f"}, ent{name: "p", kind: tar.TypeFifo}),
		"long names":      makeTar(t, ent{name: long, body: "l"}, ent{name: long2, body: strings.Repeat("y", 1<<20)}),
		"left out":        makeTar(t, ent{name: "f", body: "f", pax: map[string]string{"SCHILY.xattr.trusted.x": "y", "SCHILY.xattr.user.k": "v"}}),
		"aufs":            makeTar(t, ent{name: ".wh..wh.plnk/", kind: tar.TypeDir}, ent{name: ".wh..wh.aufs", body: "dropped"}, ent{name: "f", body: "f"}),
		"whiteout bodies": makeTar(t, ent{name: ".wh.x", body: "a whiteout with a body"}, ent{name: "d/.wh..wh..opq", body: "another"}, ent{name: "d/f", body: "f"}),
		"same twice":      makeTar(t, ent{name: "f", body: "first"}, ent{name: "g", body: "g"}, ent{name: "f", body: "second, longer"}, ent{name: "./f", body: "third"}),
		"back again":      makeTar(t, ent{name: "f", body: "one"}, ent{name: "f", body: "two"}, ent{name: "f", body: "one"}),
		"emptied":         makeTar(t, ent{name: "f", body: "full"}, ent{name: "f"}, ent{name: "g"}, ent{name: "g", body: "full"}),
		"folder goes": makeTar(t, ent{name: "d/a", body: "a"}, ent{name: "d/e/b", body: "b"}, ent{name: "d/e/empty"}, ent{name: "d", body: "now a file"}, ent{name: "d", kind: tar.TypeDir},
			ent{name: "d/a", body: "another a"}),
		"link shares":        makeTar(t, ent{name: "a", body: "shared"}, ent{name: "b", kind: tar.TypeLink, link: "a"}, ent{name: "a", body: "alone"}, ent{name: "b", body: "too"}),
		"link then file":     makeTar(t, ent{name: "a", body: "a"}, ent{name: "b", kind: tar.TypeLink, link: "a"}, ent{name: "b", body: "b"}, ent{name: "c", kind: tar.TypeLink, link: "b"}),
		"through link":       makeTar(t, ent{name: "real/", kind: tar.TypeDir}, ent{name: "l", kind: tar.TypeSymlink, link: "real"}, ent{name: "l/f", body: "f"}, ent{name: "l/new/g", body: "g"}),
		"link turns":         makeTar(t, ent{name: "a/", kind: tar.TypeDir}, ent{name: "l", kind: tar.TypeSymlink, link: "a"}, ent{name: "l/f", body: "in a"}, ent{name: "b/", kind: tar.TypeDir}, ent{name: "l", kind: tar.TypeSymlink, link: "b"}, ent{name: "l/f", body: "in b"}, ent{name: "l", kind: tar.TypeDir}, ent{name: "l/f", body: "in l"}),
		"replaced by link":   makeTar(t, ent{name: "a/f", body: "old"}, ent{name: "l", kind: tar.TypeSymlink, link: "a"}, ent{name: "l/f", body: "new"}),
		"whiteout then file": makeTar(t, ent{name: ".wh.f"}, ent{name: "f", body: "f"}, ent{name: "g", body: "g"}, ent{name: ".wh.g"}),
		"global header":      cat(makeTar(t, ent{kind: tar.TypeXGlobalHeader, pax: map[string]string{"comment": "c"}})[:1024], makeTar(t, ent{name: "f", body: "f"})),
		"old type":           cat(rawHeader(t, "old", 0, "type zero"), rawHeader(t, "cont", '7', strings.Repeat("c", 513)), end),
		"no end mark":        makeTar(t, ent{name: "f", body: strings.Repeat("f", 512)})[:1024],
		"one end block":      makeTar(t, ent{name: "f", body: "f"})[:1024+512],
		"after the end":      cat(makeTar(t, ent{name: "f", body: "f"}), []byte("something after the end mark"), make([]byte, 70_000)),
		"dirty padding":      dirty(makeTar(t, ent{name: "f", body: "f"}, ent{name: "g", body: strings.Repeat("g", 700)})),
	}
}

// dirty fills the first file's padding with something.
func dirty(raw []byte) []byte {
	for i := 513; i < 1024; i++ {
		raw[i] = 'x'
	}
	return raw
}

// A stream comes out byte for byte, and the files that Walk names are those
// in the folder, however they got there.
func TestAgain(t *testing.T) {
	needRoot(t)
	for name, raw := range streams(t) {
		for _, marks := range []archive.Marks{archive.OverlayMarks, archive.FileMarks} {
			t.Run(fmt.Sprint(name, "/", marks), func(t *testing.T) {
				check(t, unpack(t, raw, marks, nil), raw)
			})
		}
	}
}

func check(t *testing.T, l layer, raw []byte) {
	t.Helper()
	require.Equal(t, int64(len(raw)), l.rec.Info().Size)
	require.True(t, l.rec.Info().Exact)
	require.Equal(t, digest.FromBytes(raw), l.rec.Info().DiffID)
	for range 2 {
		got, err := l.again(t)
		require.NoError(t, err)
		require.True(t, bytes.Equal(raw, got), "%d bytes in, %d out", len(raw), len(got))
	}
	listed := map[string]string{}
	require.NoError(t, l.rec.Walk(func(e Entry) error {
		require.NotContains(t, listed, e.Path)
		listed[e.Path] = fmt.Sprintf("%d %x", e.Size, e.SHA256)
		return nil
	}))
	for p, want := range listed {
		f, err := archive.OpenFile(l.root, p)
		require.NoError(t, err)
		b, err := io.ReadAll(f)
		require.NoError(t, err)
		f.Close()
		require.Equal(t, want, fmt.Sprintf("%d %x", len(b), sha256.Sum256(b)), p)
	}
	// Every inode is named by one of its paths at least, unless that one was
	// replaced; marks are empty files.
	inodes := map[uint64]bool{}
	eachFile(t, l.root.Name(), func(p string, st unix.Stat_t) {
		rel, err := filepath.Rel(l.root.Name(), p)
		require.NoError(t, err)
		inodes[st.Ino] = inodes[st.Ino] || listed[rel] != "" || st.Nlink > 1 || strings.HasPrefix(filepath.Base(rel), ".wh.")
	})
	for _, seen := range inodes {
		require.True(t, seen, "a file of the layer is not listed")
	}
}

func eachFile(t *testing.T, root string, fn func(string, unix.Stat_t)) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(root, func(p string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		var st unix.Stat_t
		require.NoError(t, unix.Lstat(p, &st))
		fn(p, st)
		return nil
	}))
}

// What GNU tar writes in each of its formats, sparse files among it.
func TestTarsOfGNU(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "d"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "d", "f"), bytes.Repeat([]byte("f"), 100_000), 0o644))
	require.NoError(t, os.Link(filepath.Join(dir, "d", "f"), filepath.Join(dir, "d", "h")))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "d", strings.Repeat("n", 90)), []byte("n"), 0o644))
	sparse, err := os.Create(filepath.Join(dir, "d", "sparse"))
	require.NoError(t, err)
	for i := range int64(30) {
		_, err := sparse.WriteAt([]byte(strings.Repeat("data", 1024)), i<<20)
		require.NoError(t, err)
	}
	require.NoError(t, sparse.Truncate(40<<20))
	require.NoError(t, sparse.Close())
	for _, args := range [][]string{
		{"--format=v7"},
		{"--format=ustar"},
		{"--format=gnu"},
		{"--format=posix"},
		{"--format=gnu", "-S", "-b", "1"},
		{"--format=posix", "-S", "--sparse-version=0.0"},
		{"--format=posix", "-S", "--sparse-version=0.1"},
		{"--format=posix", "-S", "--sparse-version=1.0", "-b", "64"},
	} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			cmd := exec.Command("tar", append(args, "-c", "-C", dir, "d")...)
			raw, err := cmd.Output()
			require.NoError(t, err)
			l := unpack(t, raw, archive.OverlayMarks, nil)
			check(t, l, raw)
			out, err := exec.Command("cmp", filepath.Join(dir, "d", "sparse"), filepath.Join(l.root.Name(), "d", "sparse")).CombinedOutput()
			require.NoError(t, err, string(out))
		})
	}
}

func TestDamageIsNamed(t *testing.T) {
	needRoot(t)
	raw := makeTar(t, ent{name: "ok", body: "fine"}, ent{name: "d/f", body: "content"}, ent{name: "z", body: "z"})
	for name, harm := range map[string]func(p string) error{
		"changed":  func(p string) error { return os.WriteFile(p, []byte("Content"), 0o644) },
		"shorter":  func(p string) error { return os.Truncate(p, 3) },
		"empty":    func(p string) error { return os.Truncate(p, 0) },
		"longer":   func(p string) error { return os.WriteFile(p, []byte("contents"), 0o644) },
		"gone":     os.Remove,
		"a link":   func(p string) error { _ = os.Remove(p); return os.Symlink("../ok", p) },
		"a folder": func(p string) error { _ = os.Remove(p); return os.Mkdir(p, 0o755) },
		"a fifo":   func(p string) error { _ = os.Remove(p); return unix.Mkfifo(p, 0o644) },
		"its folder a link": func(p string) error {
			d := filepath.Dir(p)
			_ = os.Rename(d, d+"2")
			return os.Symlink(filepath.Base(d)+"2", d)
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := unpack(t, raw, archive.OverlayMarks, nil)
			require.NoError(t, harm(filepath.Join(l.root.Name(), "d", "f")))
			_, err := l.again(t)
			var bad *DamageError
			require.ErrorAs(t, err, &bad)
			require.Equal(t, "d/f", bad.Path)
		})
	}
}

// More was replaced than a record keeps: the layer unpacks, and is not given
// out.
func TestTooMuchReplaced(t *testing.T) {
	needRoot(t)
	raw := makeTar(t, ent{name: "f", body: "12345678"}, ent{name: "f", body: "123456789"}, ent{name: "f", body: "1"})
	l := unpack(t, raw, archive.OverlayMarks, func(w *Writer) { w.most = 17 })
	check(t, l, raw)
	l = unpack(t, raw, archive.OverlayMarks, func(w *Writer) { w.most = 16 })
	require.False(t, l.rec.Info().Exact)
	_, err := l.again(t)
	require.ErrorIs(t, err, ErrInexact)
	l = unpack(t, raw, archive.OverlayMarks, func(w *Writer) { w.info.Lost = maxLost - 1 })
	_, err = l.again(t)
	require.ErrorIs(t, err, ErrInexact)
}

// A record that was cut or changed anywhere is an error, never another
// stream.
func TestBrokenRecord(t *testing.T) {
	needRoot(t)
	raw := makeTar(t, ent{name: "f", body: "first"}, ent{name: "f", body: "second"}, ent{name: "d/g", body: "g"})
	l := unpack(t, raw, archive.OverlayMarks, nil)
	whole, err := os.ReadFile(l.file.Name())
	require.NoError(t, err)
	try := func(b []byte) {
		t.Helper()
		require.NoError(t, os.WriteFile(l.file.Name(), b, 0o600))
		rec, err := NewReader(l.file)
		if err == nil {
			var got []byte
			got, err = layer{l.root, l.file, rec}.again(t)
			if err == nil {
				require.Equal(t, raw, got)
				return
			}
		}
		var bad *DamageError
		require.True(t, isBroken(err) || asDamage(err, &bad), "%v", err)
	}
	for n := range whole {
		require.NoError(t, os.WriteFile(l.file.Name(), whole[:n], 0o600))
		rec, err := NewReader(l.file)
		if err == nil {
			_, err = layer{l.root, l.file, rec}.again(t)
		}
		require.ErrorIs(t, err, ErrBroken, "cut at %d of %d", n, len(whole))
		bad := bytes.Clone(whole)
		bad[n] ^= 0x10
		try(bad)
		if n < headerSize {
			_, err := NewReader(l.file)
			require.ErrorIs(t, err, ErrBroken, "changed at %d", n)
		}
	}
}
