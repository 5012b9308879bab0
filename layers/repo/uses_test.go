package repo

import (
	"bytes"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/coble-os/coble/layers/blob"
	"github.com/coble-os/coble/layers/driver/drivertest"
)

// TestUse: a use is known exactly while the engine lives, and written down once a day.
func TestUse(t *testing.T) {
	drivertest.NeedRoot(t)
	w := where{dir: t.TempDir()}
	r, db := w.open(t)
	m := simple(t, "x", "x:1")
	_, err := r.Load(t.Context(), bytes.NewReader(tarOf(t, docker(t, blob.Plain, m)...)), nil)
	require.NoError(t, err)
	used := func(r *Repo) time.Time {
		all, sizes, err := r.Holdings()
		require.NoError(t, err)
		require.Len(t, all, 1)
		require.Equal(t, []string{"x:1"}, all[0].Names)
		for _, l := range all[0].Layers {
			require.NotZero(t, sizes[l])
		}
		return all[0].Used
	}
	loaded := used(r)
	require.WithinDuration(t, time.Now(), loaded, time.Minute)
	id, err := r.Get("x:1")
	require.NoError(t, err)
	writes := func(f func()) int64 {
		before := db.Stats().TxStats.Write
		f()
		return db.Stats().TxStats.Write - before
	}
	hour := loaded.Add(time.Hour)
	require.Zero(t, writes(func() { require.NoError(t, r.Use(id.ID, hour)) }), "flash wears out")
	require.True(t, used(r).Equal(hour))
	require.NotZero(t, writes(func() { require.NoError(t, r.Use(id.ID, loaded.Add(25*time.Hour))) }))
	require.Zero(t, writes(func() { require.NoError(t, r.Use(id.ID, loaded.Add(26*time.Hour))) }))
	require.NoError(t, r.Use("sha256:none", hour), "one that is gone")
	require.NoError(t, db.Close())
	r, _ = w.open(t)
	require.True(t, used(r).Equal(loaded.Add(25*time.Hour)), "the next engine knows the day")
	require.NoError(t, r.Use(id.ID, loaded))
	require.True(t, used(r).Equal(loaded), "a clock that ran ahead is put right")
}
