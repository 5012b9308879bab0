package job

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/coble-os/coble/layers/blob"
	"github.com/coble-os/coble/rt/fault"
)

func TestRun(t *testing.T) {
	tab := NewTable()
	Register(tab, "length", func(j *Job, in string) (int, error) {
		if in == "" {
			return 7, errors.New("empty")
		}
		blob.Wrote(j.Context(), 5)
		j.Note("counted")
		_, err := io.WriteString(j.Stdout, "ok")
		return len(in), err
	})
	Register(tab, "nothing", func(*Job, struct{}) (any, error) { return nil, nil })
	require.Panics(t, func() { Register(tab, "nothing", func(*Job, struct{}) (any, error) { return nil, nil }) })

	var out strings.Builder
	n, err := Run[int](t.Context(), tab, "length", "four", Streams{Stdout: &out}, "about", "four")
	require.NoError(t, err)
	require.Equal(t, 4, n)
	require.Equal(t, "ok", out.String())
	n, err = Run[int](t.Context(), tab, "length", "", Streams{})
	require.EqualError(t, err, "empty")
	require.Zero(t, n, "an error comes without a result")
	p, err := Run[*int](t.Context(), tab, "nothing", struct{}{}, Streams{})
	require.NoError(t, err)
	require.Nil(t, p)
	_, err = Run[string](t.Context(), tab, "length", "four", Streams{})
	require.EqualError(t, err, "job length: result is int, and must be what *string points to")
	require.EqualError(t, Do(t.Context(), tab, "length", 4), "job length: input is int, and must be what *string points to")
	require.Equal(t, fault.Unsupported, fault.KindOf(Do(t.Context(), tab, "fly", nil)))

	all := tab.List()
	require.Len(t, all, 5)
	require.EqualValues(t, 5, tab.Count())
	first := all[0]
	require.Equal(t, Info{ID: 1, Name: "length", Args: []string{"about", "four"}, Note: "counted", Written: 5, Started: first.Started, Ended: first.Ended}, first)
	require.False(t, first.Ended.IsZero())
	require.Equal(t, 1, all[1].Status)
	require.Equal(t, "empty", all[1].Error)
}

func TestKill(t *testing.T) {
	tab := NewTable()
	begun := make(chan struct{})
	Register(tab, "sleep", func(j *Job, _ struct{}) (any, error) {
		close(begun)
		<-j.Context().Done()
		return nil, context.Cause(j.Context())
	})
	ended := make(chan error)
	go func() { ended <- Do(t.Context(), tab, "sleep", struct{}{}) }()
	<-begun
	require.True(t, tab.List()[0].Ended.IsZero())
	require.Equal(t, fault.NotFound, fault.KindOf(tab.Kill(2)))
	require.NoError(t, tab.Kill(1))
	require.ErrorIs(t, <-ended, context.Canceled)
	require.Equal(t, fault.NotFound, fault.KindOf(tab.Kill(1)))
}

// Of jobs that have ended only the last are remembered.
func TestKeep(t *testing.T) {
	tab := NewTable()
	Register(tab, "nothing", func(*Job, struct{}) (any, error) { return nil, nil })
	for range keep + 10 {
		require.NoError(t, Do(t.Context(), tab, "nothing", struct{}{}))
	}
	all := tab.List()
	require.Len(t, all, keep)
	require.EqualValues(t, 11, all[0].ID)
}
