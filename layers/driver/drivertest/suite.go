// Package drivertest is the conformance suite of graph drivers: what package
// driver's contract says, tried on a real kernel. Every driver runs it.
package drivertest

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/layers/archive"
	"github.com/coble-os/coble/layers/driver"
)

// Open makes the driver under test in a folder.
type Open func(root string) (driver.Driver, error)

// NeedRoot skips a test that can't run without root.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: run as root or make test-vm")
	}
}

// Run runs the whole suite on the file system that dir, a folder, lies on; ""
// is that of temporary files. Cases named in without are left out.
func Run(t *testing.T, dir string, open Open, without ...string) {
	NeedRoot(t)
	for name, fn := range map[string]func(*testing.T, *bench){
		"stack": stackShows, "opaque": opaqueHides, "types": typesChange, "links": linksStay,
		"properties": propertiesStay, "changes": changesAreListed, "size": sizeCounts,
		"failed unpack": failedUnpack, "sweep": sweepRemoves, "missing": missingIsSaid,
		"remove": removeIsIdempotent, "empty": emptyStack, "ids": badIDs, "immutable": layersStay, "open layer": layerOpens, "diff": diffIsALayer, "deep": deepStack,
		"links astray": linksAstray, "odd names": oddNames, "one image twice": twoTops, "at once": atOnce, "cancelled": cancelled, "mounted again": mountedAgain, "staged": stagedAreHidden, "full disk": fullDisk, "killed": killed,
	} {
		if slices.Contains(without, name) {
			continue
		}
		t.Run(name, func(t *testing.T) {
			root := filepath.Join(TempIn(t, dir), "drv")
			open := func(root string) (driver.Driver, error) {
				d, err := open(root)
				if c, ok := d.(io.Closer); ok && err == nil {
					t.Cleanup(func() { _ = c.Close() })
				}
				return d, err
			}
			d, err := open(root)
			require.NoError(t, err)
			fn(t, &bench{t: t, d: d, root: root, open: open, dir: dir})
		})
	}
}

// TempIn makes a folder in dir that goes with the test, as t.TempDir does for
// "".
func TempIn(t testing.TB, dir string) string {
	t.Helper()
	if dir == "" {
		return t.TempDir()
	}
	p, err := os.MkdirTemp(dir, "test")
	require.NoError(t, err)
	return p
}

type bench struct {
	t    *testing.T
	d    driver.Driver
	root string
	open Open
	dir  string // on the file system under test; "" is that of temporary files
}

// small is a file system of the same kind, of about 150 MiB.
func (b *bench) small(t *testing.T) string {
	t.Helper()
	var st unix.Statfs_t
	require.NoError(t, unix.Statfs(b.root, &st))
	switch uint32(st.Type) {
	case unix.BTRFS_SUPER_MAGIC:
		return Btrfs(t, 150)
	case unix.XFS_SUPER_MAGIC:
		return Disk(t, 330, "", "mkfs.xfs", "-q") // it makes no smaller one
	}
	return Disk(t, 150, "", "mkfs.ext4", "-q")
}

// Entry is one entry of a made-up layer.
type Entry struct {
	Name, Link, Body string
	Kind             byte // 0 for a regular file, or for a folder if Name ends in /
	Mode             int64
	Uid              int
	Attrs            map[string]string // extended attributes
}

// Layer makes a plain tar of entries.
func Layer(t testing.TB, es ...Entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range es {
		h := &tar.Header{
			Name: e.Name, Linkname: e.Link, Typeflag: e.Kind, Mode: e.Mode, Uid: e.Uid,
			Size: int64(len(e.Body)), ModTime: time.Unix(1_000_000_000, 0), PAXRecords: map[string]string{},
		}
		if e.Kind == 0 {
			h.Typeflag = tar.TypeReg
			if strings.HasSuffix(e.Name, "/") {
				h.Typeflag = tar.TypeDir
			}
		}
		if h.Mode == 0 {
			h.Mode = 0o755
		}
		for k, v := range e.Attrs {
			h.PAXRecords["SCHILY.xattr."+k] = v
		}
		require.NoError(t, w.WriteHeader(h))
		_, err := io.WriteString(w, e.Body)
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	return b.Bytes()
}

func (b *bench) unpack(id string, stack []string, es ...Entry) {
	b.t.Helper()
	_, err := b.d.Unpack(context.Background(), id, stack, bytes.NewReader(Layer(b.t, es...)), archive.Limits{})
	require.NoError(b.t, err)
}

// InTop mounts a top in a mount namespace of its own, which ends with the
// call, and runs fn with the path of its root.
func InTop(t testing.TB, d driver.Driver, id string, stack []string, fn func(root string)) {
	t.Helper()
	ms, err := d.Mounts(id, stack)
	require.NoError(t, err)
	InMounts(t, ms, fn)
}

// InMounts mounts ms in a mount namespace of its own and runs fn there. What
// fn requires must not call runtime.Goexit on the test: it runs in another
// goroutine, and a panic or Goexit there is reported.
func InMounts(t testing.TB, ms []driver.Mount, fn func(root string)) {
	t.Helper()
	ready, release, err := driver.Attach(ms)
	require.NoError(t, err)
	defer release()
	root := t.TempDir()
	require.NoError(t, elsewhere(func() error { return private(ready, root, fn) }))
}

// elsewhere runs f in a goroutine of its own, which ends where a check of
// package require fails.
func elsewhere(f func() error) error {
	done := make(chan error, 1)
	go func() {
		err := errors.New("a check inside the mount failed")
		defer func() { done <- err }()
		err = f()
	}()
	return <-done
}

func private(ms []driver.Mount, root string, fn func(string)) error {
	runtime.LockOSThread() // never unlocked: the thread and its namespace end here
	if unix.Gettid() == unix.Getpid() {
		// The main thread would outlive the goroutine: leave it alone.
		defer runtime.UnlockOSThread()
		return elsewhere(func() error { return private(ms, root, fn) })
	}
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	for _, m := range ms {
		if err := m.Do(root); err != nil {
			return err
		}
	}
	defer unix.Unmount(root, unix.MNT_DETACH)
	fn(root)
	return nil
}

// Tree lists what is below root as "path:content", "path/" for folders and
// "path>target" for symlinks, sorted.
func Tree(root string) []string {
	var out []string
	_ = filepath.WalkDir(root, func(p string, e os.DirEntry, err error) error {
		if err != nil || p == root {
			return err
		}
		rel := strings.TrimPrefix(p, root+"/")
		switch {
		case e.IsDir():
			rel += "/"
		case e.Type()&os.ModeSymlink != 0:
			to, _ := os.Readlink(p)
			rel += ">" + to
		case e.Type().IsRegular():
			body, _ := os.ReadFile(p)
			rel += ":" + string(body)
		default:
			rel += "!" + e.Type().String()
		}
		out = append(out, rel)
		return nil
	})
	sort.Strings(out)
	return out
}

// shows makes a top over the stack and compares what it shows.
func (b *bench) shows(stack []string, want ...string) {
	b.t.Helper()
	require.NoError(b.t, b.d.Create("zz", stack, 0))
	var got []string
	InTop(b.t, b.d, "zz", stack, func(root string) { got = Tree(root) })
	require.NoError(b.t, b.d.RemoveTop("zz"))
	sort.Strings(want)
	require.Equal(b.t, want, got)
}
