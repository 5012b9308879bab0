package store_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/coble-os/coble/layers/catalog"
	"github.com/coble-os/coble/layers/driver/drivertest"
	"github.com/coble-os/coble/rt/store"
)

func TestMain(m *testing.M) { drivertest.Main(m, nil) }

// A record that was written is there after a power cut, from the first on, on every file system.
func TestDurable(t *testing.T) {
	drivertest.NeedRoot(t)
	for _, fs := range drivertest.FileSystems() {
		t.Run(fs.Name, func(t *testing.T) {
			c, run := fs.Cuts(t), t.TempDir()
			s, err := store.Open(c.Dir, run, catalog.Containers{})
			require.NoError(t, err)
			for _, id := range []string{"a", "b"} {
				require.NoError(t, s.AddContainer(store.Spec{ID: id, Name: "name" + id}))
				c.Answered(id, func(t *testing.T, dir string) {
					s, err := store.Open(dir, t.TempDir(), catalog.Containers{})
					require.NoError(t, err)
					defer s.Close()
					all, err := s.Containers()
					require.NoError(t, err)
					require.NotEmpty(t, all)
					require.Equal(t, "name"+id, all[len(all)-1].Name)
				})
			}
			require.NoError(t, s.Close())
			c.Check()
		})
	}
}
