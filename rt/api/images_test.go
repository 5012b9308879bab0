package api

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/coble-os/coble/layers/repo"
)

// TestEarlyProgress: before an archive is at its end, only so much is told as a socket holds that nobody reads from.
func TestEarlyProgress(t *testing.T) {
	var e earlyProgress
	shown := 0
	for range 100_000 {
		if e.shows(repo.Progress{Status: repo.Unpacking}) {
			shown++
		}
	}
	require.Equal(t, maxEarlyProgress, shown)
	require.True(t, e.shows(repo.Progress{Index: 1, Status: repo.Done}), "the archive has come")
}
