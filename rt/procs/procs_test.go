package procs

import (
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/require"
)

const stat = "7 (od) d (x) S 1 7 6 34817 7 4194560 1 2 3 4 150 50 0 0 20 5 3 0 360000 8192000 25 18446744073709551615 0 0 0 0 0 0 0 0 0 0 0 0 17 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n"

func procfs() fstest.MapFS {
	return fstest.MapFS{
		"7/stat":    {Data: []byte(stat)},
		"7/status":  {Data: []byte("Name:\tod\nUid:\t0\t1000\t0\t0\n")},
		"7/cmdline": {Data: []byte("sleep\x00two words\x00")},
	}
}

func TestRead(t *testing.T) {
	p, err := Read(procfs(), 7, 4096)
	require.NoError(t, err)
	require.Equal(t, Process{
		Pid: 7, Parent: 1, Group: 7, Session: 6, UID: 1000, Name: "od) d (x", Args: []string{"sleep", "two words"}, State: "S", TTY: 34817,
		CPU: 2 * time.Second, Started: time.Hour, Threads: 3, Nice: 5, Priority: 20, Virtual: 8192000, Resident: 102400,
	}, p)
	_, err = Read(procfs(), 8, 4096)
	require.Error(t, err)
	for _, bad := range []string{"", "7", "7 (x", "7 (x) S 1", "7 (x) " + strings.Repeat("y ", 40)} {
		_, err := parseStat([]byte(bad), 1)
		require.Error(t, err, bad)
	}
}

func TestTable(t *testing.T) {
	p, err := Read(procfs(), 7, 4096)
	require.NoError(t, err)
	c := Clock{
		Now: time.Date(2026, 3, 4, 15, 30, 0, 0, time.UTC), Uptime: time.Hour + 200*time.Second, Memory: 1024000,
		UserName: func(uid uint32) string { return "u" + strconv.Itoa(int(uid)) },
	}
	for args, want := range map[string]string{
		"":                   "UID PID PPID C STIME TTY TIME CMD|u1000 7 1 1 15:26 pts/1 00:00:02 sleep two words",
		"-ef":                "UID PID PPID C STIME TTY TIME CMD|u1000 7 1 1 15:26 pts/1 00:00:02 sleep two words",
		"aux":                "USER PID %CPU %MEM VSZ RSS TTY STAT START TIME COMMAND|u1000 7 1.0 10.0 8000 100 pts/1 S 15:26 00:00:02 sleep two words",
		"-o pid,args":        "PID COMMAND|7 sleep two words",
		"-eo pid=P,comm":     "P COMMAND|7 od) d (x",
		"-opid -o etime,uid": "PID ELAPSED UID|7 00:03:20 1000",
	} {
		names, err := Columns(args)
		require.NoError(t, err, args)
		titles, rows := Table(names, []Process{p}, c)
		require.Equal(t, want, strings.Join(titles, " ")+"|"+strings.Join(rows[0], " "), args)
	}
	for _, bad := range []string{"-o", "-o nope", "--forest", "-Z", "-o pid,"} {
		_, err := Columns(bad)
		require.Error(t, err, bad)
	}
	for _, n := range strings.Fields(known) {
		_, ok := columnOf(n)
		require.True(t, ok, n)
	}
	p.Args = nil
	require.Equal(t, "[od) d (x]", command(p))
	require.Equal(t, "2-01:00:05", clockTime(49*time.Hour+5*time.Second))
}

func FuzzColumns(f *testing.F) {
	f.Add("-eo pid,args")
	f.Fuzz(func(t *testing.T, args string) {
		if names, err := Columns(args); err == nil {
			Table(names, []Process{{}}, Clock{UserName: func(uint32) string { return "" }})
		}
	})
}
