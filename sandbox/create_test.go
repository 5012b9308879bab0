package sandbox

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// create makes a container that waits. The test ends it.
func create(t *testing.T, c Config) (*Process, string, Waiting) {
	t.Helper()
	dir := t.TempDir()
	var w Waiting
	p, err := Create(context.Background(), c, Gate{Dir: dir, Ready: func(x Waiting) error { w = x; return nil }})
	require.NoError(t, err)
	t.Cleanup(func() { _ = p.destroy() })
	return p, dir, w
}

func TestCreateAndStart(t *testing.T) {
	needRoot(t)
	out := filepath.Join(t.TempDir(), "out")
	f, err := os.Create(out)
	require.NoError(t, err)
	defer f.Close()
	spec := newSpec(newRoot(t), "sh", "-c", "echo hello; ls /proc/self/fd; exit 3")
	p, dir, w := create(t, Config{ID: "c", Spec: spec, Stdout: f, CgroupPath: cgroupPath(t)})
	require.Equal(t, specs.StateCreated, Status(w.Pid, w.StartTime))
	require.Equal(t, p.Pid, w.Pid)
	time.Sleep(10 * time.Millisecond)
	b, err := os.ReadFile(out)
	require.NoError(t, err)
	require.Empty(t, b, "it runs before it was started")
	require.NoError(t, StartCreated(context.Background(), dir, w))
	exit, err := p.Reap()
	require.NoError(t, err)
	require.Equal(t, 3, exit.Status())
	b, err = os.ReadFile(out)
	require.NoError(t, err)
	require.Equal(t, "hello\n0\n1\n2\n3\n", string(b), "descriptors: 3 is what ls reads")
	require.ErrorIs(t, StartCreated(context.Background(), dir, w), ErrStarted)
	require.Equal(t, specs.StateStopped, Status(w.Pid, w.StartTime))
}

// TestCreateErrors: what fails before the gate is an error of the create, and leaves nothing; what fails behind it one
// of the start.
func TestCreateErrors(t *testing.T) {
	needRoot(t)
	root := newRoot(t)
	require.NoError(t, os.WriteFile(filepath.Join(root, "etc/text"), nil, 0o644))
	never := Gate{Ready: func(Waiting) error { return errors.New("ready") }}
	for _, c := range []struct{ arg, want string }{
		{"nope", `exec: "nope": executable file not found in $PATH`},
		{"/etc/text", `exec: "/etc/text": permission denied`},
		{"true", "ready"},
	} {
		never.Dir = t.TempDir()
		spec := newSpec(root, c.arg)
		_, err := Create(context.Background(), Config{Spec: spec, CgroupPath: cgroupPath(t)}, never)
		require.EqualError(t, err, c.want)
	}
	require.NoError(t, os.WriteFile(filepath.Join(root, "bin/text"), []byte("no program"), 0o755))
	p, dir, w := create(t, Config{Spec: newSpec(root, "text"), CgroupPath: cgroupPath(t)})
	err := StartCreated(context.Background(), dir, w)
	require.EqualError(t, err, `exec: "text": exec format error`)
	exit, err := p.Reap()
	require.NoError(t, err)
	require.Equal(t, 125, exit.Code)
	require.ErrorIs(t, StartCreated(context.Background(), dir, w), ErrStarted)
}

// TestCreateKilled: a waiting container that dies is no hang for its starter.
func TestCreateKilled(t *testing.T) {
	needRoot(t)
	p, dir, w := create(t, Config{Spec: newSpec(newRoot(t), "true"), CgroupPath: cgroupPath(t)})
	require.NoError(t, p.Signal(unix.SIGTERM))
	time.Sleep(5 * time.Millisecond)
	require.Equal(t, specs.StateCreated, Status(w.Pid, w.StartTime))
	require.NoError(t, p.Signal(unix.SIGKILL))
	_, err := p.Reap()
	require.NoError(t, err)
	require.ErrorIs(t, StartCreated(context.Background(), dir, w), ErrStarted)
}

// TestCreateTerminal: the master comes to the creator.
func TestCreateTerminal(t *testing.T) {
	needRoot(t)
	spec := newSpec(newRoot(t), "sh", "-c", "tty; stty size")
	spec.Process.Terminal, spec.Process.ConsoleSize = true, &specs.Box{Height: 7, Width: 70}
	p, dir, w := create(t, Config{Spec: spec})
	require.NoError(t, StartCreated(context.Background(), dir, w))
	b := make([]byte, 100)
	got := ""
	for {
		n, err := p.Console.Read(b)
		got += string(b[:n])
		if err != nil {
			break
		}
	}
	require.Equal(t, "/dev/pts/0\r\n7 70\r\n", strings.TrimSpace(got)+"\r\n")
	_, err := p.Reap()
	require.NoError(t, err)
}
