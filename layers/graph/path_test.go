package graph

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPaths(t *testing.T) {
	inGraph(t, func(g Graph) {
		for _, n := range []string{"c1", "c2", "c3"} {
			require.NoError(t, g.Put(n, nil))
		}
		require.NoError(t, g.SetPath("/web", "c1"))
		require.NoError(t, g.SetPath("/web", "c1"), "the same again")
		require.NoError(t, g.SetPath("/db", "c2"))
		require.NoError(t, g.SetPath("/web/db", "c2"))
		require.NoError(t, g.SetPath("/web/db/x", "c3"))
		var taken *TakenError
		require.ErrorAs(t, g.SetPath("/web", "c2"), &taken)
		require.Equal(t, TakenError{"/web", "c1"}, *taken)
		require.ErrorIs(t, g.SetPath("/none/db", "c2"), ErrNotFound)
		require.ErrorIs(t, g.SetPath("/new", "c9"), ErrNotFound)
		require.False(t, g.Has("path:/new"), "nothing is left of what failed")
		for _, bad := range []string{"", "/", "web", "/web/", "//web", "/web/../x", "/a\x00b"} {
			require.ErrorIs(t, g.SetPath(bad, "c1"), ErrName, bad)
		}
		require.Equal(t, []string{"/db", "/web/db"}, g.Paths("c2"))
		require.ErrorIs(t, g.Delete("c2"), ErrReferenced, "a path never means what is gone")
		require.ErrorIs(t, g.DropPath("/web"), ErrReferenced)
		require.ErrorIs(t, g.DropPath("/none"), ErrNotFound)

		require.ErrorIs(t, g.MovePath("/web", "/web/sub"), ErrCycle)
		require.ErrorAs(t, g.MovePath("/web", "/db"), &taken)
		require.NoError(t, g.MovePath("/web", "/www"))
		for p, want := range map[string]string{"/www": "c1", "/www/db": "c2", "/www/db/x": "c3", "/db": "c2"} {
			got, err := g.Resolve(p)
			require.NoError(t, err, p)
			require.Equal(t, want, got)
		}
		_, err := g.Resolve("/web/db")
		require.ErrorIs(t, err, ErrNotFound)
		require.Empty(t, g.Check())
		for _, p := range []string{"/www/db/x", "/www/db", "/www", "/db"} {
			require.NoError(t, g.DropPath(p))
		}
		require.NoError(t, g.Delete("c2"))
		require.Empty(t, g.Names(PathPrefix))
	})
}
