package engine

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"

	"github.com/coble-os/coble/layers/graph"
	"github.com/coble-os/coble/layers/image"
	"github.com/coble-os/coble/netcfg"
	"github.com/coble-os/coble/rt/containers"
	"github.com/coble-os/coble/rt/execdriver"
	"github.com/coble-os/coble/rt/job"
	"github.com/coble-os/coble/rt/networkdriver"
	"github.com/coble-os/coble/rt/request"
	"github.com/coble-os/coble/rt/store"
)

// specOf is what the engine makes of a request, with the parts that chance decides held still.
func specOf(t *testing.T, in request.Create) store.Spec {
	t.Helper()
	in.Config.Image = "box"
	require.NoError(t, request.Check(in, execdriver.Machine()))
	var img image.Image
	img.Config.Env, img.Config.Cmd = []string{"PATH=/bin", "LANG=C"}, []string{"sh"}
	spec, err := request.Record(in, img, containers.NewID(), now())
	require.NoError(t, err)
	if spec.Config.Hostname == spec.ID[:12] {
		spec.Config.Hostname = "0123456789ab"
	}
	return spec
}

// A record is plain data: it comes back from the store as it went in.
func TestRecordsSerialise(t *testing.T) {
	s, err := store.Open(t.TempDir(), t.TempDir(), names{})
	require.NoError(t, err)
	defer s.Close()
	seconds := 7
	spec := specOf(t, request.Create{
		Name: "web", Origin: "container.web", Hash: "abc",
		Config: container.Config{Env: []string{"A=1"}, StopTimeout: &seconds},
		Host:   container.HostConfig{Binds: []string{"/a:/b"}, Tmpfs: map[string]string{"/t": ""}, Resources: container.Resources{Memory: 32 << 20}},
	})
	spec.WantRunning, spec.LastExit, spec.Address = true, &store.State{ExitCode: 3, StartedAt: now()}, "10.88.0.2"
	require.NoError(t, s.AddContainer(spec))
	all, err := s.Containers()
	require.NoError(t, err)
	require.Len(t, all, 1)
	require.JSONEq(t, asJSON(t, spec), asJSON(t, all[0]))

	st := store.State{Status: container.StateRunning, Pid: 7, StartTime: 1 << 40, StartedAt: now(), Run: 3, HostIf: "cv1", Ports: []store.PortLease{{Proto: "tcp", HostPort: 80, ContainerPort: 8080}}, RestartCount: 2}
	require.NoError(t, s.PutState(spec.ID, st))
	back, ok, err := s.State(spec.ID)
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, st, back)

	var taken store.ErrNameTaken
	other := spec
	other.ID = containers.NewID()
	require.ErrorAs(t, s.AddContainer(other), &taken)
	require.Equal(t, spec.ID, taken.Holder)
	renamed, err := s.Rename(spec, "www")
	require.NoError(t, err)
	require.NoError(t, s.AddContainer(other), "the old name is free")
	require.NoError(t, s.RemoveContainer(renamed))
	_, ok, err = s.State(spec.ID)
	require.NoError(t, err)
	require.False(t, ok)
}

func asJSON(t *testing.T, v any) string {
	b, err := json.Marshal(v)
	require.NoError(t, err)
	return string(b)
}

// An engine that dies before its launch has ended leaves the launch to the next one; after it, nobody launches again.
func TestLaunchIsDoneOnce(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: run as root or make test-vm")
	}
	dir, err := os.MkdirTemp("/tmp", "cbe")
	require.NoError(t, err)
	o := Options{Root: dir + "/root", Run: dir + "/run", Network: networkdriver.Config{Subnet: "10.213.77.0/29"}}
	engine := func() *Engine {
		e, err := Open(o)
		require.NoError(t, err)
		return e
	}
	var e *Engine
	defer os.RemoveAll(dir)
	defer func() {
		require.NoError(t, netcfg.CleanUp(e.Net.Default().Bridge, e.name))
		e.Close()
	}()
	for range 2 {
		e = engine()
		require.True(t, e.isFresh())
		require.NoError(t, e.Close())
	}
	e = engine()
	require.NoError(t, job.Do(e.ctx, e.Jobs, "launch", LaunchIn{}))
	require.False(t, e.isFresh())
	require.NoError(t, e.Close())
	e = engine()
	require.False(t, e.isFresh())
	require.NoError(t, job.Do(e.ctx, e.Jobs, "shutdown", struct{}{}))
	require.NoError(t, e.Close())
	e = engine()
	require.True(t, e.isFresh(), "after a polite stop everything that is wanted starts again")
}

// An older coble kept names in a bucket of their own: they move into the graph, where the store goes on with them.
func TestNamesMoveIntoTheGraph(t *testing.T) {
	root, run := t.TempDir(), t.TempDir()
	db, err := bolt.Open(filepath.Join(root, "coble.db"), 0o600, nil)
	require.NoError(t, err)
	require.NoError(t, db.Update(func(tx *bolt.Tx) error {
		b, err := tx.CreateBucket([]byte("names"))
		require.NoError(t, err)
		require.NoError(t, b.Put([]byte("web"), []byte("1111")))
		return b.Put([]byte("db"), []byte("2222"))
	}))
	require.NoError(t, db.Close())
	for range 2 {
		s, err := store.Open(root, run, names{})
		require.NoError(t, err)
		var taken store.ErrNameTaken
		require.ErrorAs(t, s.AddContainer(store.Spec{ID: "3333", Name: "web"}), &taken)
		require.Equal(t, store.ErrNameTaken{Name: "web", Holder: "1111"}, taken)
		require.NoError(t, s.Durable.View(func(tx *bolt.Tx) error {
			require.Nil(t, tx.Bucket([]byte("names")))
			require.Nil(t, tx.Bucket([]byte("containers")).Get([]byte("3333")), "nothing is left of what failed")
			return nil
		}))
		require.NoError(t, s.Close())
	}
	s, err := store.Open(root, run, names{})
	require.NoError(t, err)
	defer s.Close()
	third := store.Spec{ID: "3333", Name: "new"}
	require.NoError(t, s.AddContainer(third))
	_, err = s.Rename(third, "db")
	require.ErrorIs(t, err, store.ErrNameTaken{Name: "db", Holder: "2222"})
	third, err = s.Rename(third, "newer")
	require.NoError(t, err)
	require.NoError(t, s.AddContainer(store.Spec{ID: "4444", Name: "new"}), "the old name is free")
	require.NoError(t, s.RemoveContainer(third))
	require.NoError(t, s.AddContainer(store.Spec{ID: "5555", Name: "newer"}))
	require.NoError(t, s.Durable.View(func(tx *bolt.Tx) error {
		g, err := graph.Open(tx, "layers")
		require.NoError(t, err)
		require.Empty(t, g.Check())
		require.Equal(t, []string{"path:/db", "path:/new", "path:/newer", "path:/web"}, g.Names("path:"))
		require.Len(t, g.Names("container:"), 4)
		return nil
	}))
}
