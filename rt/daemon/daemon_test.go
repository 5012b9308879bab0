package daemon_test

import (
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestCommandsThatCannotStart(t *testing.T) {
	m := newMachine(t, "")
	m.loadBox()
	for _, c := range []struct {
		cmd  string
		want string
		code int
	}{
		{"nosuchcommand", "executable file not found", 127},
		{"/bin/nosuchcommand", "no such file or directory", 127},
		{"/etc/plain", "permission denied", 126},
		{"/etc", "permission denied", 126},
	} {
		id := m.create("", nil, c.cmd)
		status, text := m.call("POST", "/containers/"+id+"/start", nil)
		require.Equal(t, 400, status, text)
		require.Contains(t, text, c.cmd)
		require.Contains(t, text, c.want)
		require.Equal(t, c.code, m.inspect(id).State.ExitCode, c.cmd)
		require.False(t, m.inspect(id).State.Running)
	}
	require.Empty(t, m.left(), "a failed start takes everything back")
}

func TestMemoryLimitTooSmallToStart(t *testing.T) {
	m := newMachine(t, "")
	m.loadBox()
	pid := m.enginePid()
	status, text := m.call("POST", "/containers/create?name=less", request{Config: container.Config{Image: "box"}, HostConfig: container.HostConfig{Resources: container.Resources{Memory: 6<<20 - 1}}})
	require.Equal(t, 400, status)
	require.Contains(t, text, "Minimum memory limit")
	// The lowest limit that is allowed: the program needs more than that and is killed, never the engine.
	id := m.start("hungry", func(r *request) { r.HostConfig.Memory, r.HostConfig.MemorySwap = 6<<20, 6<<20 }, "sh", "-c", "a=x; while true; do a=$a$a; done")
	require.Equal(t, 137, m.wait(id))
	require.True(t, m.inspect(id).State.OOMKilled)
	require.Equal(t, pid, m.enginePid(), "the engine lives")
}

func TestNamesAndPortsAreTakenOnce(t *testing.T) {
	m := newMachine(t, "")
	m.loadBox()
	publish := func(r *request) {
		r.HostConfig.NetworkMode = ""
		p, _ := network.PortFrom(80, "tcp")
		r.HostConfig.PortBindings = network.PortMap{p: {{HostPort: "39471"}}}
	}
	first := m.start("first", publish, "sleep", "1000")
	pid := m.inspect(first).State.Pid
	status, text := m.call("POST", "/containers/create?name=first", request{Config: container.Config{Image: "box"}})
	require.Equal(t, 409, status)
	require.Contains(t, text, first, "the message names the holder")

	second := m.create("second", publish, "sleep", "1000")
	status, text = m.call("POST", "/containers/second/start", nil)
	require.Equal(t, 409, status)
	require.Contains(t, text, "39471")
	require.Contains(t, text, "container first")
	require.True(t, alive(pid))
	require.Equal(t, pid, m.inspect(first).State.Pid, "the first goes on")

	m.do("DELETE", "/containers/"+first+"?force=1", nil)
	m.do("POST", "/containers/"+second+"/start", nil)
}

func TestCrashAtOnceBacksOff(t *testing.T) {
	m := newMachine(t, "")
	m.loadBox()
	id := m.start("crash", func(r *request) { r.HostConfig.RestartPolicy.Name = "always" }, "sh", "-c", "echo run; exit 3")
	m.until("four restarts", func() bool { return m.inspect(id).RestartCount >= 4 })
	// Delays double from 100 ms, so the restarts so far took 100+200+400+800 ms at least, and the log has one line each.
	v := m.inspect(id)
	require.LessOrEqual(t, strings.Count(m.logs(id), "run\n"), v.RestartCount+2)
	require.Less(t, v.RestartCount, 8, "a busy loop would have counted far")
	require.Equal(t, 3, v.State.ExitCode)
	m.do("POST", "/containers/"+id+"/stop", nil)
	v = m.inspect(id)
	require.Equal(t, "exited", string(v.State.Status))
	m.killEngine()
	m.awaitEngine(0)
	require.Equal(t, v.RestartCount, m.inspect(id).RestartCount, "stopped is stopped, whoever asks")
}

func TestExitWhileNoEngineIsUp(t *testing.T) {
	m := newMachine(t, "")
	m.loadBox()
	gate := t.TempDir()
	id := m.start("short", func(r *request) { r.HostConfig.Binds = []string{gate + ":/gate"} }, "sh", "-c", "while [ ! -e /gate/go ]; do sleep 0.01; done; echo last; exit 42")
	pid := m.inspect(id).State.Pid
	// The engine is stopped before it is killed, so that it can't see the end.
	engine := m.enginePid()
	require.NoError(t, unix.Kill(engine, unix.SIGSTOP))
	require.NoError(t, os.WriteFile(gate+"/go", nil, 0o644))
	m.until("the container's end", func() bool {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return err != nil || strings.Contains(string(b), ") Z ")
	})
	m.killEngine()
	m.awaitEngine(engine)
	require.Equal(t, 42, m.wait(id))
	require.Equal(t, "last\n", m.logs(id))
	require.Empty(t, m.inspect(id).State.Error)
}

func TestAttachRoundTrip(t *testing.T) {
	m := newMachine(t, "")
	m.loadBox()
	id := m.create("cat", func(r *request) { r.OpenStdin, r.StdinOnce = true, true }, "cat")
	c, r := m.attach(id)
	m.do("POST", "/containers/"+id+"/start", nil)
	const text = "one\ntwo\nthree without an end"
	_, err := io.WriteString(c, text)
	require.NoError(t, err)
	require.NoError(t, c.CloseWrite())
	require.Equal(t, text, demux(t, r), "what goes in comes out, and the end too")
	require.Equal(t, 0, m.wait(id))
	require.Equal(t, text, m.logs(id))
}

func TestTerminalRoundTrip(t *testing.T) {
	m := newMachine(t, "")
	m.loadBox()
	id := m.create("tty", func(r *request) { r.OpenStdin, r.Tty = true, true }, "sh", "-c", "stty size; read line; echo got $line; exit 5")
	first, _ := m.attach(id)
	m.do("POST", "/containers/"+id+"/start", nil)
	m.do("POST", "/containers/"+id+"/resize?h=33&w=99", nil)
	// A terminal outlives the engine.
	old := m.killEngine()
	m.awaitEngine(old)
	first.Close()
	c, r := m.attach(id)
	m.do("POST", "/containers/"+id+"/resize?h=40&w=120", nil)
	_, err := io.WriteString(c, "hello\r")
	require.NoError(t, err)
	b, err := io.ReadAll(r)
	require.NoError(t, err)
	require.Contains(t, string(b), "got hello\r\n")
	require.Equal(t, 5, m.wait(id))
}

func TestHundredContainersLeaveNothing(t *testing.T) {
	m := newMachine(t, "")
	m.loadBox()
	bridge := func(r *request) { r.HostConfig.NetworkMode = "bridge" }
	one := func(i int) {
		id := m.start(fmt.Sprintf("c%d", i), bridge, "true")
		require.Equal(t, 0, m.wait(id))
		m.do("DELETE", "/containers/"+id, nil)
	}
	one(0) // whatever the first one makes for good
	count := func() int {
		fds, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", m.enginePid()))
		kfds, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", m.cmd.Process.Pid))
		return len(fds) + len(kfds)
	}
	before := count()
	for i := range 100 {
		one(i + 1)
	}
	m.until("descriptors go back to what they were", func() bool { return count() <= before })
	require.Empty(t, m.left())
	for _, dir := range []string{m.run() + "/c", m.root() + "/containers"} {
		m.until(dir+" is empty", func() bool { d, _ := os.ReadDir(dir); return len(d) == 0 })
	}
}
