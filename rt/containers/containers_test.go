package containers

import (
	"errors"
	"log/slog"
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"

	"github.com/coble-os/coble/rt/fault"
	"github.com/coble-os/coble/rt/store"
)

// free lets everybody have any name: the table keeps them apart itself.
type free struct{}

func (free) Add(*bolt.Tx, string, string) error    { return nil }
func (free) Rename(*bolt.Tx, string, string) error { return nil }
func (free) Remove(*bolt.Tx, string) error         { return nil }

func open(t *testing.T) *Table {
	s, err := store.Open(t.TempDir(), t.TempDir(), free{})
	require.NoError(t, err)
	t.Cleanup(func() { s.Close() })
	return New(s, "/root", "/run", slog.New(slog.DiscardHandler))
}

func none() error { return nil }

func TestTable(t *testing.T) {
	tab := open(t)
	web, err := tab.Create(store.Spec{ID: "aa11", Name: "web"}, none, nil)
	require.NoError(t, err)
	_, err = tab.Create(store.Spec{ID: "aa22", Name: "db"}, none, nil)
	require.NoError(t, err)

	// While the layer is made the name is taken, and finds nobody.
	_, err = tab.Create(store.Spec{ID: "cc33", Name: "new"}, func() error {
		_, err := tab.Find("new")
		require.Equal(t, fault.NotFound, fault.KindOf(err))
		_, err = tab.Create(store.Spec{ID: "dd44", Name: "new"}, none, nil)
		require.Equal(t, fault.Conflict, fault.KindOf(err))
		return errors.New("no room")
	}, nil)
	require.EqualError(t, err, "create container new: no room")
	_, err = tab.Create(store.Spec{ID: "dd44", Name: "new"}, none, nil)
	require.NoError(t, err, "a name is free again when nothing has come of its container")

	for ref, kind := range map[string]fault.Kind{"": fault.NotFound, "aa": fault.Invalid, "x": fault.NotFound, "/nobody": fault.NotFound} {
		_, err := tab.Find(ref)
		require.Equal(t, kind, fault.KindOf(err), ref)
	}
	for _, ref := range []string{"web", "/web", "aa1", "aa11"} {
		c, err := tab.Find(ref)
		require.NoError(t, err, ref)
		require.Same(t, web, c)
	}
	require.Equal(t, fault.Conflict, fault.KindOf(tab.Rename(web, "db")))
	require.NoError(t, tab.Rename(web, "www"))
	require.Equal(t, "www", web.Spec().Name)
	_, err = tab.Find("web")
	require.Error(t, err)
}

// Who waits sees each end, and the removal when nothing of the container is left.
func TestAwait(t *testing.T) {
	tab := open(t)
	c, err := tab.Create(store.Spec{ID: "aa11", Name: "web"}, none, nil)
	require.NoError(t, err)
	c.SetState(func(st *store.State) { st.Status = container.StateRunning })
	require.True(t, c.Running())
	got := make(chan store.State)
	wait := func(until func(st store.State, exits int, removed bool) bool) {
		st, _ := c.Await(t.Context(), until)
		got <- st
	}
	go wait(func(_ store.State, exits int, _ bool) bool { return exits > 0 })
	c.EndRun(func(st *store.State) { st.Status, st.ExitCode = container.StateExited, 3 })
	require.Equal(t, 3, (<-got).ExitCode)

	cleaned := false
	go wait(func(_ store.State, _ int, removed bool) bool { return removed })
	require.EqualError(t, tab.Remove(c, func() error {
		require.Nil(t, tab.ByID("aa11"))
		require.False(t, c.Removed())
		cleaned = true
		return errors.New("busy")
	}), "busy")
	<-got
	require.True(t, cleaned)
	require.Equal(t, fault.NotFound, fault.KindOf(tab.Remove(c, none)))
}
