package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
	"unsafe"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// filtered lets all through but the calls that make a folder.
func filtered(action specs.LinuxSeccompAction, errno *uint) func(*specs.Spec) {
	return func(s *specs.Spec) {
		s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{
			{Names: []string{"mkdir", "mkdirat"}, Action: action, ErrnoRet: errno},
		}}
	}
}

// TestSeccompActions: what a program meets in the kernel, with no_new_privs and without.
func TestSeccompActions(t *testing.T) {
	needRoot(t)
	eproto := uint(unix.EPROTO)
	for _, c := range []struct {
		action specs.LinuxSeccompAction
		errno  *uint
		want   string
	}{
		{specs.ActAllow, nil, "0\n"},
		{specs.ActLog, nil, "0\n"},
		{specs.ActErrno, nil, "mkdir: can't create directory '/tmp/d': Operation not permitted\n1\n"},
		{specs.ActErrno, &eproto, "mkdir: can't create directory '/tmp/d': Protocol error\n1\n"},
		{specs.ActTrace, nil, "mkdir: can't create directory '/tmp/d': Function not implemented\n1\n"}, // nobody traces it
		{specs.ActTrap, nil, "Bad system call\n159\n"},
		{specs.ActKill, nil, "Bad system call\n159\n"},
		{specs.ActKillThread, nil, "Bad system call\n159\n"},
		{specs.ActKillProcess, nil, "Bad system call\n159\n"},
	} {
		for _, noNewPrivs := range []bool{true, false} {
			res := run(t, "ulimit -c 0; /bin/mkdir /tmp/d; echo $?", func(s *specs.Spec) {
				filtered(c.action, c.errno)(s)
				s.Process.NoNewPrivileges = noNewPrivs
			})
			require.Equal(t, c.want, res.out, "%s, no_new_privs %v", c.action, noNewPrivs)
			removeGroup(t, cgroupPath(t))
		}
	}
}

// TestSeccompFlags: the kernel takes every flag that it knows.
func TestSeccompFlags(t *testing.T) {
	needRoot(t)
	res := run(t, "grep ^Seccomp: /proc/self/status", func(s *specs.Spec) {
		s.Linux.Seccomp.Flags = []specs.LinuxSeccompFlag{
			"SECCOMP_FILTER_FLAG_TSYNC", specs.LinuxSeccompFlagLog, specs.LinuxSeccompFlagSpecAllow,
		}
	})
	require.Equal(t, "Seccomp:\t2\n", res.out)
}

// TestSeccompOld: a profile that knows only what the program itself needs does not stop the start, with
// no_new_privs or without, and the program has no capability that it should not have.
func TestSeccompOld(t *testing.T) {
	needRoot(t)
	for _, uid := range []uint32{0, 1000} {
		for _, noNewPrivs := range []bool{true, false} {
			res := run(t, "", func(s *specs.Spec) {
				s.Process.Args = []string{"/bin/grep", "-E", "^(CapInh|CapPrm|CapEff|CapBnd|CapAmb|NoNewPrivs|Seccomp):", "/proc/self/status"}
				s.Process.NoNewPrivileges, s.Process.User.UID = noNewPrivs, uid
				s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{{
					Names: []string{
						"execve", "arch_prctl", "set_tid_address", "brk", "mmap", "mprotect", "open", "openat", "read", "write", "writev",
						"close", "exit_group", "getuid", "geteuid", "getgid", "getegid", "ioctl", "fstat", "readlink", "uname", "set_robust_list",
						"prlimit64", "getrandom", "rseq",
					}, Action: specs.ActAllow,
				}}}
			})
			removeGroup(t, cgroupPath(t))
			own, nnp := "00000000a80425fb", "0"
			if uid != 0 {
				own = "0000000000000000"
			}
			if noNewPrivs {
				nnp = "1"
			}
			require.Equal(t, "CapInh:\t0000000000000000\nCapPrm:\t"+own+"\nCapEff:\t"+own+"\nCapBnd:\t00000000a80425fb\n"+
				"CapAmb:\t0000000000000000\nNoNewPrivs:\t"+nnp+"\nSeccomp:\t2\n", res.out, "user %d", uid)
		}
	}
}

// TestSeccompUnprivileged: without CAP_SYS_ADMIN there are no new namespaces and mounts to write a release_agent in
// (CVE-2022-0492).
func TestSeccompUnprivileged(t *testing.T) {
	needRoot(t)
	root := newRoot(t)
	require.NoError(t, os.Symlink("busybox", filepath.Join(root, "bin/unshare")))
	spec := newSpec(root, "sh", "-c", "unshare -r true; unshare -m true; mount -t tmpfs none /tmp; mount -t cgroup -o memory none /tmp")
	res, err := runConfig(t, Config{ID: "test", Spec: spec, CgroupPath: cgroupPath(t)})
	require.NoError(t, err)
	require.NotZero(t, res.exit.Code)
	require.Equal(t, "unshare: unshare(0x10000000): Operation not permitted\nunshare: unshare(0x20000): Operation not permitted\n"+
		"mount: permission denied (are you root?)\nmount: permission denied (are you root?)\n", res.out)
}

// agent is a seccomp agent as the runtime specification has it. Each notified call gets errno, or goes on if it is 0.
type agent struct {
	path  string
	errno func(nr int32) int32
	state chan specs.ContainerProcessState
}

func newAgent(t *testing.T, errno func(nr int32) int32) *agent {
	a := &agent{path: filepath.Join(t.TempDir(), "agent"), errno: errno, state: make(chan specs.ContainerProcessState, 8)}
	l, err := net.Listen("unix", a.path)
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if err := a.serve(c.(*net.UnixConn)); err != nil {
				t.Error(err)
			}
		}
	}()
	return a
}

func (a *agent) serve(c *net.UnixConn) error {
	defer c.Close()
	buf, oob := make([]byte, 1<<16), make([]byte, 64)
	n, oobn, _, _, err := c.ReadMsgUnix(buf, oob)
	if err != nil {
		return err
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(msgs) != 1 {
		return errors.Join(errors.New("not one control message"), err)
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 1 {
		return errors.Join(errors.New("not one descriptor"), err)
	}
	var s specs.ContainerProcessState
	if err := json.Unmarshal(buf[:n], &s); err != nil {
		return err
	}
	if n, err := c.Read(buf); n != 0 || err == nil {
		return errors.New("more than one message on a connection")
	}
	a.state <- s
	go a.answer(fds[0])
	return nil
}

// notification is struct seccomp_notif, response struct seccomp_notif_resp (seccomp_unotify(2)).
type notification struct {
	id         uint64
	pid, flags uint32
	nr         int32
	arch       uint32
	ip         uint64
	args       [6]uint64
}

type response struct {
	id    uint64
	val   int64
	errno int32
	flags uint32
}

func (a *agent) answer(fd int) {
	defer unix.Close(fd)
	for {
		var n notification
		_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SECCOMP_IOCTL_NOTIF_RECV, uintptr(unsafe.Pointer(&n)))
		if e == unix.EINTR || e == unix.ENOENT {
			continue
		}
		if e != 0 {
			return
		}
		r := response{id: n.id, errno: -a.errno(n.nr)}
		if r.errno == 0 {
			r.flags = unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE
		}
		if _, _, e = unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SECCOMP_IOCTL_NOTIF_SEND, uintptr(unsafe.Pointer(&r))); e != 0 && e != unix.ENOENT {
			return
		}
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if _, err := unix.Poll(p, -1); err == nil && p[0].Revents&unix.POLLHUP != 0 {
			return
		}
	}
}

// notified sends the calls that make a folder, and more, to an agent.
func notified(a *agent, more ...string) func(*specs.Spec) {
	return func(s *specs.Spec) {
		filtered(specs.ActNotify, nil)(s)
		f := s.Linux.Seccomp
		f.Syscalls[0].Names = append(f.Syscalls[0].Names, more...)
		f.ListenerPath, f.ListenerMetadata = a.path, "two words"
		s.Annotations = map[string]string{"a": "b"}
	}
}

// TestSeccompNotify: the agent gets the state of the container with the descriptor, and decides about calls, be they
// the program's or those of the start itself.
func TestSeccompNotify(t *testing.T) {
	needRoot(t)
	a := newAgent(t, func(nr int32) int32 {
		switch nr {
		case unix.SYS_EXECVE, unix.SYS_SETRESUID, unix.SYS_CAPSET, unix.SYS_CLOSE_RANGE:
			return 0
		}
		return int32(unix.EPROTO)
	})
	flags := []specs.LinuxSeccompFlag{"SECCOMP_FILTER_FLAG_TSYNC"}
	if kernelHasFlag(unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV) {
		flags = append(flags, specs.LinuxSeccompFlagWaitKillableRecv)
	}
	for _, noNewPrivs := range []bool{true, false} {
		res := run(t, "mkdir /tmp/d; echo $$", func(s *specs.Spec) {
			notified(a, "execve", "setresuid", "capset", "close_range")(s)
			s.Process.NoNewPrivileges = noNewPrivs
			s.Process.User.UID = 1000
			s.Linux.Seccomp.Flags = flags
		})
		require.Equal(t, "mkdir: can't create directory '/tmp/d': Protocol error\n1\n", res.out)
		removeGroup(t, cgroupPath(t))
		s := <-a.state
		require.Equal(t, specs.ContainerProcessState{
			Version: specs.Version, Fds: []string{"seccompFd"}, Pid: s.Pid, Metadata: "two words", State: specs.State{
				Version: specs.Version, ID: "test", Status: specs.StateCreating, Pid: s.Pid, Annotations: map[string]string{"a": "b"},
			},
		}, s)
		require.Greater(t, s.Pid, 1)
	}
}

func TestSeccompNotifyExec(t *testing.T) {
	needRoot(t)
	a := newAgent(t, func(int32) int32 { return int32(unix.EPROTO) })
	target, c := startLong(t, notified(a))
	s := <-a.state
	require.Equal(t, target.Pid, s.Pid)
	proc := *c.Spec.Process
	proc.Args = []string{"mkdir", "/tmp/d"}
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer r.Close()
	p, err := Exec(context.Background(), ExecConfig{
		Target: target, CgroupPath: c.CgroupPath, Process: &proc, Seccomp: c.Spec.Linux.Seccomp, Stderr: w,
		State: specs.State{ID: "test", Status: specs.StateRunning, Pid: target.Pid},
	})
	w.Close()
	require.NoError(t, err)
	s = <-a.state
	require.Equal(t, p.Pid, s.Pid)
	require.Equal(t, target.Pid, s.State.Pid)
	buf := make([]byte, 200)
	n, err := r.Read(buf)
	require.NoError(t, err)
	require.Equal(t, "mkdir: can't create directory '/tmp/d': Protocol error\n", string(buf[:n]))
	_, err = p.Reap()
	require.NoError(t, err)
	require.NoError(t, p.Close())
}

// TestSeccompNoAgent: a start without an agent fails at once, even if the child waits for it, and leaves nothing.
func TestSeccompNoAgent(t *testing.T) {
	needRoot(t)
	a := &agent{path: filepath.Join(t.TempDir(), "nobody")}
	before := openFDs(t)
	for _, more := range [][]string{nil, {"execve"}} {
		spec := newSpec(newRoot(t), "true")
		notified(a, more...)(spec)
		began := time.Now()
		_, err := runConfig(t, Config{ID: "test", Spec: spec, CgroupPath: cgroupPath(t)})
		require.ErrorIs(t, err, unix.ENOENT)
		require.ErrorContains(t, err, "hand seccomp listener to "+a.path)
		require.Less(t, time.Since(began), 5*time.Second)
	}
	require.Len(t, openFDs(t), len(before))
}

// TestSeccompNotifyCreate: the agent has the descriptor before a container that waits for its start is made.
func TestSeccompNotifyCreate(t *testing.T) {
	needRoot(t)
	a := newAgent(t, func(int32) int32 { return int32(unix.EPROTO) })
	out := filepath.Join(t.TempDir(), "out")
	f, err := os.Create(out)
	require.NoError(t, err)
	defer f.Close()
	spec := newSpec(newRoot(t), "mkdir", "/tmp/d")
	notified(a)(spec)
	p, dir, w := create(t, Config{ID: "c", Spec: spec, Stderr: f, CgroupPath: cgroupPath(t)})
	select {
	case s := <-a.state:
		require.Equal(t, p.Pid, s.Pid)
		require.Equal(t, specs.StateCreating, s.State.Status)
	case <-time.After(time.Second):
		t.Fatal("the agent got nothing")
	}
	require.NoError(t, StartCreated(context.Background(), dir, w))
	exit, err := p.Reap()
	require.NoError(t, err)
	require.Equal(t, 1, exit.Status())
	b, err := os.ReadFile(out)
	require.NoError(t, err)
	require.Equal(t, "mkdir: can't create directory '/tmp/d': Protocol error\n", string(b))

	spec.Linux.Seccomp.ListenerPath += "-not"
	_, err = Create(context.Background(), Config{ID: "c", Spec: spec}, Gate{Dir: t.TempDir(), Ready: func(Waiting) error { return nil }})
	require.ErrorContains(t, err, "hand seccomp listener to")
}

// TestSeccompFeatures: every action, operator and flag is known, and what the kernel has is told from what it has not.
func TestSeccompFeatures(t *testing.T) {
	f := Features().Linux.Seccomp
	require.Len(t, f.Actions, 9)
	require.Len(t, f.Operators, 7)
	require.Equal(t, []string{
		"SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV", "SECCOMP_FILTER_FLAG_TSYNC",
	}, f.KnownFlags)
	require.Subset(t, f.KnownFlags, f.SupportedFlags)
	require.Contains(t, f.SupportedFlags, "SECCOMP_FILTER_FLAG_LOG") // Linux 4.14
	require.False(t, kernelHasFlag(1<<30))
}
