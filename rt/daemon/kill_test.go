package daemon_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/rt/logs"
	"github.com/coble-os/coble/sandbox/cgroup"
)

// An engine killed fifty times while a container prints as fast as it can: no line is lost or doubled.
func TestFiftyKillsLoseNoLine(t *testing.T) {
	const lines, kills = 1_000_000, 50
	m := newMachine(t, "")
	m.loadBox()
	// The test lets go of so many lines before each kill: more than the pipe holds, so that every kill hits a container
	// that prints, however the machine shares its time.
	const batch = lines / kills
	gate := t.TempDir()
	script := fmt.Sprintf("i=0; while [ $i -lt %d ]; do while [ ! -e /gate/$i ]; do sleep 0.01; done; n=$((i+%d)); while [ $i -lt $n ]; do i=$((i+1)); echo $i; done; done; exit 7", lines, batch)
	id := m.start("printer", func(r *request) { r.HostConfig.Binds = []string{gate + ":/gate:ro"} }, "sh", "-c", script)
	pid := m.inspect(id).State.Pid
	for kill := range kills - 1 {
		require.NoError(t, os.WriteFile(fmt.Sprintf("%s/%d", gate, kill*batch), nil, 0o644))
		// A killer that is always as late as the last time would always hit the same place.
		time.Sleep(time.Duration(rand.IntN(40)) * time.Millisecond)
		m.awaitEngine(m.killEngine())
		v := m.inspect(id)
		require.True(t, v.State.Running)
		require.Equal(t, pid, v.State.Pid, "the container keeps its process")
	}
	// The last kill comes when the end is near, or past: it must not matter.
	require.NoError(t, os.WriteFile(fmt.Sprintf("%s/%d", gate, (kills-1)*batch), nil, 0o644))
	m.awaitEngine(m.killEngine())
	require.Equal(t, 7, m.wait(id))

	l, err := logs.Open(logs.Options{LogDir: m.root() + "/containers/" + id + "/log", MaxSize: 20 << 20, MaxFiles: 5})
	require.NoError(t, err)
	next := 0
	err = l.Read(context.Background(), logs.ReadOptions{Streams: map[byte]bool{1: true, 2: true}, Tail: -1}, func(r logs.Record) error {
		if next++; string(r.Data) != strconv.Itoa(next)+"\n" {
			return fmt.Errorf("line %d of the log is %q", next, r.Data)
		}
		return nil
	})
	require.NoError(t, err)
	require.Equal(t, lines, next, "lines in the log")
}

// An engine that dies in the middle of a start leaves nothing that no record claims.
func TestKillsInTheMiddleOfAStart(t *testing.T) {
	m := newMachine(t, "")
	m.loadBox()
	for try := range 20 {
		name := fmt.Sprintf("c%d", try)
		id := m.create(name, func(r *request) { r.HostConfig.NetworkMode = "bridge" }, "sleep", "1000")
		c, err := net.Dial("unix", m.sock())
		require.NoError(t, err)
		_, err = fmt.Fprintf(c, "POST /v1.43/containers/%s/start HTTP/1.1\r\nHost: coble\r\n\r\n", id)
		require.NoError(t, err)
		time.Sleep(time.Duration(try*600) * time.Microsecond) // a start takes about 10 ms: hit all of it
		m.awaitEngine(m.killEngine())
		c.Close()
		// The next engine never heard of the start, brings it to an end, or finds the request in the socket that the
		// keeper kept: what it says and what the kernel holds must come to agree.
		m.checkClaims(id)
		require.Empty(t, m.inspect(id).State.Error, "try %d", try)
		m.do("DELETE", "/containers/"+id+"?force=1", nil)
		m.checkClaims()
	}
}

// checkClaims waits until the kernel holds what the engine says of the containers named, and nothing else.
func (m *machine) checkClaims(ids ...string) {
	m.t.Helper()
	var left, want, nobodys []string
	agree := func() bool {
		want, nobodys = nil, nil
		pids := []int{m.enginePid()}
		for _, id := range ids {
			switch s := m.inspect(id).State; {
			case s.Status == "running" && alive(s.Pid):
				want = append(want, "cgroup "+id, "link cv"+id[:10])
				pids = append(pids, s.Pid)
			case s.Status != "created" || s.Pid != 0:
				nobodys = append(nobodys, fmt.Sprintf("state %+v", s))
			}
		}
		slices.Sort(want)
		left = m.left()
		for _, pid := range append(children(m.cmd.Process.Pid), children(m.enginePid())...) {
			if !slices.Contains(pids, pid) {
				nobodys = append(nobodys, fmt.Sprintf("process %d", pid))
			}
		}
		entries, err := os.ReadDir(m.run() + "/c")
		require.NoError(m.t, err)
		for _, d := range entries {
			if !slices.Contains(ids, d.Name()) {
				nobodys = append(nobodys, "run folder "+d.Name())
			}
		}
		mounts, err := os.ReadFile("/proc/" + strconv.Itoa(m.enginePid()) + "/mountinfo")
		require.NoError(m.t, err)
		if strings.Contains(string(mounts), m.run()+"/c/") {
			nobodys = append(nobodys, "mounts of a container in the engine's namespace")
		}
		return len(nobodys) == 0 && slices.Equal(left, want)
	}
	for deadline := time.Now().Add(patience); !agree(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			require.Equal(m.t, want, left, "what the kernel holds")
			require.Empty(m.t, nobodys, "what nobody claims")
		}
	}
}

// A second daemon on the same folders is refused, and the first one does not notice.
func TestSecondDaemonIsRefused(t *testing.T) {
	m := newMachine(t, "")
	pid := m.enginePid()
	cmd := secondDaemon(m)
	out, err := cmd.CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(out), fmt.Sprintf("runs in %s already, as process %d", m.run(), m.cmd.Process.Pid))
	require.Equal(t, pid, m.enginePid())
	require.Equal(t, "OK", m.do("GET", "/_ping", nil))
}

// A keeper that is killed takes nothing with it: the next daemon adopts what runs, and says what it can't know.
func TestKilledKeeperLeavesContainersRunning(t *testing.T) {
	m := newMachine(t, "")
	m.loadBox()
	stays := m.start("stays", nil, "sleep", "1000")
	ends := m.start("ends", nil, "sleep", "1001")
	pid, other := m.inspect(stays).State.Pid, m.inspect(ends).State.Pid
	engine := m.enginePid()
	require.NoError(t, m.cmd.Process.Kill())
	m.cmd.Wait()
	m.until("the engine sees its keeper's end, or is killed", func() bool {
		unix.Kill(engine, unix.SIGKILL)
		return !alive(engine)
	})
	require.NoError(t, unix.Kill(other, unix.SIGKILL))
	m.until("the end of the other container", func() bool { return !alive(other) })
	m.boot()
	v := m.inspect(stays)
	require.True(t, v.State.Running)
	require.Equal(t, pid, v.State.Pid)
	v = m.inspect(ends)
	require.False(t, v.State.Running)
	require.Contains(t, v.State.Error, "unknown")
	m.do("DELETE", "/containers/"+stays+"?force=1", nil)
	require.False(t, alive(pid))
}

// TestSweepsWhatNobodyClaims: whatever an engine that died had begun to make for a container without a record is gone
// when the next one answers, processes included.
func TestSweepsWhatNobodyClaims(t *testing.T) {
	m := newMachine(t, "")
	m.loadBox()
	m.start("kept", nil, "sleep", "1000")
	g, err := cgroup.Create("/"+m.name()+"/nobody", nil)
	require.NoError(t, err)
	stray := exec.Command("/bin/busybox", "sleep", "1000")
	require.NoError(t, stray.Start())
	require.NoError(t, g.Add(stray.Process.Pid))
	ended := make(chan error, 1)
	go func() { ended <- stray.Wait() }()
	dirs := []string{m.run() + "/c/nobody/spool", m.root() + "/containers/nobody/log"}
	for _, d := range dirs {
		require.NoError(t, os.MkdirAll(d, 0o755))
	}
	m.awaitEngine(m.killEngine())
	select {
	case err := <-ended:
		require.Error(t, err, "killed")
	case <-time.After(patience):
		_ = stray.Process.Kill()
		require.Fail(t, "the stray process lives on")
	}
	for _, d := range append(dirs, g.Dirs()...) {
		require.NoDirExists(t, d)
	}
	require.Equal(t, 0, m.exec("kept", "true"), "and nothing of those who have one")
}
