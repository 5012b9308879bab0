package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/sandbox/cgroup"
	"github.com/coble-os/coble/sandbox/reaper"
	"github.com/coble-os/coble/sandbox/spawn"
)

func ptr[T any](v T) *T { return &v }

func TestOutputAndStatus(t *testing.T) {
	needRoot(t)
	res := run(t, "echo hello; id; hostname; exit 3", nil)
	require.Equal(t, "hello\nuid=0 gid=0\nbox\n", res.out)
	require.Equal(t, 3, res.exit.Status())
	require.Equal(t, 0, run(t, "true", nil).exit.Status())
	res = run(t, "kill -TERM $$", nil) // the first process of a PID namespace ignores what it has no handler for
	require.Equal(t, 0, res.exit.Status())
}

// TestInit: the command runs under an init that is process 1, and what cannot be executed is still an error of the start.
func TestInit(t *testing.T) {
	needRoot(t)
	const at = "/sbin/docker-init"
	file := filepath.Join(t.TempDir(), "init")
	require.NoError(t, os.WriteFile(file, reaper.Executable(), 0o755))
	start := func(args ...string) (result, error) {
		spec := newSpec(newRoot(t), args...)
		spec.Mounts = append(spec.Mounts, specs.Mount{Destination: at, Type: "bind", Source: file, Options: []string{"rbind", "ro"}})
		return runConfig(t, Config{ID: "test", Spec: spec, CgroupPath: cgroupPath(t), Init: at})
	}
	res, err := start("sh", "-c", `echo $$ $0 $1; tr '\0' ' ' < /proc/1/cmdline; kill -TERM $$`, "zero", "one")
	require.NoError(t, err)
	require.Equal(t, 143, res.exit.Status())
	require.True(t, strings.HasPrefix(res.out, "2 zero one\n/sbin/docker-init -- /bin/sh sh -c "), res.out)
	for name, code := range map[string]int{"no-such": 127, "/no/such": 127, "/bin": 126, "/etc": 126} {
		var exec *ExecError
		res, err = start(name)
		if err != nil {
			require.ErrorAs(t, err, &exec, name)
			require.Equal(t, code, exec.ExitCode(), name)
		} else {
			require.Equal(t, code, res.exit.Status(), name)
		}
	}
}

func TestIdentity(t *testing.T) {
	needRoot(t)
	res := run(t, "id; umask; pwd; echo $FOO; grep -E '^(CapInh|CapEff|CapAmb|Groups|NoNewPrivs|Seccomp):' /proc/self/status", func(s *specs.Spec) {
		s.Process.User = specs.User{UID: 1000, GID: 1001, AdditionalGids: []uint32{5, 7}, Umask: ptr(uint32(0o027))}
		s.Process.Cwd = "/made/for/this"
		s.Process.Env = append(s.Process.Env, "FOO=bar baz")
	})
	require.Equal(t, "uid=1000 gid=1001 groups=5,7\n0027\n/made/for/this\nbar baz\nGroups:\t5 7 \nCapInh:\t0000000000000000\n"+
		"CapEff:\t0000000000000000\nCapAmb:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n", res.out)
}

func TestCapabilities(t *testing.T) {
	needRoot(t)
	const show = "grep ^Cap /proc/self/status | cut -c8-"
	res := run(t, "grep ^Cap /proc/self/status", nil)
	require.Equal(t, "CapInh:\t0000000000000000\nCapPrm:\t00000000a80425fb\nCapEff:\t00000000a80425fb\nCapBnd:\t00000000a80425fb\nCapAmb:\t0000000000000000\n", res.out, show)
	res = run(t, "grep ^Cap /proc/self/status", func(s *specs.Spec) {
		net := []string{"CAP_NET_BIND_SERVICE"}
		s.Process.User = specs.User{UID: 1000, GID: 1000}
		s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: net, Permitted: net, Inheritable: net, Ambient: net}
	})
	require.Equal(t, "CapInh:\t0000000000000400\nCapPrm:\t0000000000000400\nCapEff:\t0000000000000400\nCapBnd:\t0000000000000400\nCapAmb:\t0000000000000400\n", res.out)
}

func TestWithoutNoNewPrivs(t *testing.T) {
	needRoot(t)
	res := run(t, "grep -E '^(NoNewPrivs|Seccomp|CapEff):' /proc/self/status", func(s *specs.Spec) { s.Process.NoNewPrivileges = false })
	require.Equal(t, "CapEff:\t00000000a80425fb\nNoNewPrivs:\t0\nSeccomp:\t2\n", res.out)
}

func TestMasksAndReadonly(t *testing.T) {
	needRoot(t)
	view, knob := "/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/notify_on_release"
	if l, err := cgroup.Detect(); err == nil && l.Unified {
		view, knob = "/sys/fs/cgroup/cgroup.procs", "/sys/fs/cgroup/cgroup.procs"
	}
	res := run(t, `cat /proc/timer_list | wc -c; ls /sys/firmware | wc -l; ls /proc/acpi 2>/dev/null | wc -l
echo 1 > /proc/sys/kernel/printk; touch /x && echo rw
cat `+view+` >/dev/null && echo seen; touch /sys/fs/cgroup/x; echo 1 > `+knob+`
ls /proc/1/root/ >/dev/null && echo in`, nil)
	want := "0\n0\n0\nsh: can't create /proc/sys/kernel/printk: Read-only file system\nrw\nseen\n" +
		"touch: /sys/fs/cgroup/x: Read-only file system\nsh: can't create " + knob + ": Read-only file system\nin\n"
	require.Equal(t, want, res.out)
	res = run(t, "touch /x; touch /dev/shm/ok && echo ok", func(s *specs.Spec) { s.Root.Readonly = true })
	require.Equal(t, "touch: /x: Read-only file system\nok\n", res.out)
}

func TestSysctlRlimitOOM(t *testing.T) {
	needRoot(t)
	res := run(t, "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax /proc/self/oom_score_adj; ulimit -n; ulimit -Hn", func(s *specs.Spec) {
		s.Linux.Sysctl = map[string]string{"net.ipv4.ip_forward": "1", "kernel.msgmax": "4321"}
		s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 100, Hard: 200}}
		s.Process.OOMScoreAdj = ptr(321)
	})
	require.Equal(t, "1\n4321\n321\n100\n200\n", res.out)
	own, err := os.ReadFile("/proc/self/oom_score_adj")
	require.NoError(t, err)
	require.NotEqual(t, "321\n", string(own), "the engine shares memory with the child, not its score")
}

func TestBindMounts(t *testing.T) {
	needRoot(t)
	host := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(host, "conf"), []byte("from host\n"), 0o644))
	require.NoError(t, os.Mkdir(filepath.Join(host, "dir"), 0o755))
	for _, old := range []bool{false, true} {
		spec := newSpec(newRoot(t), "sh", "-c", "cat /etc/deep/conf; touch /mnt/ro/x; touch /mnt/rw/x && ls /mnt/rw; "+
			"echo no > /etc/deep/conf; grep -c ' /mnt/ro ro,nosuid,nodev' /proc/self/mountinfo")
		spec.Mounts = append(spec.Mounts,
			specs.Mount{Destination: "/etc/deep/conf", Source: filepath.Join(host, "conf"), Options: []string{"bind", "ro", "rprivate"}},
			specs.Mount{Destination: "/mnt/ro", Type: "bind", Source: filepath.Join(host, "dir"), Options: []string{"rbind", "ro", "nosuid", "nodev"}},
			specs.Mount{Destination: "/mnt/rw", Type: "bind", Source: filepath.Join(host, "dir"), Options: []string{"rbind", "rw"}},
		)
		res, err := runConfig(t, Config{Spec: spec, noSetattr: old})
		require.NoError(t, err)
		require.Equal(t, "from host\ntouch: /mnt/ro/x: Read-only file system\nx\nsh: can't create /etc/deep/conf: Read-only file system\n1\n", res.out, "Linux 5.10: %t", old)
	}
}

func TestExecErrors(t *testing.T) {
	needRoot(t)
	root := newRoot(t)
	require.NoError(t, os.WriteFile(filepath.Join(root, "bin/plain"), []byte("x"), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(root, "bin/junk"), []byte("\x7fELFjunk"), 0o755))
	for _, c := range []struct {
		arg, msg string
		code     int
	}{
		{"nope", `exec: "nope": executable file not found in $PATH`, 127},
		{"/bin/nope", `exec: "/bin/nope": no such file or directory`, 127},
		{"plain", `exec: "plain": permission denied`, 126},
		{"/etc", `exec: "/etc": permission denied`, 126},
		{"junk", `exec: "junk": exec format error`, 126},
	} {
		_, err := runConfig(t, Config{Spec: newSpec(root, c.arg), CgroupPath: cgroupPath(t)})
		var e *ExecError
		require.ErrorAs(t, err, &e, c.arg)
		require.EqualError(t, err, c.msg)
		require.Equal(t, c.code, e.ExitCode())
	}
	require.ErrorIs(t, &ExecError{Errno: unix.ENOENT}, fs.ErrNotExist)
	_, err := cgroup.Open(cgroupPath(t))
	require.ErrorIs(t, err, fs.ErrNotExist, "the group of a failed start is gone")
}

func TestSignals(t *testing.T) {
	needRoot(t)
	spec := newSpec(newRoot(t), "sleep", "1000")
	p, err := Start(context.Background(), Config{Spec: spec, CgroupPath: cgroupPath(t)})
	require.NoError(t, err)
	defer p.Close()
	same, err := Adopt(p.Pid, p.StartTime)
	require.NoError(t, err)
	defer same.Close()
	_, err = Adopt(p.Pid, p.StartTime+1)
	require.ErrorIs(t, err, ErrGone)
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	require.ErrorIs(t, same.WaitEnd(ended), context.Canceled)
	require.NoError(t, same.Signal(unix.SIGKILL))
	require.NoError(t, same.WaitEnd(context.Background()))
	exit, err := p.WaitNoReap()
	require.NoError(t, err)
	require.Equal(t, 137, exit.Status())
	_, err = Adopt(p.Pid, p.StartTime)
	require.NoError(t, err, "a zombie is still there")
	_, err = p.Reap()
	require.NoError(t, err)
	_, err = Adopt(p.Pid, p.StartTime)
	require.ErrorIs(t, err, ErrGone)
	require.ErrorIs(t, p.Signal(unix.SIGTERM), ErrGone)
}

// TestWaitStranger: the end of a process that is no child can be waited for, not reaped.
func TestWaitStranger(t *testing.T) {
	needRoot(t)
	cmd := exec.Command(busybox, "sh", "-c", busybox+" sleep 1000 & echo $!; wait")
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	var pid int
	_, err = fmt.Fscan(out, &pid)
	require.NoError(t, err)
	st, err := spawn.ReadStat(pid)
	require.NoError(t, err)
	p, err := Adopt(pid, st.StartTime)
	require.NoError(t, err)
	defer p.Close()
	_, err = p.WaitNoReap()
	require.ErrorIs(t, err, ErrGone)
	done := make(chan error, 1)
	go func() { done <- p.WaitEnd(context.Background()) }()
	require.NoError(t, p.Signal(unix.SIGTERM))
	require.NoError(t, <-done)
	require.NoError(t, cmd.Wait())
}

func TestPidsLimit(t *testing.T) {
	needRoot(t)
	res := run(t, "for i in 1 2 3 4 5 6 7 8; do sleep 5 & done; echo done", func(s *specs.Spec) {
		s.Linux.Resources = &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(4))}}
	})
	require.Contains(t, res.out, "can't fork")
}

func TestMemoryLimit(t *testing.T) {
	needRoot(t)
	path := cgroupPath(t)
	spec := newSpec(newRoot(t), "sh", "-c", "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null; head -c 100000000 /dev/zero | tail -c 90000000 | wc -c")
	spec.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(16 << 20)), Swap: ptr(int64(16 << 20))}}
	res, err := runConfig(t, Config{Spec: spec, CgroupPath: path})
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(res.out, "16777216\n"), res.out)
	g, err := cgroup.Open(path)
	require.NoError(t, err)
	n, err := g.OOMKills()
	require.NoError(t, err)
	require.NotZero(t, n)
}

// TestTinyMemoryLimit: whatever the kernel does to a child without memory, this process, whose memory the child
// shares until its execve, lives; and it can start others.
func TestTinyMemoryLimit(t *testing.T) {
	needRoot(t)
	for _, limit := range []int64{4096, 16 << 10, 64 << 10, 128 << 10, 256 << 10, 512 << 10, 1 << 20} {
		spec := newSpec(newRoot(t), "sh", "-c", "exit 0")
		spec.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		p, err := Start(ctx, Config{Spec: spec, CgroupPath: cgroupPath(t)})
		cancel()
		if err != nil {
			require.ErrorIs(t, err, ErrOOM, "limit %d", limit)
			t.Logf("limit %d: %v", limit, err)
			continue
		}
		exit, err := p.Reap()
		require.NoError(t, err)
		t.Logf("limit %d: status %d", limit, exit.Status())
		require.NoError(t, p.Close())
		removeGroup(t, cgroupPath(t))
	}
}

func removeGroup(t testing.TB, path string) {
	g, err := cgroup.Open(path)
	require.NoError(t, err)
	require.NoError(t, g.Remove())
}

func TestTerminal(t *testing.T) {
	needRoot(t)
	spec := newSpec(newRoot(t), "sh", "-c", "tty; stty size; test -c /dev/console && echo console; stat -c %u $(tty); read x; echo got $x")
	spec.Process.Terminal = true
	spec.Process.ConsoleSize = &specs.Box{Height: 33, Width: 99}
	spec.Process.User = specs.User{UID: 1000, GID: 1000}
	p, err := Start(context.Background(), Config{Spec: spec, CgroupPath: cgroupPath(t)})
	require.NoError(t, err)
	defer p.Close()
	_, err = p.Console.WriteString("line\n")
	require.NoError(t, err)
	var out []byte
	for buf := make([]byte, 1000); ; {
		n, err := p.Console.Read(buf) // EIO when the last slave is closed
		out = append(out, buf[:n]...)
		if err != nil {
			require.ErrorIs(t, err, unix.EIO)
			break
		}
	}
	_, err = p.Reap()
	require.NoError(t, err)
	require.Equal(t, "/dev/pts/0\r\n33 99\r\nconsole\r\n1000\r\ngot line\r\n", strings.Replace(string(out), "line\r\n", "", 1))
}

func TestCreatedHook(t *testing.T) {
	needRoot(t)
	var seen int
	own, err := os.Readlink("/proc/self/ns/net")
	require.NoError(t, err)
	spec := newSpec(newRoot(t), "true")
	c := Config{Spec: spec, CgroupPath: cgroupPath(t), Created: func(pid int) error {
		seen = pid
		other, err := os.Readlink("/proc/" + itoa(pid) + "/ns/net")
		if err != nil {
			return err
		}
		require.NotEqual(t, own, other)
		return nil
	}}
	p, err := Start(context.Background(), c)
	require.NoError(t, err)
	require.Equal(t, seen, p.Pid)
	_, err = p.Reap()
	require.NoError(t, err)
	require.NoError(t, p.Close())
	removeGroup(t, c.CgroupPath)

	boom := errors.New("no network")
	c.Created = func(int) error { return boom }
	_, err = Start(context.Background(), c)
	require.ErrorIs(t, err, boom)
}

func TestHostService(t *testing.T) {
	needRoot(t)
	res, err := runConfig(t, Config{Spec: hostSpec(busybox, "echo", "plain"), CgroupPath: cgroupPath(t)})
	require.NoError(t, err)
	require.Equal(t, "plain\n", res.out)
}

func TestOverlayRoot(t *testing.T) {
	needRoot(t)
	lower, base := newRoot(t), t.TempDir()
	for _, d := range []string{"up", "work", "merged"} {
		require.NoError(t, os.Mkdir(filepath.Join(base, d), 0o755))
	}
	spec := newSpec(filepath.Join(base, "merged"), "sh", "-c", "echo x > /new; ls /new")
	res, err := runConfig(t, Config{Spec: spec, RootMounts: []Mount{{
		Type: "overlay", Source: "overlay",
		Data: "lowerdir=" + lower + ",upperdir=" + base + "/up,workdir=" + base + "/work",
	}}})
	if errors.Is(err, unix.ENODEV) {
		t.Skip("this kernel has no overlay file system (CONFIG_OVERLAY_FS, or its module is not loaded)")
	}
	require.NoError(t, err)
	require.Equal(t, "/new\n", res.out)
	require.FileExists(t, filepath.Join(base, "up/new"))
	entries, err := os.ReadDir(filepath.Join(base, "merged"))
	require.NoError(t, err)
	require.Empty(t, entries, "nothing is mounted on the host")
}

// What the root is mounted over is mounted beside it, in the container's namespace alone, also where mounts of the
// machine are shared, and the container sees nothing of it.
func TestMountsBesideTheRoot(t *testing.T) {
	needRoot(t)
	for _, c := range []struct {
		prop string
		tree bool // the mount is made outside, and only moved
		user bool // with a user namespace, from which neither could be done
	}{{prop: ""}, {prop: "shared"}, {prop: "rslave"}, {tree: true}, {prop: "shared", tree: true}, {user: true}, {tree: true, user: true}} {
		t.Run(fmt.Sprintf("propagation %s tree %v user %v", c.prop, c.tree, c.user), func(t *testing.T) {
			lower, base, other := newRoot(t), t.TempDir(), t.TempDir()
			for _, d := range []string{base, other} {
				require.NoError(t, unix.Mount(d, d, "", unix.MS_BIND, ""))
				t.Cleanup(func() { _ = unix.Unmount(d, unix.MNT_DETACH) })
				require.NoError(t, unix.Mount("", d, "", unix.MS_SHARED, ""))
			}
			low := filepath.Join(other, "low")
			for _, d := range []string{low, base + "/up", base + "/work", base + "/merged"} {
				require.NoError(t, os.Mkdir(d, 0o755))
			}
			spec := newSpec(filepath.Join(base, "merged"), "sh", "-c", "echo x > /new; grep -c /low /proc/self/mountinfo; ls /new")
			spec.Linux.RootfsPropagation = c.prop
			if c.user {
				withUser(t, spec)
				require.NoError(t, os.Chown(base+"/up", userBase, userBase))
			}
			beside := Mount{Source: lower, Target: low, Flags: unix.MS_BIND}
			trees := map[string]*os.File{}
			if c.tree {
				fd, err := unix.OpenTree(unix.AT_FDCWD, lower, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
				require.NoError(t, err)
				trees["tree.0"] = os.NewFile(uintptr(fd), lower)
				defer trees["tree.0"].Close()
				beside.Tree = "tree.0"
			}
			res, err := runConfig(t, Config{Spec: spec, Trees: trees, RootMounts: []Mount{
				beside,
				{
					Type: "overlay", Source: "overlay",
					Data: "lowerdir=" + low + ",upperdir=" + base + "/up,workdir=" + base + "/work",
				},
			}})
			if errors.Is(err, unix.ENODEV) {
				t.Skip("this kernel has no overlay file system (CONFIG_OVERLAY_FS, or its module is not loaded)")
			}
			require.NoError(t, err)
			require.Equal(t, "1\n/new\n", res.out, "one line: the lowerdir among the overlay's options")
			for _, d := range []string{low, base + "/merged"} {
				entries, err := os.ReadDir(d)
				require.NoError(t, err)
				require.Empty(t, entries, "nothing is mounted on the host")
			}
		})
	}
}

func TestContextEnds(t *testing.T) {
	needRoot(t)
	ctx, cancel := context.WithCancel(context.Background())
	release := make(chan struct{})
	_, err := Start(ctx, Config{Spec: newSpec(newRoot(t), "true"), CgroupPath: cgroupPath(t), Created: func(int) error {
		cancel()
		time.AfterFunc(time.Millisecond, func() { close(release) })
		<-release
		return nil
	}})
	require.ErrorIs(t, err, context.Canceled)
}
