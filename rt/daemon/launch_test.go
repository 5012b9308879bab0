package daemon_test

import (
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/rt/job"
)

// launched starts a daemon whose file begins with the image "box".
func launched(t *testing.T, sections string) *machine {
	t.Helper()
	archive := t.TempDir() + "/box.tar"
	require.NoError(t, os.WriteFile(archive, boxArchive(t), 0o644))
	return newMachine(t, fmt.Sprintf("[image.box]\nsource = %q\n%s", archive, sections))
}

// settle waits until no launch job is running any more, and n have run.
func (m *machine) settle(n int) {
	m.t.Helper()
	m.until("the launcher's end", func() bool {
		var jobs []job.Info
		require.NoError(m.t, json.Unmarshal([]byte(m.do("GET", "/coble/jobs", nil)), &jobs))
		done := 0
		for _, j := range jobs {
			if j.Name == "launch" && !j.Ended.IsZero() {
				done++
			}
		}
		return done >= n
	})
}

func section(name, more string) string {
	return fmt.Sprintf("[container.%s]\nimage = \"box\"\nnetwork = \"none\"\n%s\n", name, more)
}

// sleeps ends at once when it is stopped: process 1 of a container ignores the other signals.
const sleeps = "command = [\"sleep\", \"1000\"]\nstop_signal = \"KILL\""

func TestLaunchFromFile(t *testing.T) {
	m := launched(t, section("third", sleeps+"\nafter = [\"second\"]")+section("second", sleeps+"\nafter = [\"first\"]")+section("first", sleeps)+
		section("bad", sleeps+"\ncolour = \"blue\"")+section("worse", `command = ["nosuchcommand"]`+"\nrestart = \"no\""))
	m.settle(1)
	var at []string
	pids := map[string]int{}
	for _, name := range []string{"first", "second", "third"} {
		v := m.inspect(name)
		require.True(t, v.State.Running, "%s: a bad section does not stop the others", name)
		at = append(at, v.State.StartedAt)
		pids[name] = v.State.Pid
	}
	require.True(t, at[0] < at[1] && at[1] < at[2], "the order of after: %v", at)
	require.Equal(t, 127, m.inspect("worse").State.ExitCode)
	status, _ := m.call("GET", "/containers/bad/json", nil)
	require.Equal(t, 404, status)

	// Another engine leaves them alone.
	m.awaitEngine(m.killEngine())
	m.settle(1)
	for name, pid := range pids {
		require.Equal(t, pid, m.inspect(name).State.Pid)
	}

	// A section that goes takes its container along; one that changes makes its container anew; the rest stays.
	b, err := os.ReadFile(m.dir + "/coble.toml")
	require.NoError(t, err)
	text := strings.Replace(string(b), section("third", sleeps+"\nafter = [\"second\"]"), "", 1)
	text = strings.Replace(text, section("first", sleeps), section("first", sleeps+"\nenv = { A = \"b\" }"), 1)
	m.writeConfig(text)
	byHand := m.start("byhand", nil, "sleep", "1000")
	require.NoError(t, unix.Kill(m.enginePid(), unix.SIGHUP))
	m.settle(2)
	status, _ = m.call("GET", "/containers/third/json", nil)
	require.Equal(t, 404, status)
	require.False(t, alive(pids["third"]))
	require.Equal(t, pids["second"], m.inspect("second").State.Pid)
	v := m.inspect("first")
	require.True(t, v.State.Running)
	require.NotEqual(t, pids["first"], v.State.Pid)
	require.Contains(t, v.Config.Env, "A=b")
	require.True(t, m.inspect(byHand).State.Running, "what was made by hand is nobody's section")
}

// A mistake in a section does not remove the container that the section had made.
func TestMistakeKeepsTheContainer(t *testing.T) {
	m := launched(t, section("web", sleeps))
	m.settle(1)
	pid := m.inspect("web").State.Pid
	require.True(t, alive(pid))
	b, err := os.ReadFile(m.dir + "/coble.toml")
	require.NoError(t, err)
	m.writeConfig(string(b) + "colour = \"blue\"\n")
	require.NoError(t, unix.Kill(m.enginePid(), unix.SIGHUP))
	m.settle(2)
	require.Equal(t, pid, m.inspect("web").State.Pid)
}

// Reading the file again does not start what somebody has stopped since.
func TestReloadLeavesStoppedAlone(t *testing.T) {
	m := launched(t, section("web", sleeps))
	m.settle(1)
	hand := m.start("hand", func(r *request) { r.HostConfig.RestartPolicy.Name = "always" }, "sleep", "1000")
	for _, name := range []string{"web", hand} {
		m.do("POST", "/containers/"+name+"/stop", nil)
	}
	require.NoError(t, unix.Kill(m.enginePid(), unix.SIGHUP))
	m.settle(2)
	m.awaitEngine(m.killEngine())
	m.settle(1)
	for _, name := range []string{"web", hand} {
		require.False(t, m.inspect(name).State.Running, name)
	}
}

// A polite stop and a new start: containers of the file start again, those made by hand as their policy says.
func TestStopAndStartAgain(t *testing.T) {
	m := launched(t, section("web", sleeps))
	m.settle(1)
	for _, policy := range []string{"no", "always", "unless-stopped"} {
		for _, stopped := range []string{"ran", "stopped"} {
			id := m.start(policy+"-"+stopped, func(r *request) {
				r.StopSignal, r.HostConfig.RestartPolicy.Name = "KILL", container.RestartPolicyMode(policy)
			}, "sleep", "1000")
			if stopped == "stopped" {
				m.do("POST", "/containers/"+id+"/stop", nil)
			}
		}
	}
	m.stop()
	require.Empty(t, m.left(), "a polite stop leaves no process")
	m.boot()
	m.settle(1)
	for name, running := range map[string]bool{
		"web": true, "no-ran": false, "no-stopped": false, "always-ran": true, "always-stopped": true, "unless-stopped-ran": true, "unless-stopped-stopped": false,
	} {
		require.Equal(t, running, m.inspect(name).State.Running, name)
	}
	require.Equal(t, 137, m.inspect("no-ran").State.ExitCode, "how it ended is known after a boot")
	require.Contains(t, m.do("GET", "/containers/json?filters="+url.QueryEscape(`{"status":["running"]}`), nil), "always-ran")
}
