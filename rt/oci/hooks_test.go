package oci

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"
)

func hook(script string) []specs.Hook {
	return []specs.Hook{{Path: busybox, Args: []string{"sh", "-c", script}, Env: []string{"PATH=/bin"}}}
}

// TestHooks: all six, each at its time, and what they say of the container's state, which they may also ask for.
func TestHooks(t *testing.T) {
	r := newRuntime(t, "echo program >> /log; exec sleep 1000")
	log, inner := filepath.Join(t.TempDir(), "log"), filepath.Join(r.bundle, "rootfs/log")
	line := func(kind, file string) []specs.Hook {
		return hook(`echo "` + kind + ` $(grep -o '"status":"[a-z]*"')" >> ` + file)
	}
	r.spec.Hooks = &specs.Hooks{
		CreateRuntime: line("createRuntime", log), CreateContainer: line("createContainer", log),
		StartContainer: line("startContainer", "/log"), Poststart: line("poststart", log), Poststop: line("poststop", log),
	}
	//lint:ignore SA1019 the hook is deprecated, and run
	r.spec.Hooks.Prestart = line("prestart", log)
	r.spec.Hooks.StartContainer[0].Path = "/bin/busybox"
	r.write()
	read := func(path string) []string {
		b, err := os.ReadFile(path)
		require.NoError(t, err)
		return strings.Split(strings.TrimSpace(strings.NewReplacer(`"status":"`, "", `"`, "").Replace(string(b))), "\n")
	}
	r.ok("create", "c")
	made := []string{"prestart created", "createRuntime creating", "createContainer creating"}
	require.Equal(t, made, read(log))
	r.ok("start", "c")
	require.Equal(t, append(made, "poststart running"), read(log))
	require.Equal(t, "startContainer created", read(inner)[0])
	r.ok("delete", "--force", "c")
	require.Equal(t, append(made, "poststart running", "poststop stopped"), read(log))

	require.NoError(t, os.Remove(log))
	r.ok("run", "-d", "c")
	require.Equal(t, append(made, "poststart running"), read(log))
	r.ok("delete", "--force", "c")
}

// TestHookAsks: a hook may ask the runtime for the state of its container.
func TestHookAsks(t *testing.T) {
	r := newRuntime(t, "true")
	out := filepath.Join(t.TempDir(), "out")
	r.spec.Hooks = &specs.Hooks{CreateRuntime: hook(r.exe + " --root " + r.root + " state c > " + out)}
	r.write()
	r.ok("run", "c")
	b, err := os.ReadFile(out)
	require.NoError(t, err)
	require.Contains(t, string(b), `"status": "creating"`)
}

func TestHookFails(t *testing.T) {
	r := newRuntime(t, "exec sleep 1000")
	for kind, set := range map[string]func(*specs.Hooks, []specs.Hook){
		"createRuntime":   func(h *specs.Hooks, x []specs.Hook) { h.CreateRuntime = x },
		"createContainer": func(h *specs.Hooks, x []specs.Hook) { h.CreateContainer = x },
		"startContainer":  func(h *specs.Hooks, x []specs.Hook) { h.StartContainer = x },
		"poststart":       func(h *specs.Hooks, x []specs.Hook) { h.Poststart = x },
	} {
		r.spec.Hooks = &specs.Hooks{}
		set(r.spec.Hooks, hook("exit 5"))
		r.write()
		text := "run " + kind + " hook /bin/busybox: exit status 5"
		r.fails(1, text, "run", "-d", "c")
		require.NoDirExists(t, filepath.Join(r.root, "c"), kind)
		if kind == "createRuntime" || kind == "createContainer" {
			r.fails(1, text, "create", "c")
			require.NoDirExists(t, filepath.Join(r.root, "c"), kind)
			continue
		}
		r.ok("create", "c")
		r.fails(1, text, "start", "c")
		r.reach("c", specs.StateStopped)
		r.ok("delete", "c")
	}
	r.spec.Hooks = &specs.Hooks{Poststop: hook("exit 5")}
	r.write()
	r.ok("run", "-d", "c")
	require.Contains(t, r.ok("delete", "--force", "c"), "level=warning")
}
