package engine

import (
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/stretchr/testify/require"

	"github.com/coble-os/coble/rt/containers"
	"github.com/coble-os/coble/rt/store"
)

func TestPlanRestart(t *testing.T) {
	const short, long = time.Second, time.Minute
	for _, c := range []struct {
		policy  string
		retries int
		count   int
		code    int
		asked   bool
		ran     time.Duration
		again   bool
		delay   time.Duration
	}{
		{"no", 0, 0, 1, false, short, false, 0},
		{"", 0, 0, 1, false, short, false, 0},
		{"always", 0, 0, 0, false, short, true, 100 * time.Millisecond},
		{"always", 0, 1, 0, false, short, true, 200 * time.Millisecond},
		{"always", 0, 4, 0, false, short, true, 1600 * time.Millisecond},
		{"always", 0, 50, 0, false, short, true, time.Minute},
		{"always", 0, 1 << 30, 0, false, short, true, time.Minute},
		{"always", 0, 50, 0, false, long, true, 100 * time.Millisecond},
		{"always", 0, 0, 0, true, short, false, 0},
		{"unless-stopped", 0, 2, 9, false, short, true, 400 * time.Millisecond},
		{"unless-stopped", 0, 2, 9, true, short, false, 0},
		{"on-failure", 0, 7, 0, false, short, false, 0},
		{"on-failure", 0, 7, 1, false, long, true, 100 * time.Millisecond},
		{"on-failure", 3, 2, 1, false, short, true, 400 * time.Millisecond},
		{"on-failure", 3, 3, 1, false, short, false, 0},
	} {
		p := container.RestartPolicy{Name: container.RestartPolicyMode(c.policy), MaximumRetryCount: c.retries}
		got := planRestart(p, store.State{RestartCount: c.count, ExitCode: c.code, StopAsked: c.asked}, c.ran)
		require.Equal(t, c.again, got.again, "%+v", c)
		if c.again {
			require.Equal(t, c.delay, got.delay, "%+v", c)
			require.Equal(t, c.count+1, got.count)
		}
	}
}

func TestWantedAtBoot(t *testing.T) {
	ran := &store.State{StartedAt: time.Unix(1, 0)}
	for _, c := range []struct {
		policy string
		want   bool // what the user last asked for
		last   *store.State
		code   int
		start  bool
	}{
		{"no", true, ran, 1, false},
		{"always", true, ran, 0, true},
		{"always", false, ran, 0, true}, // stopped by hand: "always" comes back with the daemon
		{"always", false, nil, 0, false},
		{"always", false, &store.State{}, 0, false}, // never started
		{"unless-stopped", true, ran, 0, true},
		{"unless-stopped", false, ran, 0, false},
		{"on-failure", true, ran, 0, false},
		{"on-failure", true, ran, 1, true},
		{"on-failure", false, ran, 1, false},
	} {
		v := containers.View{State: store.State{ExitCode: c.code}}
		v.WantRunning, v.LastExit, v.Host.RestartPolicy.Name = c.want, c.last, container.RestartPolicyMode(c.policy)
		require.Equal(t, c.start, wantedAtBoot(v), "%+v", c)
	}
}

func TestStopOrder(t *testing.T) {
	view := func(id string, started int64, st container.ContainerState) containers.View {
		return containers.View{Spec: store.Spec{ID: id}, State: store.State{Status: st, StartedAt: time.Unix(started, 0)}}
	}
	byHand, alsoByHand := view("d", 4, "running"), view("e", 1, "running")
	views := []containers.View{view("b", 2, "running"), byHand, view("gone", 9, "exited"), view("a", 1, "paused"), view("c", 3, "running"), alsoByHand}
	for i, v := range views {
		if v.ID != byHand.ID && v.ID != alsoByHand.ID {
			views[i].Origin = "container." + v.ID
		}
	}
	got := stopOrder(views)
	require.Equal(t, [][]string{{"d", "e"}, {"c"}, {"b"}, {"a"}}, got, "by hand together, then the file's, the last started first")
}
