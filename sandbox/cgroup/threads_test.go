package cgroup

import (
	"context"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestLeaderless is also the program that TestKillLeaderless starts: its first thread ends, the others go on.
func TestLeaderless(t *testing.T) {
	if os.Getenv("COBLE_LEADERLESS") == "" {
		t.Skip("it is the program of TestKillLeaderless")
	}
	for range 200 {
		go func() {
			runtime.LockOSThread()
			if unix.Gettid() == unix.Getpid() {
				unix.RawSyscall(unix.SYS_EXIT, 0, 0, 0)
			}
			time.Sleep(time.Minute)
		}()
	}
	time.Sleep(time.Minute)
}

// TestKillLeaderless: a process whose first thread is a zombie and whose others run is killed and waited for, so that
// its group can be removed.
func TestKillLeaderless(t *testing.T) {
	needRoot(t)
	g := legacy(t, nil)
	cmd := exec.Command(os.Args[0], "-test.run=^TestLeaderless$")
	cmd.Env = append(os.Environ(), "COBLE_LEADERLESS=1")
	require.NoError(t, cmd.Start())
	defer func() { _ = cmd.Wait() }()
	defer func() { _ = cmd.Process.Kill() }()
	require.NoError(t, g.Add(cmd.Process.Pid))
	require.Eventually(t, func() bool {
		b, err := os.ReadFile("/proc/" + strconv.Itoa(cmd.Process.Pid) + "/stat")
		return err == nil && strings.Contains(string(b), ") Z ")
	}, 10*time.Second, 5*time.Millisecond, "its first thread ends")
	require.False(t, zombie(cmd.Process.Pid))
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	require.NoError(t, g.Kill(ctx))
	require.NoError(t, g.Remove())
	require.True(t, zombie(cmd.Process.Pid))
}
