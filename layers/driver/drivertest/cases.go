package drivertest

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/layers/archive"
	"github.com/coble-os/coble/layers/driver"
)

func stackShows(t *testing.T, b *bench) {
	b.unpack("1", nil, Entry{Name: "a/"}, Entry{Name: "a/x", Body: "1"}, Entry{Name: "b", Body: "1"}, Entry{Name: "c", Body: "1"})
	b.unpack("2", []string{"1"}, Entry{Name: "a/y", Body: "2"}, Entry{Name: "b", Body: "2"}, Entry{Name: ".wh.c"})
	b.unpack("3", []string{"2", "1"}, Entry{Name: "a/.wh.x"}, Entry{Name: "c", Body: "3"})
	b.shows([]string{"1"}, "a/", "a/x:1", "b:1", "c:1")
	b.shows([]string{"2", "1"}, "a/", "a/x:1", "a/y:2", "b:2")
	b.shows([]string{"3", "2", "1"}, "a/", "a/y:2", "b:2", "c:3")
	layers, tops, err := b.d.List()
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"1", "2", "3"}, layers)
	require.Empty(t, tops)
}

func opaqueHides(t *testing.T, b *bench) {
	b.unpack("1", nil, Entry{Name: "d/sub/f", Body: "1"}, Entry{Name: "d/g", Body: "1"}, Entry{Name: "e/f", Body: "1"}, Entry{Name: "r", Body: "1"})
	b.unpack("2", []string{"1"},
		Entry{Name: "d/"}, Entry{Name: "d/new", Body: "2"}, Entry{Name: "d/.wh..wh..opq"},
		Entry{Name: ".wh.e"}, Entry{Name: "e/"}, Entry{Name: "e/h", Body: "2"})
	b.shows([]string{"2", "1"}, "d/", "d/new:2", "e/", "e/h:2", "r:1")
	b.unpack("3", []string{"2", "1"}, Entry{Name: ".wh..wh..opq"}, Entry{Name: "only", Body: "3"})
	b.unpack("4", []string{"3", "2", "1"}, Entry{Name: "d/again", Body: "4"})
	b.shows([]string{"4", "3", "2", "1"}, "d/", "d/again:4", "only:3")
}

func typesChange(t *testing.T, b *bench) {
	b.unpack("1", nil, Entry{Name: "d/f", Body: "1"}, Entry{Name: "f", Body: "1"}, Entry{Name: "l", Kind: tar.TypeSymlink, Link: "d"}, Entry{Name: "e/f", Body: "1"})
	b.unpack("2", []string{"1"}, Entry{Name: "d", Body: "2"}, Entry{Name: "f/"}, Entry{Name: "f/g", Body: "2"}, Entry{Name: "l/"},
		Entry{Name: "l/h", Body: "2"}, Entry{Name: "e", Kind: tar.TypeSymlink, Link: "f"})
	b.unpack("3", []string{"2", "1"}, Entry{Name: "d/"})
	b.shows([]string{"2", "1"}, "d:2", "f/", "f/g:2", "l/", "l/h:2", "e>f")
	b.shows([]string{"3", "2", "1"}, "d/", "f/", "f/g:2", "l/", "l/h:2", "e>f")
}

func linksStay(t *testing.T, b *bench) {
	b.unpack("1", nil, Entry{Name: "a", Body: "1"}, Entry{Name: "d/b", Kind: tar.TypeLink, Link: "a"}, Entry{Name: "s", Kind: tar.TypeSymlink, Link: "/a"})
	b.unpack("2", []string{"1"}, Entry{Name: "x", Body: "2"})
	require.NoError(t, b.d.Create("t", []string{"2", "1"}, 0))
	var a, l unix.Stat_t
	InTop(t, b.d, "t", []string{"2", "1"}, func(root string) {
		_ = unix.Lstat(root+"/a", &a)
		_ = unix.Lstat(root+"/d/b", &l)
	})
	require.EqualValues(t, 2, a.Nlink)
	require.Equal(t, a.Ino, l.Ino)
	b.shows([]string{"2", "1"}, "a:1", "d/", "d/b:1", "s>/a", "x:2")
}

func propertiesStay(t *testing.T, b *bench) {
	b.unpack("1", nil, Entry{Name: "./", Mode: 0o751, Uid: 3}, Entry{Name: "d/", Mode: 0o1777, Uid: 4}, Entry{
		Name: "d/s", Body: "s", Mode: 0o4711, Uid: 5,
		Attrs: map[string]string{"user.k": "v"},
	}, Entry{Name: "p", Kind: tar.TypeFifo, Mode: 0o600})
	b.unpack("2", []string{"1"}, Entry{Name: "./", Mode: 0o751, Uid: 3}, Entry{Name: "y"})
	require.NoError(t, b.d.Create("t", []string{"2", "1"}, 0))
	var root0, d, s, p unix.Stat_t
	attr := make([]byte, 8)
	n := 0
	InTop(t, b.d, "t", []string{"2", "1"}, func(root string) {
		_ = unix.Lstat(root, &root0)
		_ = unix.Lstat(root+"/d", &d)
		_ = unix.Lstat(root+"/d/s", &s)
		_ = unix.Lstat(root+"/p", &p)
		n, _ = unix.Lgetxattr(root+"/d/s", "user.k", attr)
	})
	require.EqualValues(t, unix.S_IFDIR|0o751, root0.Mode)
	require.EqualValues(t, 3, root0.Uid)
	require.EqualValues(t, unix.S_IFDIR|0o1777, d.Mode)
	require.EqualValues(t, 1_000_000_000, d.Mtim.Sec)
	require.EqualValues(t, unix.S_IFREG|0o4711, s.Mode)
	require.EqualValues(t, 5, s.Uid)
	require.EqualValues(t, 1_000_000_000, s.Mtim.Sec)
	require.EqualValues(t, unix.S_IFIFO|0o600, p.Mode)
	require.Equal(t, "v", string(attr[:max(n, 0)]))
}

func changesAreListed(t *testing.T, b *bench) {
	st := []string{"2", "1"}
	b.unpack("1", nil, Entry{Name: "d/old", Body: "1"}, Entry{Name: "d/keep", Body: "1"}, Entry{Name: "e/f", Body: "1"}, Entry{Name: "m", Body: "1"}, Entry{Name: "gone/x", Body: "1"})
	b.unpack("2", []string{"1"}, Entry{Name: "n", Body: "2"})
	require.NoError(t, b.d.Create("t", st, 0))
	none, err := b.d.Changes("t", st)
	require.NoError(t, err)
	require.Empty(t, none)
	InTop(t, b.d, "t", st, func(root string) {
		_ = os.WriteFile(root+"/m", []byte("changed"), 0o644)
		_ = os.MkdirAll(root+"/new/sub", 0o755)
		_ = os.WriteFile(root+"/new/sub/f", []byte("f"), 0o644)
		_ = os.Remove(root + "/d/old")
		_ = os.Remove(root + "/n")
		_ = os.RemoveAll(root + "/gone")
		_ = os.RemoveAll(root + "/e")
		_ = os.Mkdir(root+"/e", 0o755)
		_ = os.WriteFile(root+"/e/g", nil, 0o644)
	})
	got, err := b.d.Changes("t", st)
	require.NoError(t, err)
	require.Equal(t, []driver.Change{
		{Path: "/d", Kind: driver.Modified},
		{Path: "/d/old", Kind: driver.Deleted},
		{Path: "/e", Kind: driver.Modified},
		{Path: "/e/f", Kind: driver.Deleted},
		{Path: "/e/g", Kind: driver.Added},
		{Path: "/gone", Kind: driver.Deleted},
		{Path: "/m", Kind: driver.Modified},
		{Path: "/n", Kind: driver.Deleted},
		{Path: "/new", Kind: driver.Added},
		{Path: "/new/sub", Kind: driver.Added},
		{Path: "/new/sub/f", Kind: driver.Added},
	}, got)
}

func sizeCounts(t *testing.T, b *bench) {
	b.unpack("1", nil, Entry{Name: "big", Body: strings.Repeat("x", 100_000)})
	require.NoError(t, b.d.Create("t", []string{"1"}, 0))
	n, err := b.d.Size("t", []string{"1"})
	require.NoError(t, err)
	require.Zero(t, n)
	InTop(t, b.d, "t", []string{"1"}, func(root string) {
		_ = os.WriteFile(root+"/mine", bytes.Repeat([]byte("y"), 50_000), 0o644)
		f, _ := os.Create(root + "/sparse")
		_ = f.Truncate(1 << 40)
		f.Close()
	})
	unix.Sync() // blocks are counted once they are given out
	n, err = b.d.Size("t", []string{"1"})
	require.NoError(t, err)
	require.EqualValues(t, 50_000, n)
}

// failedUnpack: an error in the middle leaves no layer and nothing else.
func failedUnpack(t *testing.T, b *bench) {
	raw := Layer(t, Entry{Name: "a", Body: "a"}, Entry{Name: "b", Body: strings.Repeat("b", 1<<16)})
	broken := errors.New("broken stream")
	for _, cut := range []int{0, 512, 1500, len(raw) / 2, len(raw) - 1} {
		src := io.MultiReader(bytes.NewReader(raw[:cut]), failing{broken})
		_, err := b.d.Unpack(context.Background(), "1", nil, src, archive.Limits{})
		require.ErrorIs(t, err, broken, cut)
		require.False(t, b.d.Has("1"))
		layers, _, err := b.d.List()
		require.NoError(t, err)
		require.Empty(t, layers)
		require.Empty(t, leftovers(t, b.root))
	}
	b.unpack("1", nil, Entry{Name: "a", Body: "a"})
	require.True(t, b.d.Has("1"))
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// leftovers names whatever lies in the driver's folder that is no folder of
// its layout.
func leftovers(t *testing.T, root string) []string {
	t.Helper()
	var out []string
	kinds, err := os.ReadDir(root)
	require.NoError(t, err)
	for _, k := range kinds {
		if !k.IsDir() {
			continue
		}
		below, err := os.ReadDir(filepath.Join(root, k.Name()))
		require.NoError(t, err)
		for _, e := range below {
			out = append(out, filepath.Join(k.Name(), e.Name()))
		}
	}
	return out
}

func sweepRemoves(t *testing.T, b *bench) {
	b.unpack("1", nil, Entry{Name: "a", Body: "a"})
	require.NoError(t, os.MkdirAll(filepath.Join(b.root, "t", "5", "half", "made"), 0o755))
	require.NoError(t, os.MkdirAll(filepath.Join(b.root, "t", "rm-d-4", "half"), 0o755))
	d, err := b.open(b.root)
	require.NoError(t, err)
	require.NoError(t, d.Sweep())
	es, err := os.ReadDir(filepath.Join(b.root, "t"))
	require.NoError(t, err)
	require.Empty(t, es)
	require.True(t, d.Has("1"))
}

func missingIsSaid(t *testing.T, b *bench) {
	require.ErrorIs(t, b.d.Create("t", []string{"9"}, 0), driver.ErrMissing)
	_, err := b.d.Mounts("t", nil)
	require.ErrorIs(t, err, driver.ErrMissing)
	_, err = b.d.Size("t", nil)
	require.ErrorIs(t, err, driver.ErrMissing)
	_, err = b.d.Changes("t", nil)
	require.ErrorIs(t, err, driver.ErrMissing)
	require.Empty(t, leftovers(t, b.root))
}

func removeIsIdempotent(t *testing.T, b *bench) {
	b.unpack("1", nil, Entry{Name: "d/f", Body: "f"})
	require.NoError(t, b.d.Create("t", []string{"1"}, 0))
	for range 2 {
		require.NoError(t, b.d.RemoveTop("t"))
		require.NoError(t, b.d.Remove("1"))
	}
	require.False(t, b.d.Has("1"))
	require.Empty(t, leftovers(t, b.root))
}

func emptyStack(t *testing.T, b *bench) {
	require.NoError(t, b.d.Create("t", nil, 0))
	var got []string
	InTop(t, b.d, "t", nil, func(root string) {
		_ = os.WriteFile(root+"/f", []byte("x"), 0o644)
		got = Tree(root)
	})
	require.Equal(t, []string{"f:x"}, got)
	cs, err := b.d.Changes("t", nil)
	require.NoError(t, err)
	require.Equal(t, []driver.Change{{Path: "/f", Kind: driver.Added}}, cs)
}

func badIDs(t *testing.T, b *bench) {
	for _, id := range []string{"", "..", "a/b", "A", "1234567890123", "-"} {
		_, err := b.d.Unpack(context.Background(), id, nil, bytes.NewReader(Layer(t)), archive.Limits{})
		require.Error(t, err, id)
		require.Error(t, b.d.Create(id, nil, 0), id)
		require.Error(t, b.d.Remove(id), id)
		require.Error(t, b.d.RemoveTop(id), id)
		require.False(t, b.d.Has(id), id)
	}
	require.Empty(t, leftovers(t, b.root))
}

// layersStay: whatever a container does, the layers below do not change.
func layersStay(t *testing.T, b *bench) {
	b.unpack("1", nil, Entry{Name: "f", Body: "1"}, Entry{Name: "d/g", Body: "1"})
	require.NoError(t, b.d.Create("t", []string{"1"}, 0))
	InTop(t, b.d, "t", []string{"1"}, func(root string) {
		f, err := os.OpenFile(root+"/f", os.O_WRONLY|os.O_APPEND, 0)
		if err == nil {
			_, _ = f.WriteString("more")
			f.Close()
		}
		_ = os.Chmod(root+"/d/g", 0o777)
		_ = os.Rename(root+"/d/g", root+"/moved")
	})
	require.NoError(t, b.d.RemoveTop("t"))
	b.shows([]string{"1"}, "d/", "d/g:1", "f:1")
}

// deepStack: as many layers as an image may have.
func deepStack(t *testing.T, b *bench) {
	var stack, want []string
	for i := range 127 {
		id := "l" + strconv.FormatInt(int64(i), 36)
		name := "f" + strconv.Itoa(i)
		b.unpack(id, stack, Entry{Name: name, Body: "x"})
		stack = append([]string{id}, stack...)
		want = append(want, name+":x")
	}
	b.shows(stack, want...)
}
