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
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/layers/archive"
	"github.com/coble-os/coble/layers/driver"
)

// layerOpens: a layer's files can be read again, and a stream that wants to
// know hears of each.
func layerOpens(t *testing.T, b *bench) {
	b.unpack("1", nil, Entry{Name: "a", Body: "1"}, Entry{Name: "d/", Mode: 0o700}, Entry{Name: "d/x", Body: "below"})
	raw := Layer(t, Entry{Name: "a", Body: "2"}, Entry{Name: "d/y", Body: "yy"}, Entry{Name: "s", Kind: tar.TypeSymlink, Link: "d"})
	heard := &listener{Reader: bytes.NewReader(raw)}
	_, err := b.d.Unpack(context.Background(), "2", []string{"1"}, heard, archive.Limits{})
	require.NoError(t, err)
	require.Len(t, heard.files, 2, "archive.Unpack must get the stream itself")

	root, err := b.d.OpenLayer("2")
	require.NoError(t, err)
	defer root.Close()
	for i, want := range []string{"2", "yy"} {
		require.Equal(t, []string{"a", "d/y"}[i], heard.files[i].Path)
		f, err := archive.OpenFile(root, heard.files[i].Path)
		require.NoError(t, err)
		got, err := io.ReadAll(f)
		require.NoError(t, err)
		require.Equal(t, want, string(got))
		require.NoError(t, f.Close())
	}
	_, err = archive.OpenFile(root, "s/y")
	require.ErrorIs(t, err, unix.ELOOP)
	_, err = b.d.OpenLayer("9")
	require.ErrorIs(t, err, driver.ErrMissing)
	_, err = b.d.OpenLayer("../2")
	require.Error(t, err)
}

type listener struct {
	io.Reader
	files []archive.File
}

func (l *listener) Body()                              {}
func (l *listener) File(f archive.File) error          { l.files = append(l.files, f); return nil }
func (l *listener) Lost(archive.File, io.Reader) error { return nil }

// diffIsALayer: what Diff writes, unpacked over the same stack, shows what the
// top shows, with owners and modes.
func diffIsALayer(t *testing.T, b *bench) {
	st := []string{"2", "1"}
	b.unpack("1", nil, Entry{Name: "d/old", Body: "1"}, Entry{Name: "d/keep", Body: "1"}, Entry{Name: "e/f", Body: "1"}, Entry{Name: "m", Body: "1"}, Entry{Name: "gone/x", Body: "1"},
		Entry{Name: "becomes/x", Body: "1"}, Entry{Name: "file", Body: "1"}, Entry{Name: "link", Kind: tar.TypeSymlink, Link: "d"})
	b.unpack("2", []string{"1"}, Entry{Name: "n", Body: "2"}, Entry{Name: ".wh.file"}, Entry{Name: "file/", Mode: 0o700}, Entry{Name: "file/in", Body: "2"})
	require.NoError(t, b.d.Create("t", st, 0))
	var want []string
	InTop(t, b.d, "t", st, func(root string) {
		_ = os.WriteFile(root+"/m", []byte("changed"), 0o644)
		_ = os.MkdirAll(root+"/new/sub", 0o755)
		_ = os.WriteFile(root+"/new/sub/f", []byte("f"), 0o644)
		_ = os.Link(root+"/new/sub/f", root+"/new/g")
		_ = os.Chown(root+"/new/g", 7, 8)
		_ = os.Chmod(root+"/new/g", os.ModeSetuid|0o751)
		_ = os.Remove(root + "/d/old")
		_ = os.Remove(root + "/n")
		_ = os.RemoveAll(root + "/gone")
		_ = os.RemoveAll(root + "/e")
		_ = os.Mkdir(root+"/e", 0o755)
		_ = os.WriteFile(root+"/e/g", nil, 0o644)
		_ = os.RemoveAll(root + "/becomes")
		_ = os.WriteFile(root+"/becomes", []byte("file"), 0o644)
		_ = os.RemoveAll(root + "/file")
		_ = os.Symlink("d", root+"/file")
		_ = os.Remove(root + "/link")
		_ = os.Mkdir(root+"/link", 0o700)
		_ = unix.Mkfifo(root+"/fifo", 0o600)
		want = Tree(root)
	})
	require.Contains(t, want, "new/g:f")
	var first, again bytes.Buffer
	require.NoError(t, b.d.Diff(context.Background(), "t", st, &first))
	require.NoError(t, b.d.Diff(context.Background(), "t", st, &again))
	require.Equal(t, first.Bytes(), again.Bytes())
	_, err := b.d.Unpack(context.Background(), "3", st, &first, archive.Limits{})
	require.NoError(t, err)
	b.shows([]string{"3", "2", "1"}, want...)
	require.NoError(t, b.d.Create("u", []string{"3", "2", "1"}, 0))
	var g unix.Stat_t
	InTop(t, b.d, "u", []string{"3", "2", "1"}, func(root string) { _ = unix.Lstat(root+"/new/g", &g) })
	require.EqualValues(t, unix.S_IFREG|0o4751, g.Mode)
	require.Equal(t, []uint32{7, 8}, []uint32{g.Uid, g.Gid})
	require.EqualValues(t, 2, g.Nlink)
	require.ErrorIs(t, b.d.Diff(context.Background(), "none", st, io.Discard), driver.ErrMissing)
}

// linksAstray: folders that became links, in an image or in a container, are
// never gone through: they would lead to the machine's own files.
func linksAstray(t *testing.T, b *bench) {
	b.unpack("1", nil, Entry{Name: "a/hostname", Body: "1"}, Entry{Name: "b", Kind: tar.TypeSymlink, Link: "/etc"})
	require.NoError(t, b.d.Create("t", []string{"1"}, 0))
	InTop(t, b.d, "t", []string{"1"}, func(root string) {
		_ = os.RemoveAll(root + "/a")
		_ = os.Symlink("/etc", root+"/a")
		_ = os.Remove(root + "/b")
		_ = os.Mkdir(root+"/b", 0o755)
		_ = os.WriteFile(root+"/b/hostname", nil, 0o644)
	})
	got, err := b.d.Changes("t", []string{"1"})
	require.NoError(t, err)
	require.Equal(t, []driver.Change{
		{Path: "/a", Kind: driver.Modified},
		{Path: "/b", Kind: driver.Modified},
		{Path: "/b/hostname", Kind: driver.Added},
	}, got)
}

// oddNames: an image may have what a driver calls its own things.
func oddNames(t *testing.T, b *bench) {
	b.unpack("1", nil, Entry{Name: "n", Body: "1"}, Entry{Name: "r/v", Body: "1"}, Entry{Name: "u/w", Body: "1"})
	b.unpack("2", []string{"1"}, Entry{Name: "v", Body: "2"}, Entry{Name: "r/n", Body: "2"})
	b.shows([]string{"2", "1"}, "n:1", "r/", "r/n:2", "r/v:1", "u/", "u/w:1", "v:2")
}

// twoTops: containers of one image see nothing of each other.
func twoTops(t *testing.T, b *bench) {
	b.unpack("1", nil, Entry{Name: "f", Body: "1"})
	for _, id := range []string{"a", "b"} {
		require.NoError(t, b.d.Create(id, []string{"1"}, 0))
		InTop(t, b.d, id, []string{"1"}, func(root string) { _ = os.WriteFile(root+"/f", []byte(id), 0o644) })
	}
	for _, id := range []string{"a", "b"} {
		var got []string
		InTop(t, b.d, id, []string{"1"}, func(root string) { got = Tree(root) })
		require.Equal(t, []string{"f:" + id}, got)
	}
	b.shows([]string{"1"}, "f:1")
}

// atOnce: different ids can be worked on at the same time.
func atOnce(t *testing.T, b *bench) {
	b.unpack("base", nil, Entry{Name: "f", Body: "1"})
	raw := Layer(t, Entry{Name: "d/g", Body: "2"})
	errs := make(chan error)
	const many = 8
	for i := range many {
		go func() {
			id := strconv.Itoa(i)
			_, err := b.d.Unpack(context.Background(), "l"+id, []string{"base"}, bytes.NewReader(raw), archive.Limits{})
			stack := []string{"l" + id, "base"}
			err = errors.Join(err, b.d.Create("c"+id, stack, 0))
			_, merr := b.d.Mounts("c"+id, stack)
			_, cerr := b.d.Changes("c"+id, stack)
			err = errors.Join(err, merr, cerr)
			if i%2 == 0 {
				err = errors.Join(err, b.d.RemoveTop("c"+id), b.d.Remove("l"+id))
			}
			errs <- err
		}()
	}
	for range many {
		require.NoError(t, <-errs)
	}
	layers, tops, err := b.d.List()
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"base", "l1", "l3", "l5", "l7"}, layers)
	require.ElementsMatch(t, []string{"c1", "c3", "c5", "c7"}, tops)
	require.NoError(t, b.d.RemoveTop("c1"))
	b.shows([]string{"l1", "base"}, "d/", "d/g:2", "f:1")
}

// cancelled: an unpacking whose context ends gives its cause and leaves
// nothing.
func cancelled(t *testing.T, b *bench) {
	ctx, cancel := context.WithCancelCause(context.Background())
	why := errors.New("no longer wanted")
	raw := Layer(t, Entry{Name: "a", Body: "a"}, Entry{Name: "b", Body: "b"}, Entry{Name: "c", Body: "c"})
	src := io.MultiReader(bytes.NewReader(raw[:1024]), &doing{func() { cancel(why) }}, bytes.NewReader(raw[1024:]))
	_, err := b.d.Unpack(ctx, "1", nil, src, archive.Limits{})
	require.ErrorIs(t, err, why)
	require.False(t, b.d.Has("1"))
	require.Empty(t, leftovers(t, b.root))
}

// doing reads nothing and does something.
type doing struct{ fn func() }

func (d *doing) Read([]byte) (int, error) { d.fn(); return 0, io.EOF }

// mountedAgain: what a container wrote, hid and renamed is there the next
// time, also for a driver that was opened anew.
func mountedAgain(t *testing.T, b *bench) {
	b.unpack("1", nil, Entry{Name: "f", Body: "1"}, Entry{Name: "gone", Body: "1"}, Entry{Name: "d/g", Body: "1"})
	require.NoError(t, b.d.Create("t", []string{"1"}, 0))
	InTop(t, b.d, "t", []string{"1"}, func(root string) {
		_ = os.WriteFile(root+"/f", []byte("2"), 0o644)
		_ = os.Remove(root + "/gone")
		_ = os.Rename(root+"/d/g", root+"/h")
		_ = os.Link(root+"/h", root+"/i")
	})
	d, err := b.open(b.root)
	require.NoError(t, err)
	var got []string
	InTop(t, d, "t", []string{"1"}, func(root string) { got = Tree(root) })
	require.Equal(t, []string{"d/", "f:2", "h:1", "i:1"}, got)
}

// stagedAreHidden: what a driver stages is there from Publish on, in its
// order or not, and goes with Unstage and Sweep until then.
func stagedAreHidden(t *testing.T, b *bench) {
	d, ok := b.d.(driver.Stager)
	if !ok {
		_, stages := b.d.(interface {
			Stage(context.Context, string, io.Reader, archive.Limits) (archive.Stats, error)
		})
		require.False(t, stages, "half a Stager")
		return
	}
	stage := func(id string, es ...Entry) error {
		_, err := d.Stage(context.Background(), id, bytes.NewReader(Layer(t, es...)), archive.Limits{})
		return err
	}
	for _, id := range []string{"1", "2", "3"} {
		require.NoError(t, stage(id, Entry{Name: "f" + id, Body: id}))
		require.False(t, b.d.Has(id))
	}
	require.NoError(t, stage("3", Entry{Name: "g", Body: "again"}))
	layers, _, err := b.d.List()
	require.NoError(t, err)
	require.Empty(t, layers)
	require.ErrorIs(t, b.d.Create("t", []string{"1"}, 0), driver.ErrMissing)
	require.NoError(t, d.Unstage("1"))
	require.NoError(t, d.Unstage("1"))
	require.Error(t, d.Unstage("../d"))
	require.NoError(t, d.Publish("3", "2"))
	b.shows([]string{"3", "2"}, "f2:2", "g:again")
	require.Error(t, d.Publish("1"), "it was taken away")
	require.ErrorIs(t, stage("4", Entry{Name: "f", Body: "x"}, Entry{Name: "../f"}), archive.ErrHostile)
	require.Empty(t, Tree(filepath.Join(b.root, "t")))
	require.NoError(t, stage("4", Entry{Name: "f"}))
	require.NoError(t, b.d.Sweep())
	require.Empty(t, Tree(filepath.Join(b.root, "t")))
	require.Error(t, d.Publish("4"))
}
