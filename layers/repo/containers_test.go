package repo

import (
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"

	"github.com/coble-os/coble/layers/catalog"
	"github.com/coble-os/coble/layers/graph"
	"github.com/coble-os/coble/layers/image"
)

func TestContainersInTheGraph(t *testing.T) {
	r := newRepo(t)
	m := simple(t, "a", "a:1")
	id := loadMade(t, r, m)
	other := simple(t, "b", "b:1")
	loadMade(t, r, other)
	const key = "0123456789abcdef"
	require.NoError(t, r.CreateLayer(key, id, 0))
	do := func(fn func(tx *bbolt.Tx) error) error { return r.o.DB.Update(fn) }
	require.NoError(t, do(func(tx *bbolt.Tx) error { return catalog.Containers{}.Add(tx, key, "web") }))
	err := do(func(tx *bbolt.Tx) error { return catalog.Containers{}.Add(tx, "fedc", "web") })
	require.Equal(t, &catalog.NameTakenError{Name: "web", Holder: key}, err)
	require.NoError(t, r.view(func(g graph.Graph) error { require.False(t, g.Has("container:fedc")); return nil }))
	require.ErrorIs(t, r.RemoveLayer(key), graph.ErrReferenced, "a container's layer stays as long as the container")

	for _, about := range []string{"web", "/web", key, key[:6], "container:" + key} {
		v, err := r.Graph(about)
		require.NoError(t, err, about)
		require.Equal(t, "container:"+key, v.About)
		kinds := map[string]int{}
		for _, n := range v.Nodes {
			kinds[n.Kind]++
		}
		require.Equal(t, map[string]int{"path": 1, "container": 1, "rw": 1, "image": 1, "layer": 2}, kinds, "not the other image")
	}
	// The lowest layer is shared: both images and the container use it.
	v, err := r.Graph(m.chains(t)[0].Encoded()[:12])
	require.NoError(t, err)
	require.Equal(t, catalog.LayerPrefix+m.chains(t)[0].String(), v.About)
	require.Len(t, v.Nodes, 10)
	v, err = r.Graph("a:1")
	require.NoError(t, err)
	require.Equal(t, catalog.ImagePrefix+id.String(), v.About)
	all, err := r.Graph("")
	require.NoError(t, err)
	require.Len(t, all.Nodes, 10)
	_, err = r.Graph("none")
	require.ErrorIs(t, err, image.ErrNotFound)

	require.NoError(t, do(func(tx *bbolt.Tx) error { return catalog.Containers{}.Rename(tx, "web", "www") }))
	_, err = r.Graph("web")
	require.ErrorIs(t, err, image.ErrNotFound)
	require.NoError(t, do(func(tx *bbolt.Tx) error { return catalog.Containers{}.Remove(tx, key) }))
	require.NoError(t, do(func(tx *bbolt.Tx) error { return catalog.Containers{}.Remove(tx, key) }), "one that is gone is no error")
	require.NoError(t, r.RemoveLayer(key))
	for _, n := range []string{"a:1", "b:1"} {
		_, err := r.Remove(n, false)
		require.NoError(t, err)
	}
	all, err = r.Graph("")
	require.NoError(t, err)
	require.Empty(t, all.Nodes)
}
