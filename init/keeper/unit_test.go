package keeper

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/init/keeper/reap"
)

func TestBackOff(t *testing.T) {
	want := []time.Duration{100, 100, 200, 400, 800, 1600, 3200, 6400, 10000, 10000}
	for failures, ms := range want {
		require.Equal(t, ms*time.Millisecond, backOff(failures, false), "after %d failures", failures)
	}
	require.Equal(t, 10*time.Second, backOff(1<<30, false))
	for failures, ms := range []time.Duration{0, 0, 100, 300, 500, 500} {
		require.Equal(t, ms*time.Millisecond, backOff(failures, true), "after %d failures of a ready engine", failures)
	}
	require.Equal(t, 500*time.Millisecond, backOff(1<<30, true))
}

func TestExitTableIsBounded(t *testing.T) {
	var table exitTable
	for i := range MaxExits + 10 {
		table.add(reap.Exit{PID: i + 1})
	}
	require.Len(t, table.entries, MaxExits)
	require.Equal(t, 11, table.entries[0].PID, "the oldest go first")
}

// A reader that is slow gets everything once, in order, with READY at the right
// place, whatever is added and forgotten meanwhile.
func TestExitsArriveOnceInOrder(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	var table exitTable
	var want []string
	for i := range 3000 {
		table.add(reap.Exit{PID: i + 1, Start: 5, Status: 9})
	}
	for i := range 3000 {
		want = append(want, fmt.Sprintf("EXIT %d 5 9\n", i+1))
	}
	table.rewind()
	table.send(pair[0])
	require.True(t, table.pending(), "the socket holds less than 3000")
	table.forget(1, 5) // was sent: changes nothing for this reader
	table.forget(3000, 5)
	table.forget(3000, 6) // not there
	want = append(want[:2999], "READY\n")
	table.add(reap.Exit{PID: 4000, Start: 5, Status: 9})
	want = append(want, "EXIT 4000 5 9\n")

	var got []string
	buf := make([]byte, 100)
	for range 100 {
		for {
			n, err := unix.Read(pair[1], buf)
			require.NoError(t, err)
			got = append(got, string(buf[:n]))
			if set := []unix.PollFd{{Fd: int32(pair[1]), Events: unix.POLLIN}}; pollNow(set) == 0 {
				break
			}
		}
		if !table.pending() {
			break
		}
		table.send(pair[0])
	}
	require.Equal(t, want, got)
}

func pollNow(set []unix.PollFd) int {
	n, _ := unix.Poll(set, 0)
	return n
}

func TestStoreIsBounded(t *testing.T) {
	var s fdStore
	require.NoError(t, s.add("x", make([]int, maxFDs)))
	require.Error(t, s.add("y", []int{0}))
	s = fdStore{}
	require.Error(t, s.add(strings.Repeat("n", 255), make([]int, maxNames/256+1)), "one string of execve must hold all names")
	require.NoError(t, s.add(strings.Repeat("n", 255), make([]int, maxNames/256)))
}

func TestStateIsRefused(t *testing.T) {
	for _, bad := range []string{
		"", "coble-keeper 2\n", "coble-keeper 1\n", "coble-keeper 1\nsockets 3 x\n",
		"coble-keeper 1\nsockets 3 4\nsent 5 true 0\n",
	} {
		k := &keeper{log: &logger{out: &strings.Builder{}}}
		require.Error(t, k.parseState(bad), bad)
	}
}

func FuzzParseState(f *testing.F) {
	f.Add("coble-keeper 1\nsockets 3 4\nengine 5 6 true false 0\noom 0\nstoptime 6\nfd 7 a\nexit 8 9 0\nsent 1 true 1\n")
	f.Fuzz(func(_ *testing.T, s string) {
		k := &keeper{log: &logger{out: &strings.Builder{}}}
		_ = k.parseState(s)
	})
}
