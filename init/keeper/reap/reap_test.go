package reap

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestStartTime(t *testing.T) {
	for in, want := range map[string]uint64{
		"1 (a) S 0 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 9 9":        4242,
		"1 (a) b) ) S 0 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 9 9":   4242,
		"1 (\n 7 7) Z 0 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 9 9\n": 4242,
		"": 0, "1 (a": 0, "1 (a) S 0": 0, "1 (a) S 0 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 x": 0,
	} {
		require.Equal(t, want, StartTime([]byte(in)), in)
	}
	stat, err := os.ReadFile("/proc/self/stat")
	require.NoError(t, err)
	require.NotZero(t, StartTime(stat))
}

func FuzzStartTime(f *testing.F) {
	f.Add([]byte("1 (a) S 0 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242"))
	f.Fuzz(func(_ *testing.T, data []byte) { StartTime(data) })
}
