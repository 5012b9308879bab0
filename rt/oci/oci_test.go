package oci

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestRun(t *testing.T) {
	r := newRuntime(t, "echo out; echo err >&2; exit 3")
	out, status := r.do("run", "c")
	require.Equal(t, "out\nerr\n", out)
	require.Equal(t, 3, status)
	require.NoDirExists(t, filepath.Join(r.root, "c"))
	r.spec.Process.Args = []string{"sh", "-c", "kill -KILL $$"}
	r.spec.Linux.Namespaces = slices.DeleteFunc(r.spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.PIDNamespace })
	r.write()
	_, status = r.do("run", "--keep", "c")
	require.Equal(t, 137, status)
	require.Equal(t, specs.StateStopped, r.state("c").Status)
	r.ok("delete", "c")
}

// TestLife: a container's life in the words of the spec, with what each command says when it is not its turn.
func TestLife(t *testing.T) {
	r := newRuntime(t, "exec sleep 1000")
	pidFile := filepath.Join(t.TempDir(), "pid")
	r.ok("create", "--pid-file", pidFile, "c")
	s := r.state("c")
	b, err := os.ReadFile(pidFile)
	require.NoError(t, err)
	require.Equal(t, strconv.Itoa(s.Pid), string(b))
	require.Equal(t, specs.State{
		Version: specs.Version, ID: "c", Status: specs.StateCreated, Pid: s.Pid, Bundle: r.bundle, Annotations: map[string]string{"color": "blue"},
	}, s)
	r.fails(1, "container with given ID already exists", "create", "c")
	r.fails(255, "cannot exec in a container in the created state", "exec", "c", "true")
	r.ok("start", "c")
	require.Equal(t, specs.StateRunning, r.state("c").Status)
	r.fails(1, "cannot start an already running container", "start", "c")
	r.fails(1, "cannot delete container c that is not stopped: running", "delete", "c")
	r.ok("kill", "c", "KILL")
	r.reach("c", specs.StateStopped)
	require.Zero(t, r.state("c").Pid)
	r.fails(1, "container not running", "kill", "c")
	r.fails(1, "cannot start a container that has stopped", "start", "c")
	r.fails(255, "cannot exec in a stopped container", "exec", "c", "true")
	r.ok("delete", "c")
	for _, args := range [][]string{{"state"}, {"start"}, {"kill"}, {"delete"}, {"pause"}, {"resume"}, {"ps"}, {"events"}, {"update"}} {
		r.fails(1, "container does not exist", append(args, "c")...)
	}
	r.ok("delete", "--force", "c")
	r.fails(1, "invalid container ID format", "create", "../c")
	r.fails(1, `\"start\" requires exactly 1 argument(s)`, "start")
	r.fails(1, "JSON specification file config.json not found", "run", "-b", "/", "c")
	r.fails(1, "not supported", "checkpoint", "c")
}

// TestDeleteCreated: a container that was never started is deleted without force.
func TestDeleteCreated(t *testing.T) {
	r := newRuntime(t, "true")
	r.ok("create", "c")
	pid := r.state("c").Pid
	r.ok("delete", "c")
	require.Eventually(t, func() bool { return !alive(pid) }, 5*time.Second, time.Millisecond)
}

// TestWithoutProcess: one is needed for the start, not before. The start has nothing to run, and says so.
func TestWithoutProcess(t *testing.T) {
	r := newRuntime(t, "true")
	r.spec.Process = nil
	r.write()
	r.fails(1, "process property must not be empty", "run", "c")
	r.ok("create", "c")
	require.Equal(t, specs.StateCreated, r.state("c").Status)
	pid := r.state("c").Pid
	require.Contains(t, r.ok("start", "c"), "process property must not be empty")
	require.Equal(t, specs.StateStopped, r.state("c").Status)
	require.False(t, alive(pid))
	r.fails(1, "cannot start a container that has stopped", "start", "c")
	r.ok("delete", "c")
}

func TestDetached(t *testing.T) {
	r := newRuntime(t, "exec sleep 1000")
	pidFile := filepath.Join(t.TempDir(), "pid")
	r.ok("run", "-d", "--pid-file", pidFile, "c")
	s := r.state("c")
	require.Equal(t, specs.StateRunning, s.Status)
	b, err := os.ReadFile(pidFile)
	require.NoError(t, err)
	require.Equal(t, strconv.Itoa(s.Pid), string(b))
	require.Equal(t, "["+strconv.Itoa(s.Pid)+"]\n", r.ok("ps", "--format", "json", "c"))
	require.Regexp(t, `(?s)PID.*sleep 1000`, r.ok("ps", "c"))
	r.ok("delete", "--force", "c")
	require.False(t, alive(s.Pid))
}

func TestErrorsOfStart(t *testing.T) {
	r := newRuntime(t, "true")
	r.spec.Process.Args = []string{"nope"}
	r.write()
	const text = `exec: \"nope\": executable file not found in $PATH`
	r.fails(1, text, "run", "c")
	r.fails(1, text, "create", "c")
	require.NoDirExists(t, filepath.Join(r.root, "c"))
	log := filepath.Join(t.TempDir(), "log")
	out, status := r.do("--log", log, "--log-format", "json", "create", "c")
	require.Equal(t, 1, status)
	require.Equal(t, "runc create failed: unable to start container process: exec: \"nope\": executable file not found in $PATH\n", out)
	b, err := os.ReadFile(log)
	require.NoError(t, err)
	var line struct{ Level, Msg, Time string }
	require.NoError(t, json.Unmarshal(b, &line))
	require.Equal(t, "error", line.Level)
	require.Equal(t, strings.TrimSpace(out), line.Msg)
	_, err = time.Parse(time.RFC3339, line.Time)
	require.NoError(t, err)
}

func TestList(t *testing.T) {
	r := newRuntime(t, "exec sleep 1000")
	require.Equal(t, "null\n", r.ok("list", "--format", "json"))
	r.ok("run", "-d", "one")
	r.spec.Linux.CgroupsPath += "-two"
	r.write()
	r.ok("create", "two")
	require.Equal(t, "one\ntwo\n", r.ok("list", "-q"))
	require.Regexp(t, `(?s)^ID +PID +STATUS +BUNDLE +CREATED +OWNER\none +\d+ +running +.*\ntwo +\d+ +created +/.* root\n$`, r.ok("list"))
	var list []shown
	require.NoError(t, json.Unmarshal([]byte(r.ok("list", "--format", "json")), &list))
	require.Len(t, list, 2)
	require.Equal(t, filepath.Join(r.bundle, "rootfs"), list[0].Rootfs)
	require.Equal(t, "root", list[0].Owner)
	r.ok("delete", "--force", "two")
	r.spec.Linux.CgroupsPath = strings.TrimSuffix(r.spec.Linux.CgroupsPath, "-two")
}

func TestPauseAndUpdate(t *testing.T) {
	r := newRuntime(t, "exec sleep 1000")
	r.ok("run", "-d", "c")
	r.fails(1, "container not paused", "resume", "c")
	r.ok("pause", "c")
	require.Equal(t, statusPaused, r.state("c").Status)
	r.fails(255, "cannot exec in a paused container", "exec", "c", "true")
	r.ok("resume", "c")
	require.Equal(t, specs.StateRunning, r.state("c").Status)
	r.ok("update", "--pids-limit", "77", "--memory", "33554432", "c")
	var e struct {
		Type, ID string
		Data     stats
	}
	require.NoError(t, json.Unmarshal([]byte(r.ok("events", "--stats", "c")), &e))
	require.Equal(t, "stats c", e.Type+" "+e.ID)
	require.Equal(t, uint64(77), e.Data.Pids.Limit)
	require.Equal(t, uint64(1), e.Data.Pids.Current)
	require.Equal(t, uint64(33554432), e.Data.Memory.Usage.Limit)
	require.NotZero(t, e.Data.CPU.Usage.Total)
	file := filepath.Join(t.TempDir(), "limits")
	require.NoError(t, os.WriteFile(file, []byte(`{"memory":{"limit":0},"pids":{"limit":66},"cpu":{"shares":0},"blockIO":{"weight":0}}`), 0o644))
	r.ok("update", "-r", file, "c")
	require.NoError(t, json.Unmarshal([]byte(r.ok("events", "--stats", "c")), &e))
	require.Equal(t, uint64(66), e.Data.Pids.Limit)
	require.Equal(t, uint64(33554432), e.Data.Memory.Usage.Limit)
	r.ok("pause", "c")
	r.ok("kill", "c", "KILL")
	r.reach("c", specs.StateStopped)
	r.ok("delete", "c")
}

func TestKillAll(t *testing.T) {
	r := newRuntime(t, "sleep 1000 & exec sleep 1001")
	r.spec.Linux.Namespaces = slices.DeleteFunc(r.spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.PIDNamespace })
	r.write()
	r.ok("run", "-d", "c")
	require.Eventually(t, func() bool { return strings.Contains(r.ok("ps", "-f", "json", "c"), ",") }, 5*time.Second, time.Millisecond)
	r.ok("kill", "--all", "c", "TERM")
	require.Eventually(t, func() bool { return r.ok("ps", "-f", "json", "c") == "[]\n" }, 5*time.Second, time.Millisecond)
	r.ok("delete", "c")
	r.ok("run", "-d", "c")
	r.ok("kill", "c", "9") // without a PID namespace it ends them all
	require.Eventually(t, func() bool { return r.ok("ps", "-f", "json", "c") == "[]\n" }, 5*time.Second, time.Millisecond)
}

func TestExec(t *testing.T) {
	r := newRuntime(t, "exec sleep 1000")
	r.ok("run", "-d", "c")
	out, status := r.do("exec", "-e", "X=1", "--cwd", "/tmp", "-u", "5:6", "c", "sh", "-c", "echo $X $(id -u) $(id -g); pwd; exit 7")
	require.Equal(t, "1 5 6\n/tmp\n", out)
	require.Equal(t, 7, status)
	r.fails(255, `exec failed: unable to start container process: exec: \"nope\": executable file not found in $PATH`, "exec", "c", "nope")
	r.fails(255, "process args cannot be empty", "exec", "c")
	p := *r.spec.Process
	p.Args = []string{"sh", "-c", "echo file"}
	b, err := json.Marshal(p)
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "process.json")
	require.NoError(t, os.WriteFile(file, b, 0o644))
	require.Equal(t, "file\n", r.ok("exec", "--process", file, "c"))
	pidFile := filepath.Join(t.TempDir(), "pid")
	r.ok("exec", "-d", "--pid-file", pidFile, "c", "sleep", "1000")
	b, err = os.ReadFile(pidFile)
	require.NoError(t, err)
	pid, err := strconv.Atoi(string(b))
	require.NoError(t, err)
	require.True(t, alive(pid))
	require.Contains(t, r.ok("ps", "-f", "json", "c"), string(b))
}

// TestSignals: what `runc run` gets is the container's.
func TestSignals(t *testing.T) {
	r := newRuntime(t, `trap "exit 9" USR1; touch /ready; while :; do sleep 0.01; done`)
	cmd := r.command("run", "c")
	require.NoError(t, cmd.Start())
	require.Eventually(t, func() bool {
		_, err := os.Stat(filepath.Join(r.bundle, "rootfs/ready"))
		return err == nil
	}, 10*time.Second, time.Millisecond)
	require.NoError(t, cmd.Process.Signal(unix.SIGUSR1))
	require.Error(t, cmd.Wait())
	require.Equal(t, 9, cmd.ProcessState.ExitCode())
}

// TestPreserve: descriptors that are asked for are the program's, with their numbers, and no others.
func TestPreserve(t *testing.T) {
	r := newRuntime(t, "exec ls /proc/self/fd; cat <&4")
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, []byte("kept\n"), 0o644))
	for _, create := range []bool{false, true} {
		r.spec.Process.Args[2] = "ls /proc/self/fd; cat <&4"
		r.write()
		f, err := os.Open(file)
		require.NoError(t, err)
		out, err := os.Create(filepath.Join(t.TempDir(), "out"))
		require.NoError(t, err)
		args := []string{"run", "--preserve-fds", "2", "c"}
		if create {
			args[0] = "create"
		}
		cmd := r.command(args...)
		cmd.ExtraFiles = []*os.File{f, f, f}
		cmd.Stdout, cmd.Stderr = out, out
		require.NoError(t, cmd.Run())
		if create {
			r.ok("start", "c")
			r.reach("c", specs.StateStopped)
			r.ok("delete", "c")
		}
		b, err := os.ReadFile(out.Name())
		require.NoError(t, err)
		require.Equal(t, "0\n1\n2\n3\n4\n5\nkept\n", string(b), "5 is what ls reads")
	}
	r.fails(1, "file descriptor 3", "run", "--preserve-fds", "1", "c")
}

func TestFeaturesAndSpec(t *testing.T) {
	r := newRuntime(t, "true")
	var f features.Features
	require.NoError(t, json.Unmarshal([]byte(r.ok("features")), &f))
	require.Equal(t, "1.3.0", f.OCIVersionMax)
	require.Len(t, f.Hooks, 6)
	require.Subset(t, f.MountOptions, []string{"bind", "rbind", "ro", "rro", "rprivate"})
	require.NotContains(t, f.MountOptions, "size=1")
	require.Subset(t, f.Linux.Namespaces, []string{"mount", "pid", "network", "ipc", "uts", "cgroup", "user", "time"})
	require.Subset(t, f.Linux.Seccomp.Actions, []string{"SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO"})
	require.True(t, *f.Linux.IntelRdt.Enabled)
	r.fails(1, "config.json exists", "spec")
	dir := t.TempDir()
	r.ok("spec", "-b", dir)
	b, err := os.ReadFile(filepath.Join(dir, "config.json"))
	require.NoError(t, err)
	var s specs.Spec
	require.NoError(t, json.Unmarshal(b, &s))
	require.True(t, s.Process.Terminal)
}
