package oci

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"
)

// TestKilledCreator: a creator that is killed while a hook runs leaves nothing running, and its name can be used again.
func TestKilledCreator(t *testing.T) {
	r := newRuntime(t, "exec sleep 1000")
	mark := filepath.Join(t.TempDir(), "mark")
	for _, verb := range []string{"create", "run"} {
		r.spec.Hooks = &specs.Hooks{CreateRuntime: hook("touch " + mark + "; exec sleep 1")}
		r.write()
		cmd := r.command(verb, "c")
		require.NoError(t, cmd.Start())
		require.Eventually(t, func() bool { return os.Remove(mark) == nil }, 10*time.Second, time.Millisecond)
		s := r.state("c")
		require.Equal(t, specs.StateCreating, s.Status)
		require.NoError(t, cmd.Process.Kill())
		require.Error(t, cmd.Wait())
		require.Eventually(t, func() bool { return !alive(s.Pid) }, 10*time.Second, time.Millisecond, "the child lives on")
		require.Equal(t, specs.StateStopped, r.state("c").Status)
		r.ok("delete", "c")
		r.spec.Hooks = nil
		r.write()
		r.ok("create", "c")
		r.ok("delete", "c")
	}
}

// TestKilledAnywhere kills creators at moments that go through all that they do. What is left is a container that can be
// started, or none; and delete removes it.
func TestKilledAnywhere(t *testing.T) {
	r := newRuntime(t, "exec sleep 1000")
	made := 0
	for i := range rounds(120) {
		cmd := r.command("create", "c")
		require.NoError(t, cmd.Start())
		time.Sleep(time.Duration(i*120/rounds(120)) * 250 * time.Microsecond) // the moment is what is tried
		_ = cmd.Process.Kill()                                                // it may have ended
		_ = cmd.Wait()
		out, status := r.do("state", "c")
		if status == 0 {
			s := r.state("c")
			require.Contains(t, []specs.ContainerState{specs.StateCreating, specs.StateCreated, specs.StateStopped}, s.Status, out)
			if s.Status == specs.StateCreated {
				made++
				if out, status := r.do("start", "c"); status != 0 { // killed between its last write and the release
					require.Contains(t, out, "its creator was killed before it was made")
				}
			}
			r.ok("delete", "--force", "c")
			require.False(t, alive(s.Pid))
			continue
		}
		r.ok("delete", "--force", "c")
	}
	t.Logf("%d were made", made)
}

// TestKilledStarter: a starter that is killed leaves a container that waits, or one that runs.
func TestKilledStarter(t *testing.T) {
	r := newRuntime(t, "exec sleep 1000")
	started := 0
	for i := range rounds(60) {
		r.ok("create", "c")
		cmd := r.command("start", "c")
		require.NoError(t, cmd.Start())
		time.Sleep(time.Duration(i*60/rounds(60)) * 250 * time.Microsecond)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		out, status := r.do("start", "c")
		if status != 0 {
			require.Contains(t, out, "cannot start an already running container")
			started++
		}
		require.Equal(t, specs.StateRunning, r.state("c").Status)
		r.ok("delete", "--force", "c")
	}
	t.Logf("%d of 60 starters had got there", started)
}

// TestLateHook: while a startContainer hook runs, the state is created; a starter killed then loses nothing.
func TestLateHook(t *testing.T) {
	r := newRuntime(t, "exec sleep 1000")
	r.spec.Hooks = &specs.Hooks{StartContainer: hook("touch /mark; exec sleep 0.3")}
	r.spec.Hooks.StartContainer[0].Path = "/bin/busybox"
	r.write()
	r.ok("create", "c")
	cmd := r.command("start", "c")
	require.NoError(t, cmd.Start())
	require.Eventually(t, func() bool {
		_, err := os.Stat(filepath.Join(r.bundle, "rootfs/mark"))
		return err == nil
	}, 10*time.Second, time.Millisecond)
	require.Equal(t, specs.StateCreated, r.state("c").Status)
	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
	r.reach("c", specs.StateRunning)
}
