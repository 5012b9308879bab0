package server_test

import (
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"

	"github.com/coble-os/coble/layers/driver/drivertest"
	"github.com/coble-os/coble/layers/registry/server"
)

func TestMain(m *testing.M) { drivertest.Main(m, nil) }

// at is a place whose transactions are synced.
func at(t testing.TB, dir string) *place {
	db, err := bbolt.Open(filepath.Join(dir, "db"), 0o600, nil)
	require.NoError(t, err)
	t.Cleanup(func() { db.Close() })
	return &place{dir, db}
}

// What was pushed is there after a power cut, on every file system.
func TestDurable(t *testing.T) {
	drivertest.NeedRoot(t)
	body := []byte(strings.Repeat("0123456789abcdef", 1<<12))
	for _, fs := range drivertest.FileSystems() {
		t.Run(fs.Name, func(t *testing.T) {
			c := fs.Cuts(t)
			p := at(t, c.Dir)
			s := p.serve(t, server.Access{})
			// Room in the store: growing would sync what comes next as well.
			room := []byte("room")
			require.NoError(t, p.db.Update(func(tx *bbolt.Tx) error {
				b, err := tx.CreateBucket(room)
				if err != nil {
					return err
				}
				return b.Put(room, make([]byte, 1<<20))
			}))
			require.NoError(t, p.db.Update(func(tx *bbolt.Tx) error { return tx.DeleteBucket(room) }))
			d := s.push("a", body)
			c.Answered("blob", func(t *testing.T, dir string) {
				p := at(t, dir)
				defer p.db.Close()
				a := p.serve(t, server.Access{}).do("GET", "/v2/a/blobs/"+d.String(), nil)
				require.Equal(t, http.StatusOK, a.status, a.body)
				require.True(t, a.body == string(body), "it has %d bytes", len(a.body))
			})
			m := s.image("a", "1", body, nil)
			c.Answered("manifest", func(t *testing.T, dir string) {
				p := at(t, dir)
				defer p.db.Close()
				a := p.serve(t, server.Access{}).do("GET", "/v2/a/manifests/1", nil)
				require.Equal(t, http.StatusOK, a.status, a.body)
				require.Equal(t, m.String(), a.header.Get("Docker-Content-Digest"))
			})
			require.NoError(t, p.db.Close())
			c.Check()
		})
	}
}
