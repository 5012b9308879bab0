package repo

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/coble-os/coble/layers/blob"
	"github.com/coble-os/coble/layers/catalog"
	"github.com/coble-os/coble/layers/driver"
	"github.com/coble-os/coble/layers/driver/drivertest"
	"github.com/coble-os/coble/layers/graph"
	"github.com/coble-os/coble/layers/image"
)

// leftovers are what pulls that were cut short leave on a disk of 14 MiB.
func leftovers(r *Repo, root, kind string, other []byte) error {
	if kind == "download" {
		return os.WriteFile(filepath.Join(root, "partial", strings.Repeat("ab", 32)), make([]byte, 12<<20), 0o600)
	}
	loaded, err := r.Load(ctx, bytes.NewReader(other), nil)
	if err != nil {
		return err
	}
	err = r.update(func(g graph.Graph) error {
		return keep(g, leasePrefix+"sha256:x", catalog.Target(g, catalog.ImagePrefix+loaded[0].ID.String(), catalog.KindTop))
	})
	if err != nil {
		return err
	}
	if _, err := r.Remove("other:1", false); err != nil {
		return err
	}
	layers, _, err := r.drv.List()
	if err == nil && len(layers) == 0 {
		err = fmt.Errorf("the lease does not keep its layer")
	}
	return err
}

// TestUnreferencedGoesFirst: before a load or pull is refused for want of room, what no image has is removed: when the size is
// known before, when the disk fills up while unpacking, and while spooling.
func TestUnreferencedGoesFirst(t *testing.T) {
	drivertest.NeedRoot(t)
	many := made{label: "many", tags: []string{"many:1"}, layers: [][]byte{manyFiles(t, 600, 10<<10)}}
	one := made{label: "one", tags: []string{"one:1"}, layers: [][]byte{manyFiles(t, 1, 6<<20)}}
	other := made{label: "other", tags: []string{"other:1"}, layers: [][]byte{manyFiles(t, 1, 9<<20)}}
	stranger := tarOf(t, docker(t, blob.Zstd, other)...)
	for _, tc := range []struct {
		name string
		m    made
		c    blob.Compression
		how  string
	}{
		{"known before", one, blob.Plain, "path"},
		{"while unpacking", many, blob.Zstd, "path"},
		{"stream known before", one, blob.Plain, "stream"},
		{"while a stream is unpacked", many, blob.Zstd, "stream"},
		{"while spooling", one, blob.Plain, "spool"},
		{"pull known before", big(t, "random", 6<<20), blob.Gzip, "pull"},
		{"pull while unpacking", many, blob.Gzip, "pull"},
	} {
		for _, kind := range []string{"download", "leased layer"} {
			t.Run(tc.name+" "+kind, func(t *testing.T) {
				raw := tarOf(t, docker(t, tc.c, tc.m)...)
				var from image.Name
				if tc.how == "pull" {
					_, from, _ = offered(t, tc.c, tc.m)
				}
				path, dbDir := write(t, raw), t.TempDir()
				size := 14
				drv := "overlay"
				if tc.how == "spool" {
					size = 15 // spool and layer together
					drv = "vfs"
				}
				var prepared, err error
				var layers []string
				drivertest.InMounts(t, []driver.Mount{{Type: "tmpfs", Source: "tmpfs", Data: fmt.Sprintf("size=%dm", size)}}, func(root string) {
					r, db, oerr := openAt(dbDir, root, drv)
					if oerr != nil {
						prepared = oerr
						return
					}
					defer db.Close()
					r.small = 0
					if prepared = leftovers(r, root, kind, stranger); prepared != nil {
						return
					}
					switch tc.how {
					case "stream", "spool":
						_, err = r.Load(ctx, bytes.NewReader(raw), nil)
					case "pull":
						_, err = pullFrom(ctx, r, from, nil)
					default:
						_, err = r.LoadPath(ctx, path, "", nil)
					}
					layers, _, _ = r.drv.List()
				})
				require.NoError(t, prepared)
				require.NoError(t, err)
				require.Len(t, layers, 1, "the image's own")
			})
		}
	}
}

// TestFreeUpWithoutFolder: a disk that was full at the start had no room for the folder of downloads; layers of leases go
// even so.
func TestFreeUpWithoutFolder(t *testing.T) {
	r := newRepo(t)
	m := made{label: "other", tags: []string{"other:1"}, layers: [][]byte{manyFiles(t, 1, 1<<10)}}
	require.NoError(t, leftovers(r, r.o.Root, "leased layer", tarOf(t, docker(t, blob.Plain, m)...)))
	require.NoError(t, os.RemoveAll(filepath.Join(r.o.Root, "partial")))
	some, err := r.freeUp(0)
	require.NoError(t, err)
	require.True(t, some)
	layers, _, err := r.drv.List()
	require.NoError(t, err)
	require.Empty(t, layers)
}
