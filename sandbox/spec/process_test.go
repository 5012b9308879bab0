package spec

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCPUMask(t *testing.T) {
	for list, want := range map[string][]byte{
		"0": {1, 0, 0, 0, 0, 0, 0, 0}, "0-3, 9": {15, 2, 0, 0, 0, 0, 0, 0}, "64": {0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0},
	} {
		got, err := CPUMask(list)
		require.NoError(t, err, list)
		require.Equal(t, want, got, list)
	}
	for _, bad := range []string{"", "x", "3-1", "-1", "0-99999", "1,,2"} {
		_, err := CPUMask(bad)
		require.Error(t, err, bad)
	}
}
