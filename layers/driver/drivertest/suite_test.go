package drivertest

import (
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
)

// A check that fails ends its goroutine, and nobody waits for it.
func TestElsewhere(t *testing.T) {
	require.ErrorContains(t, elsewhere(func() error { runtime.Goexit(); return nil }), "a check inside the mount failed")
	require.NoError(t, elsewhere(func() error { return nil }))
}
