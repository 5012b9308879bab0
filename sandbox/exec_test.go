package sandbox

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/sandbox/caps"
	"github.com/coble-os/coble/sandbox/cgroup"
)

// startLong starts a container that lives until the test ends.
func startLong(t testing.TB, f func(*specs.Spec)) (*Process, Config) {
	t.Helper()
	spec := newSpec(newRoot(t), "sleep", "1000")
	if f != nil {
		f(spec)
	}
	c := Config{Spec: spec, CgroupPath: cgroupPath(t)}
	p, err := Start(context.Background(), c)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.destroy()) })
	return p, c
}

// execIn runs a shell command in a container and returns what it printed.
func execIn(t testing.TB, target *Process, c Config, proc *specs.Process) (result, error) {
	t.Helper()
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer r.Close()
	p, err := Exec(context.Background(), ExecConfig{
		Target: target, CgroupPath: c.CgroupPath, Process: proc, Seccomp: c.Spec.Linux.Seccomp,
		Stdout: w, Stderr: w,
	})
	w.Close()
	if err != nil {
		return result{}, err
	}
	var out bytes.Buffer
	_, err = io.Copy(&out, r)
	require.NoError(t, err)
	exit, err := p.Reap()
	require.NoError(t, err)
	require.NoError(t, p.Close())
	return result{out.String(), exit}, nil
}

func TestExec(t *testing.T) {
	needRoot(t)
	target, c := startLong(t, nil)
	proc := *c.Spec.Process
	proc.Args = []string{"sh", "-c", "hostname; id -u; cat /proc/1/cmdline | tr '\\0' ' '; echo; grep -E '^(Seccomp|NoNewPrivs|CapEff|TracerPid):' /proc/self/status; " +
		"grep -vc ':/$' /proc/self/cgroup; echo $$ > /dev/null; ls /proc/self/fd | wc -l; exit 5"}
	proc.User.UID = 1000
	res, err := execIn(t, target, c, &proc)
	require.NoError(t, err)
	require.Equal(t, "box\n1000\nsleep 1000 \nTracerPid:\t0\nCapEff:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n0\n4\n", res.out)
	require.Equal(t, 5, res.exit.Status())
	for _, ns := range []string{"mnt", "pid", "uts", "ipc", "net", "cgroup"} {
		proc.Args = []string{"readlink", "/proc/self/ns/" + ns}
		res, err := execIn(t, target, c, &proc)
		require.NoError(t, err)
		want, err := os.Readlink("/proc/" + itoa(target.Pid) + "/ns/" + ns)
		require.NoError(t, err)
		require.Equal(t, want+"\n", res.out)
	}
	proc.Args = []string{"nope"}
	_, err = execIn(t, target, c, &proc)
	require.EqualError(t, err, `exec: "nope": executable file not found in $PATH`)
	g, err := cgroup.Open(c.CgroupPath)
	require.NoError(t, err)
	frozen, err := g.Frozen()
	require.NoError(t, err)
	require.False(t, frozen, "after a failed exec")
	require.NoError(t, g.Freeze(context.Background()))
	_, err = execIn(t, target, c, &proc)
	require.ErrorIs(t, err, ErrPaused)
	require.NoError(t, g.Thaw())
}

// TestExecMembership: the new process is in every group of the container, the one that was frozen too.
func TestExecMembership(t *testing.T) {
	needRoot(t)
	target, c := startLong(t, nil)
	proc := *c.Spec.Process
	p, err := Exec(context.Background(), ExecConfig{Target: target, CgroupPath: c.CgroupPath, Process: &proc})
	require.NoError(t, err)
	defer func() { require.NoError(t, p.destroy()) }()
	b, err := os.ReadFile(filepath.Join("/proc", itoa(p.Pid), "cgroup"))
	require.NoError(t, err)
	g, err := cgroup.Open(c.CgroupPath)
	require.NoError(t, err)
	require.Equal(t, len(g.Dirs()), strings.Count(string(b), c.CgroupPath+"\n"), "%s", b)
}

func TestExecTerminal(t *testing.T) {
	needRoot(t)
	target, c := startLong(t, nil)
	proc := *c.Spec.Process
	proc.Terminal, proc.Args = true, []string{"tty"}
	p, err := Exec(context.Background(), ExecConfig{Target: target, CgroupPath: c.CgroupPath, Process: &proc, Seccomp: c.Spec.Linux.Seccomp})
	require.NoError(t, err)
	out, err := io.ReadAll(p.Console)
	require.ErrorIs(t, err, unix.EIO)
	require.Equal(t, "/dev/pts/0\r\n", string(out))
	_, err = p.Reap()
	require.NoError(t, err)
	require.NoError(t, p.Close())
}

// TestExecUnseen: a container whose processes hold all capabilities looks at every process it can see, again and
// again, and must never see this program, whose memory an entering child shares (CVE-2016-9962 and its like).
func TestExecUnseen(t *testing.T) {
	needRoot(t)
	own, err := caps.Permitted()
	require.NoError(t, err)
	all := own.Names()
	privileged := func(s *specs.Spec) {
		s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: all, Effective: all, Permitted: all}
		s.Linux.Seccomp = nil
		s.Process.Args = []string{"sh", "-c", `while :; do for p in /proc/[0-9]*; do
case $(readlink $p/exe) in */busybox|'') ;; *) echo seen >> /seen;; esac; done; done`}
	}
	target, c := startLong(t, privileged)
	proc := *c.Spec.Process
	proc.Args = []string{"true"}
	var wg sync.WaitGroup
	errs := make([]error, 2)
	for i := range errs {
		wg.Go(func() {
			for range rounds(150) {
				if _, err := execIn(t, target, c, &proc); err != nil {
					errs[i] = err
					return
				}
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
	require.NoFileExists(t, filepath.Join(c.Spec.Root.Path, "seen"))
}

// TestJoinNamespaces: a second container in the namespaces of a first.
func TestJoinNamespaces(t *testing.T) {
	needRoot(t)
	first, c := startLong(t, nil)
	join := func(s *specs.Spec) {
		for i, n := range s.Linux.Namespaces {
			if file := map[specs.LinuxNamespaceType]string{"pid": "pid", "network": "net", "ipc": "ipc"}[n.Type]; file != "" {
				s.Linux.Namespaces[i].Path = "/proc/" + itoa(first.Pid) + "/ns/" + file
			}
		}
	}
	spec := newSpec(newRoot(t), "sh", "-c", "cat /proc/1/cmdline; readlink /proc/self/ns/net")
	join(spec)
	path := c.CgroupPath + "-second"
	_, err := runConfig(t, Config{Spec: spec, CgroupPath: path})
	require.ErrorContains(t, err, "needs the cgroups of those who live in it")
	res, err := runConfig(t, Config{Spec: spec, CgroupPath: path, Freeze: []string{c.CgroupPath}})
	require.NoError(t, err)
	want, err := os.Readlink("/proc/" + itoa(first.Pid) + "/ns/net")
	require.NoError(t, err)
	require.Equal(t, "sleep\x001000\x00"+want+"\n", res.out)
	removeGroup(t, path)
}
