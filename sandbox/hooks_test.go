package sandbox

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"
)

// hook is a shell script on the host, which busybox runs with its own state on standard input.
func hook(script string) []specs.Hook {
	return []specs.Hook{{Path: busybox, Args: []string{"sh", "-c", script}, Env: []string{"PATH=/bin", "MARK=here"}}}
}

// allHooks write one line each to a file: name, working environment, and state.
func allHooks(log string) *specs.Hooks {
	line := func(kind string) []specs.Hook {
		return hook(`echo "` + kind + ` $MARK $(readlink /proc/self/ns/uts) $(cat)" >> ` + log)
	}
	h := &specs.Hooks{
		CreateRuntime: line("createRuntime"), CreateContainer: line("createContainer"),
		StartContainer: line("startContainer"), Poststart: line("poststart"), Poststop: line("poststop"),
	}
	//lint:ignore SA1019 the hook is deprecated, and run
	h.Prestart = line("prestart")
	h.StartContainer = hook(`echo "startContainer $MARK $(readlink /proc/self/ns/uts) $(cat)" >> /log`)
	h.StartContainer[0].Path = "/bin/busybox"
	return h
}

// checkHooks makes sure that hooks ran in their order, in the right namespaces, with the right state.
func checkHooks(t *testing.T, log string, pid int, want [][3]string) {
	t.Helper()
	host, err := os.Readlink("/proc/self/ns/uts")
	require.NoError(t, err)
	b, err := os.ReadFile(log)
	require.NoError(t, err)
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	require.Len(t, lines, len(want), "%s", b)
	for i, w := range want {
		f := strings.SplitN(lines[i], " ", 4)
		require.Equal(t, w[0]+" here", f[0]+" "+f[1])
		require.Equal(t, w[1] == "host", f[2] == host, "%s: namespace", w[0])
		var s specs.State
		require.NoError(t, json.Unmarshal([]byte(f[3]), &s), "%s", f[3])
		require.Equal(t, w[2], string(s.Status), w[0])
		require.Equal(t, pid, s.Pid, w[0])
		require.Equal(t, "the-id", s.ID)
		require.Equal(t, map[string]string{"a": "b"}, s.Annotations)
	}
}

func hookConfig(t *testing.T, h func(log string) *specs.Hooks) (c Config, log, inner string) {
	needRoot(t)
	log = filepath.Join(t.TempDir(), "log")
	root := newRoot(t)
	spec := newSpec(root, "sh", "-c", "test -s /log && exec sleep 1000")
	spec.Annotations = map[string]string{"a": "b"}
	spec.Hooks = h(log)
	return Config{ID: "the-id", Spec: spec, Bundle: filepath.Dir(root), CgroupPath: cgroupPath(t)}, log, filepath.Join(root, "log")
}

func TestHooksOfStart(t *testing.T) {
	for _, early := range []bool{false, true} { // with and without a filter that is loaded before the hooks
		c, log, inner := hookConfig(t, allHooks)
		c.Spec.Process.NoNewPrivileges = !early
		p, err := Start(context.Background(), c)
		require.NoError(t, err)
		checkHooks(t, log, p.Pid, [][3]string{
			{"prestart", "host", "created"},
			{"createRuntime", "host", "creating"},
			{"createContainer", "box", "creating"},
			{"poststart", "host", "running"},
		})
		checkHooks(t, inner, p.Pid, [][3]string{{"startContainer", "box", "created"}})
		require.NoError(t, p.destroy())
		removeGroup(t, c.CgroupPath)
	}
}

func TestHooksOfCreate(t *testing.T) {
	c, log, inner := hookConfig(t, allHooks)
	p, dir, w := create(t, c)
	created := [][3]string{{"prestart", "host", "created"}, {"createRuntime", "host", "creating"}, {"createContainer", "box", "creating"}}
	checkHooks(t, log, p.Pid, created)
	require.NoFileExists(t, inner)
	require.NoError(t, StartCreated(context.Background(), dir, w))
	checkHooks(t, inner, p.Pid, [][3]string{{"startContainer", "box", "created"}})
	checkHooks(t, log, p.Pid, created) // poststart is the caller's
}

// TestHookErrors: each kind of hook can fail in each way, which is an error that names it and leaves nothing running.
func TestHookErrors(t *testing.T) {
	one := 1
	slow := hook("exec sleep 100")
	slow[0].Timeout = &one
	for _, c := range []struct {
		name, host, inside string
		hooks              []specs.Hook
	}{
		{"missing", "no such file or directory", "no such file or directory", []specs.Hook{{Path: "/no/such"}}},
		{"status", "exit status 3: bad luck", "exit status 3", hook("echo bad luck >&2; exit 3")},
		{"killed", "signal: terminated", "killed by a signal", hook("kill -TERM $$")},
		{"slow", "timed out after 1 s", "timed out", slow},
	} {
		t.Run(c.name, func(t *testing.T) {
			for kind, set := range map[string]func(*specs.Hooks){
				//lint:ignore SA1019 the hook is deprecated, and run
				"prestart":        func(h *specs.Hooks) { h.Prestart = c.hooks },
				"createRuntime":   func(h *specs.Hooks) { h.CreateRuntime = c.hooks },
				"createContainer": func(h *specs.Hooks) { h.CreateContainer = c.hooks },
				"startContainer":  func(h *specs.Hooks) { h.StartContainer = c.hooks },
				"poststart":       func(h *specs.Hooks) { h.Poststart = c.hooks },
			} {
				conf, log, _ := hookConfig(t, func(log string) *specs.Hooks {
					h := &specs.Hooks{Poststop: hook("echo stopped >> " + log)}
					set(h)
					return h
				})
				conf.CgroupPath += "-" + kind
				conf.Spec.Process.Args = []string{"sleep", "1000"}
				began := time.Now()
				_, err := Start(context.Background(), conf)
				require.ErrorContains(t, err, "run "+kind+" hook "+c.hooks[0].Path, kind)
				text := c.host
				if strings.HasSuffix(kind, "Container") {
					text = c.inside
				}
				require.ErrorContains(t, err, text, kind)
				require.Less(t, time.Since(began), 10*time.Second)
				require.FileExists(t, log, "%s: poststop", kind)
			}
		})
	}
}

// TestHookOfStarted: a startContainer hook that fails behind the gate is an error of the start.
func TestHookOfStarted(t *testing.T) {
	c, _, _ := hookConfig(t, func(string) *specs.Hooks { return &specs.Hooks{StartContainer: hook("exit 4")} })
	p, dir, w := create(t, c)
	require.EqualError(t, StartCreated(context.Background(), dir, w), "run startContainer hook /bin/busybox: exit status 4")
	_, err := p.Reap()
	require.NoError(t, err)
}

// TestSlowHookDies: a hook that takes too long is gone when the start has failed, without a PID namespace too.
func TestSlowHookDies(t *testing.T) {
	one := 1
	c, log, _ := hookConfig(t, func(log string) *specs.Hooks {
		h := hook("echo $$ > " + log + "; exec sleep 100")
		h[0].Timeout = &one
		return &specs.Hooks{CreateContainer: h}
	})
	c.Spec.Linux.Namespaces = slices.DeleteFunc(c.Spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.PIDNamespace })
	c.CgroupPath = "" // whose end would be the hook's too
	_, err := Start(context.Background(), c)
	require.ErrorContains(t, err, "timed out")
	b, err := os.ReadFile(log)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		s, err := os.ReadFile("/proc/" + strings.TrimSpace(string(b)) + "/stat")
		return err != nil || strings.Contains(string(s), ") Z ")
	}, 5*time.Second, time.Millisecond)
}

// TestHookCannotWrite: what a hook writes to its standard input is not what the next one reads.
func TestHookCannotWrite(t *testing.T) {
	c, log, _ := hookConfig(t, func(log string) *specs.Hooks {
		change := hook(`echo '{"id":"other"}' 1<>/proc/self/fd/0`)[0]
		show := hook(`cat > ` + log)[0]
		return &specs.Hooks{CreateContainer: []specs.Hook{{Path: busybox, Args: append(change.Args[:2:2], change.Args[2]+" || true"), Env: change.Env}, show}}
	})
	c.Spec.Process.Args = []string{"true"}
	p, err := Start(context.Background(), c)
	require.NoError(t, err)
	require.NoError(t, p.destroy())
	b, err := os.ReadFile(log)
	require.NoError(t, err)
	var s specs.State
	require.NoError(t, json.Unmarshal(b, &s), "%s", b)
	require.Equal(t, "the-id", s.ID)
}
