package graph

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

func inGraph(t *testing.T, fn func(Graph)) {
	t.Helper()
	db, err := bbolt.Open(filepath.Join(t.TempDir(), "db"), 0o600, nil)
	require.NoError(t, err)
	defer db.Close()
	require.NoError(t, db.View(func(tx *bbolt.Tx) error {
		g, err := Open(tx, "g")
		require.NoError(t, err)
		require.False(t, g.Has("a"), "a graph that was never written to is empty")
		require.Empty(t, g.Names(""))
		require.Empty(t, g.Edges("a", ""))
		_, err = g.Get("a")
		require.ErrorIs(t, err, ErrNotFound)
		return nil
	}))
	require.NoError(t, db.Update(func(tx *bbolt.Tx) error {
		g, err := Open(tx, "g")
		require.NoError(t, err)
		fn(g)
		return nil
	}))
}

func TestNodesAndEdges(t *testing.T) {
	inGraph(t, func(g Graph) {
		for _, n := range []string{"a", "b", "b2", "c"} {
			require.NoError(t, g.Put(n, []byte("v"+n)))
		}
		require.NoError(t, g.Link(Edge{"a", "k", "b"}))
		require.NoError(t, g.Link(Edge{"a", "k", "b"}))
		require.NoError(t, g.Link(Edge{"a", "k2", "b"}))
		require.NoError(t, g.Link(Edge{"c", "k", "b"}))
		require.NoError(t, g.Link(Edge{"c", "k", "b2"}))

		v, err := g.Get("a")
		require.NoError(t, err)
		require.Equal(t, "va", string(v))
		require.Equal(t, []string{"b", "b2"}, g.Names("b"))
		require.Equal(t, []Edge{{"a", "k", "b"}, {"a", "k2", "b"}}, g.Edges("a", ""))
		require.Equal(t, []Edge{{"a", "k", "b"}, {"c", "k", "b"}}, g.Referrers("b", "k"), "b2's are not b's")
		require.NoError(t, g.Unlink(Edge{"a", "k", "b"}))
		require.Equal(t, []Edge{{"a", "k2", "b"}, {"c", "k", "b"}}, append(g.Edges("a", ""), g.Referrers("b", "k")...))
	})
}

func TestNoDanglingEdges(t *testing.T) {
	inGraph(t, func(g Graph) {
		require.NoError(t, g.Put("a", nil))
		require.ErrorIs(t, g.Link(Edge{"a", "k", "b"}), ErrNotFound)
		require.ErrorIs(t, g.Link(Edge{"b", "k", "a"}), ErrNotFound)
		require.NoError(t, g.Put("b", nil))
		require.True(t, g.Has("b"), "a node without a value is a node")
		require.NoError(t, g.Link(Edge{"a", "k", "b"}))
		require.ErrorIs(t, g.Delete("b"), ErrReferenced)
		require.NoError(t, g.Delete("a"))
		require.Empty(t, g.Referrers("b", ""))
		require.NoError(t, g.Delete("b"))
		require.ErrorIs(t, g.Delete("b"), ErrNotFound)
	})
}

func TestNoCircles(t *testing.T) {
	inGraph(t, func(g Graph) {
		for _, n := range []string{"a", "b", "c"} {
			require.NoError(t, g.Put(n, nil))
		}
		require.NoError(t, g.LinkAcyclic(Edge{"a", "k", "b"}))
		require.NoError(t, g.LinkAcyclic(Edge{"b", "k", "c"}))
		require.ErrorIs(t, g.LinkAcyclic(Edge{"c", "k", "a"}), ErrCycle)
		require.ErrorIs(t, g.LinkAcyclic(Edge{"a", "k", "a"}), ErrCycle)
		require.NoError(t, g.LinkAcyclic(Edge{"c", "other", "a"}))
		var seen []string
		require.NoError(t, g.Walk("a", "k", func(n string) error { seen = append(seen, n); return nil }))
		require.Equal(t, []string{"a", "b", "c"}, seen)
	})
}

func TestBadNames(t *testing.T) {
	inGraph(t, func(g Graph) {
		require.ErrorIs(t, g.Put("", nil), ErrName)
		require.ErrorIs(t, g.Put("a\x00b", nil), ErrName)
		require.NoError(t, g.Put("a", nil))
		require.ErrorIs(t, g.Link(Edge{"a", "", "a"}), ErrName)
		require.ErrorIs(t, g.Link(Edge{"a", "k\x00", "a"}), ErrName)
	})
}
