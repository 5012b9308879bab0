package mounts

import (
	"path"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestUnescape(t *testing.T) {
	for in, want := range map[string]string{
		"/a": "/a", `/a\040b`: "/a b", `/\134x`: `/\x`, `/a\`: `/a\`, `/a\04`: `/a\04`, `/a\999`: `/a\999`,
	} {
		require.Equal(t, want, unescape(in))
	}
}

func TestMountPointsOfThisProcess(t *testing.T) {
	require.Contains(t, mountPoints(), "/proc")
}

func TestFirstMountsHaveTheirParentsFirst(t *testing.T) {
	at := map[string]int{}
	for i, m := range firstMounts() {
		require.NotContains(t, at, m.target)
		at[m.target] = i
	}
	for target, i := range at {
		for parent := path.Dir(target); parent != "/"; parent = path.Dir(parent) {
			if p, ok := at[parent]; ok {
				require.Less(t, p, i, target)
			}
		}
	}
}
