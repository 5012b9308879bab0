package repo

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/layers/blob"
	"github.com/coble-os/coble/layers/driver/drivertest"
	"github.com/coble-os/coble/layers/fsck"
	"github.com/coble-os/coble/layers/image"
	"github.com/coble-os/coble/layers/unpacked"
)

// withRoom makes a store whose file has room for what a test writes: the
// sync of one that grows would write the journal of its file system, and with
// it names that nobody has synced.
func withRoom(t testing.TB, path string) {
	db, err := bbolt.Open(path, 0o600, nil)
	require.NoError(t, err)
	name := []byte("room")
	require.NoError(t, db.Update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucket(name)
		if err != nil {
			return err
		}
		return b.Put(name, make([]byte, 4<<20))
	}))
	require.NoError(t, db.Update(func(tx *bbolt.Tx) error { return tx.DeleteBucket(name) }))
	require.NoError(t, db.Close())
}

// What was answered is all on the disk at that moment, whatever the file
// system: a power cut leaves it.
func TestDurable(t *testing.T) {
	drivertest.NeedRoot(t)
	for _, fs := range drivertest.FileSystems() {
		for drv, is := range map[string]bool{"overlay": true, "vfs": fs.Name == "ext4", "btrfs": fs.Name == "btrfs"} {
			if is {
				t.Run(drv+" on "+fs.Name, func(t *testing.T) { durableLife(t, fs.Cuts(t), drv) })
			}
		}
	}
}

func durableLife(t *testing.T, c *drivertest.Cuts, drv string) {
	withRoom(t, filepath.Join(c.Dir, "db"))
	r, db := where{c.Dir, drv}.open(t)
	r.small = 0
	var ids []digest.Digest
	answered := func(name string, id digest.Digest, tops ...string) {
		ids = append(ids, id)
		want := slices.Clone(ids)
		c.Answered(name, func(t *testing.T, dir string) {
			r, db := where{dir, drv}.open(t)
			defer db.Close()
			found, err := r.Check(ctx, fsck.Options{})
			require.NoError(t, err)
			require.Empty(t, found)
			for _, id := range want {
				img, err := r.Get(id.String())
				require.NoError(t, err)
				for _, chain := range image.ChainIDs(img.RootFS) {
					_, err := readLayer(r, chain)
					require.NoError(t, err)
				}
			}
			for _, key := range tops {
				_, err := r.Mounts(key, "/")
				require.NoError(t, err)
			}
		})
	}
	load := func(name, label string, passing bool) digest.Digest {
		m := big(t, label, 40_000, 20_000)
		m.tags = []string{name}
		raw := tarOf(t, docker(t, blob.Plain, m)...)
		var err error
		if passing {
			_, err = r.Load(ctx, io.MultiReader(bytes.NewReader(raw)), nil)
		} else {
			_, err = r.LoadPath(ctx, write(t, raw), "", nil)
		}
		require.NoError(t, err)
		return m.id(t)
	}
	a := load("a:1", "a", false)
	answered("load", a)
	require.NoError(t, r.CreateLayer("c", a, 0))
	answered("create", a, "c")
	answered("load of a stream", load("b:1", "b", true), "c")
	require.NoError(t, changeAndCommit(r, "c", "made:1", "made"))
	made, err := r.Get("made:1")
	require.NoError(t, err)
	answered("commit", made.ID, "c")
	m := big(t, "p", 40_000, 20_000)
	_, n, _ := offered(t, blob.Gzip, m)
	_, err = pullFrom(ctx, r, n, nil)
	require.NoError(t, err)
	answered("pull", m.id(t), "c")
	require.NoError(t, db.Close())
	c.Check()
}

// So are layers' records, where the driver's folder is a disk of its own.
func TestRecordsAreDurableApart(t *testing.T) {
	drivertest.NeedRoot(t)
	for _, fs := range drivertest.FileSystems() {
		t.Run(fs.Name, func(t *testing.T) {
			c := fs.Cuts(t)
			withRoom(t, filepath.Join(c.Dir, "db"))
			at := filepath.Join(c.Dir, "r", "overlay")
			require.NoError(t, os.MkdirAll(at, 0o710))
			require.NoError(t, unix.Mount(drivertest.Disk(t, 64, "", "mkfs.ext4", "-q"), at, "", unix.MS_BIND, ""))
			r, db := where{c.Dir, "overlay"}.open(t)
			loadMade(t, r, simple(t, "a", "a:1"))
			c.Answered("load", func(t *testing.T, dir string) {
				es, err := os.ReadDir(unpacked.MetaDir(filepath.Join(dir, "r")))
				require.NoError(t, err)
				require.Len(t, es, 2)
				for _, e := range es {
					b, err := os.ReadFile(filepath.Join(unpacked.MetaDir(filepath.Join(dir, "r")), e.Name()))
					require.NoError(t, err)
					require.True(t, bytes.HasPrefix(b, []byte("coblerec")))
				}
			})
			require.NoError(t, db.Close())
			require.NoError(t, unix.Unmount(at, 0))
			c.Check()
		})
	}
}
