package syscalls

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestCalls: the tables are as the code expects them.
func TestCalls(t *testing.T) {
	require.True(t, slices.IsSortedFunc(calls[:], func(a, b call) int {
		if a.name < b.name {
			return -1
		}
		return 1
	}))
	for i, c := range calls {
		require.Equal(t, i, Find(c.name), c.name)
		for _, nr := range c.nr {
			require.True(t, nr >= -1 && (nr < Ordinary || nr >= Private), "%s %v", c.name, c.nr)
		}
	}
	for _, name := range []string{"", "a", "read ", "zzz", "READ"} {
		require.Equal(t, -1, Find(name), name)
	}
}
