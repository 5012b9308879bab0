package keeper

import (
	"debug/elf"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestInitInNamespaces runs the keeper as process 1 of namespaces of its own, in
// an empty root. There reboot(2) ends the namespace: with SIGINT for power-off
// and halt, with SIGHUP for a reboot (pid_namespaces(7)).
func TestInitInNamespaces(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: run as root or make test-vm")
	}
	for _, c := range []struct {
		name string
		act  func(*testing.T, *rig)
		end  unix.Signal
	}{
		{"SIGTERM", func(t *testing.T, r *rig) { r.signal(unix.SIGTERM) }, unix.SIGINT},
		{"SIGINT", func(t *testing.T, r *rig) { r.signal(unix.SIGINT) }, unix.SIGHUP},
		{"request", func(t *testing.T, r *rig) { r.say("send SHUTDOWN=reboot") }, unix.SIGHUP},
		{"orphans are ended", func(t *testing.T, r *rig) {
			r.order("child")
			r.say("exit 1") // pids are those of the namespace: no killEngine here
			r.out.wait(t, "exit ready=true", 2)
			r.say("send SHUTDOWN=halt")
		}, unix.SIGINT},
		{"after a replacement", func(t *testing.T, r *rig) {
			r.signal(unix.SIGUSR2)
			r.out.wait(t, "keeper: keeper replaced", 1)
			r.signal(unix.SIGTERM)
		}, unix.SIGINT},
		{"an engine that ends by itself comes back", func(t *testing.T, r *rig) {
			r.order("send STOPPING=1")
			r.say("exit 0")
			r.out.wait(t, "engine ", 2)
			r.signal(unix.SIGTERM)
		}, unix.SIGINT},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := startInit(t)
			c.act(t, r)
			var ended *exec.ExitError
			require.ErrorAs(t, r.wait(), &ended)
			status := ended.Sys().(syscall.WaitStatus)
			require.Equal(t, c.end, status.Signal(), "%v", ended)
			r.out.wait(t, "got terminated", 1)
			require.NotContains(t, r.out.String(), "stays mounted")
		})
	}
}

// startInit starts a keeper as process 1. Its root is an empty folder with the
// test binary as /init, the orders come through /orders as elsewhere.
func startInit(t *testing.T) *rig {
	t.Helper()
	r := newRig(t)
	r.copyStatic(filepath.Join(r.dir, "init"))
	out := filepath.Join(r.dir, "out")
	require.NoError(t, unix.Mkfifo(out, 0o600))
	f, err := os.OpenFile(out, os.O_RDWR, 0)
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	go func() { _, _ = io.Copy(r.out, f) }()
	r.cmd = exec.Command("/init", "test-init")
	r.cmd.Dir = "/"
	r.cmd.SysProcAttr = &unix.SysProcAttr{
		Chroot: r.dir, Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWIPC | unix.CLONE_NEWCGROUP,
		Unshareflags: unix.CLONE_NEWNS, // makes everything private
	}
	r.begin()
	return r
}

// copyStatic puts the test binary, or a static build of it, at name.
func (r *rig) copyStatic(name string) {
	r.t.Helper()
	exe, err := os.Executable()
	require.NoError(r.t, err)
	f, err := elf.Open(exe)
	require.NoError(r.t, err)
	defer f.Close()
	if f.Section(".interp") != nil {
		cmd := exec.Command("go", "test", "-c", "-o", name, ".")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		out, err := cmd.CombinedOutput()
		require.NoError(r.t, err, "%s", out)
		return
	}
	data, err := os.ReadFile(exe)
	require.NoError(r.t, err)
	require.NoError(r.t, os.WriteFile(name, data, 0o755))
}

func (r *rig) signal(s unix.Signal) {
	require.NoError(r.t, r.cmd.Process.Signal(s))
}
