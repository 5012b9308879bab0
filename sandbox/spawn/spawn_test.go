package spawn

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/sandbox/plan"
)

// These tests run plans of a few calls; none needs root.

func imm(v uintptr) plan.Arg { return plan.Arg{Kind: plan.Int, Int: v} }

func text(s string) plan.Arg { return plan.Arg{Kind: plan.Str, Str: s} }

func strs(s ...string) plan.Arg { return plan.Arg{Kind: plan.Vector, Strs: s} }

func slot(s plan.Slot) plan.Arg { return plan.Arg{Kind: plan.Value, Slot: s} }

func call(name string, args ...plan.Arg) plan.Call {
	return plan.Call{Name: name, Args: args, Want: plan.Any, Doc: "do " + name}
}

// execSelf executes this test binary, which TestMain makes a helper of.
func execSelf(env ...string) plan.Call {
	return call("execve", text("/proc/self/exe"), strs("spawn-helper"), strs(env...))
}

// TestMain is also the program that children execute.
func TestMain(m *testing.M) {
	if os.Getenv("SPAWN_HELPER") == "ok" {
		os.Exit(7)
	}
	if os.Args[0] == "spawn-helper" { // a plan that ought to have failed before
		os.Exit(9)
	}
	os.Exit(m.Run())
}

func status(t *testing.T, c Child) int {
	t.Helper()
	var ws unix.WaitStatus
	_, err := unix.Wait4(c.Pid, &ws, 0, nil)
	require.NoError(t, err)
	require.NoError(t, unix.Close(c.PidFD))
	require.True(t, ws.Exited(), "%v", ws)
	return ws.ExitStatus()
}

func noChildren(t *testing.T) {
	t.Helper()
	_, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
	require.ErrorIs(t, err, unix.ECHILD, "a child was left")
}

func TestRun(t *testing.T) {
	c, err := Run(context.Background(), &plan.Plan{Calls: []plan.Call{execSelf("SPAWN_HELPER=ok")}}, Options{})
	require.NoError(t, err)
	require.NotZero(t, c.StartTime)
	require.Equal(t, 7, status(t, c))
	noChildren(t)
}

func TestErrorNamesTheCall(t *testing.T) {
	_, err := Run(context.Background(), &plan.Plan{Calls: []plan.Call{
		call("umask", imm(0)), call("openat", imm(^uintptr(99)), text("/no/such"), imm(0), imm(0)), execSelf(),
	}}, Options{})
	var e *Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, 1, e.Index)
	require.Equal(t, `openat(-100, "/no/such", 0, 0)`, e.Text)
	require.EqualError(t, err, "do openat: no such file or directory")
	require.ErrorIs(t, err, os.ErrNotExist)
	noChildren(t)
}

// TestSlots: a result is used by later calls: as a number, in a path, and in memory.
func TestSlots(t *testing.T) {
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer r.Close()
	cwd := unix.AT_FDCWD
	open := call("openat", imm(uintptr(cwd)), text("/etc/hostname"), imm(unix.O_RDONLY|unix.O_CLOEXEC), imm(0))
	open.To = 2
	again := call("openat", imm(uintptr(cwd)), plan.Arg{Kind: plan.FdPath, Slot: 2}, imm(unix.O_RDONLY|unix.O_CLOEXEC), imm(0))
	again.To = 3
	out := call("write", slot(1), plan.Arg{Kind: plan.Mem, Mem: make([]byte, 16), Fixes: []plan.Fix{{Off: 8 - int(wordSize), Slot: 3}}}, imm(8))
	out.Want = 8
	p := &plan.Plan{Slots: []string{"", "out", "file", "again"}, Inputs: []string{"out"}, Calls: []plan.Call{open, again, out, execSelf("SPAWN_HELPER=ok")}}
	c, err := Run(context.Background(), p, Options{Inputs: map[string]uintptr{"out": w.Fd()}})
	require.NoError(t, err)
	w.Close()
	buf := make([]byte, 8)
	_, err = r.Read(buf)
	require.NoError(t, err)
	require.NotZero(t, buf[8-wordSize], "the descriptor that a second open gave")
	require.Equal(t, 7, status(t, c))
	_, err = Run(context.Background(), p, Options{})
	require.EqualError(t, err, `run plan: no value for input "out"`)
}

// TestSkips: ignored errors and successes skip as they say.
func TestSkips(t *testing.T) {
	bad := call("chdir", text("/no/such"))
	mayFail := bad
	mayFail.Ignore, mayFail.SkipOn = []syscall.Errno{unix.ENOENT}, 1
	fine := call("chdir", text("/"))
	fine.SkipOK = 2
	c, err := Run(context.Background(), &plan.Plan{Calls: []plan.Call{mayFail, bad, fine, bad, bad, execSelf("SPAWN_HELPER=ok")}}, Options{})
	require.NoError(t, err)
	require.Equal(t, 7, status(t, c))
}

func TestChecks(t *testing.T) {
	get := call("getcwd", plan.Arg{Kind: plan.Mem, Mem: make([]byte, 4096)}, imm(4096))
	get.Checks = []plan.Check{{Arg: 0, Off: 0, Size: 1, Mask: 0xff, Want: '/'}}
	c, err := Run(context.Background(), &plan.Plan{Calls: []plan.Call{get, execSelf("SPAWN_HELPER=ok")}}, Options{})
	require.NoError(t, err)
	require.Equal(t, 7, status(t, c))
	get.Checks[0].Want = 'x'
	_, err = Run(context.Background(), &plan.Plan{Calls: []plan.Call{get, execSelf()}}, Options{})
	require.EqualError(t, err, "do getcwd: unexpected result of getcwd")
	get.Checks, get.Want = nil, 1
	_, err = Run(context.Background(), &plan.Plan{Calls: []plan.Call{get, execSelf()}}, Options{})
	require.ErrorIs(t, err, plan.ErrCheck)
	noChildren(t)
}

// TestSearch: a search through PATH reports EACCES before ENOENT.
func TestSearch(t *testing.T) {
	try := func(path string) plan.Call {
		c := call("execve", text(path), strs("x"), strs())
		c.Ignore = []syscall.Errno{unix.ENOENT, unix.ENOTDIR, unix.EACCES}
		return c
	}
	_, err := Run(context.Background(), &plan.Plan{Calls: []plan.Call{try("/a/x"), try("/b/x")}}, Options{})
	require.ErrorIs(t, err, unix.ENOENT)
	_, err = Run(context.Background(), &plan.Plan{Calls: []plan.Call{try("/etc"), try("/b/x")}}, Options{})
	require.ErrorIs(t, err, unix.EACCES)
}

// barrierCalls are the three calls of a barrier, with slots 1 (sync) and 2 (sync.parent).
func barrierCalls() []plan.Call {
	write := call("write", slot(1), text("r"), imm(1))
	read := call("read", slot(1), plan.Arg{Kind: plan.Mem, Mem: make([]byte, 8)}, imm(1))
	write.Want, read.Want = 1, 1
	read.Checks = []plan.Check{{Arg: 1, Size: 1, Mask: 0xff, Want: 1}}
	return []plan.Call{call("close", slot(2)), write, read}
}

func barrierPlan(rest ...plan.Call) *plan.Plan {
	return &plan.Plan{
		Slots: []string{"", "sync", "sync.parent"}, Inputs: []string{"sync", "sync.parent"}, Barriers: 1,
		Calls: append(barrierCalls(), rest...),
	}
}

// TestBarrierWithOneP hangs if the thread that waits for the child keeps its P, or a lock that a start of another
// process needs.
func TestBarrierWithOneP(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	for range 20 {
		c, err := Run(context.Background(), barrierPlan(execSelf("SPAWN_HELPER=ok")), Options{Barrier: func(pid int) error {
			runtime.GC()
			proc, err := os.StartProcess("/proc/self/exe", []string{"x"}, &os.ProcAttr{Env: []string{"SPAWN_HELPER=ok"}})
			if err != nil {
				return err
			}
			_, err = proc.Wait()
			return err
		}})
		require.NoError(t, err)
		require.Equal(t, 7, status(t, c))
	}
}

// TestWaitingDescriptors: a child at a barrier holds its inputs and stdio, and nothing else.
func TestWaitingDescriptors(t *testing.T) {
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer r.Close()
	defer w.Close()
	var held []string
	c, err := Run(context.Background(), barrierPlan(execSelf("SPAWN_HELPER=ok")), Options{Barrier: func(pid int) error {
		dir := "/proc/" + strconv.Itoa(pid) + "/fd"
		entries, err := os.ReadDir(dir)
		for _, e := range entries {
			if n, _ := strconv.Atoi(e.Name()); n > 2 {
				name, _ := os.Readlink(dir + "/" + e.Name())
				held = append(held, name)
			}
		}
		return err
	}})
	require.NoError(t, err)
	status(t, c)
	require.Len(t, held, 1, "%v", held)
	require.Contains(t, held[0], "socket:")
}

func TestGaps(t *testing.T) {
	const top = 1<<32 - 1
	require.Equal(t, []gap{{3, top}}, gapsBetween(nil))
	require.Equal(t, []gap{{3, 4}, {6, 6}, {9, top}}, gapsBetween([]uintptr{8, 5, 7, 5, 0}))
	require.Equal(t, []gap{{5, top}}, gapsBetween([]uintptr{3, 4}))
}

// TestBarrierUnused: a plan that cannot be run is an error, whatever it has barriers for.
func TestBarrierUnused(t *testing.T) {
	p := barrierPlan(execSelf())
	p.Inputs, p.Slots = append(p.Inputs, "other"), append(p.Slots, "other")
	_, err := Run(context.Background(), p, Options{})
	require.EqualError(t, err, `run plan: no value for input "other"`)
}

func TestBarrierError(t *testing.T) {
	boom := errors.New("boom")
	_, err := Run(context.Background(), barrierPlan(execSelf()), Options{Barrier: func(int) error { return boom }})
	require.ErrorIs(t, err, boom)
	noChildren(t)
}

// TestKilled: a child that is killed before its execve is an error which says so, and where it was.
func TestKilled(t *testing.T) {
	_, err := Run(context.Background(), barrierPlan(execSelf()), Options{Barrier: func(pid int) error {
		return unix.Kill(pid, unix.SIGKILL)
	}})
	var k *KilledError
	require.ErrorAs(t, err, &k)
	require.Equal(t, unix.SIGKILL, k.Signal)
	require.Regexp(t, "^do (write|read): killed by SIGKILL$", err.Error())
	noChildren(t)
}

func TestContext(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	_, err := Run(ctx, barrierPlan(execSelf()), Options{Barrier: func(int) error {
		<-ctx.Done()
		return nil
	}})
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

// TestSignals: dispositions and mask of the parent are not the child's.
func TestSignals(t *testing.T) {
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer r.Close()
	signal.Ignore(unix.SIGUSR1)
	defer signal.Reset(unix.SIGUSR1)
	cat := call("execve", text("/bin/cat"), strs("cat", "/proc/self/status"), strs())
	dup := call("dup3", slot(1), imm(1), imm(0))
	mask := call("rt_sigprocmask", imm(unix.SIG_SETMASK), plan.Arg{Kind: plan.Mem, Mem: make([]byte, sigsetSize)}, imm(0), imm(sigsetSize))
	p := &plan.Plan{Slots: []string{"", "out"}, Inputs: []string{"out"}, Calls: []plan.Call{dup, mask, cat}}
	c, err := Run(context.Background(), p, Options{Inputs: map[string]uintptr{"out": w.Fd()}})
	require.NoError(t, err)
	w.Close()
	b, err := io.ReadAll(r)
	require.NoError(t, err)
	status(t, c)
	require.Regexp(t, "SigBlk:\t0+\nSigIgn:\t0+\nSigCgt:\t0+\n", string(b))
}

func TestParseStat(t *testing.T) {
	s, err := parseStat([]byte("12 (a) b (c)) S 1 12 12 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 987654 1 2 3\n"))
	require.NoError(t, err)
	require.Equal(t, Stat{State: 'S', Flags: 4194560, Threads: 1, StartTime: 987654}, s)
	require.True(t, Stat{State: 'Z', Threads: 1}.Ended())
	require.False(t, Stat{State: 'Z', Threads: 2}.Ended(), "only its first thread has ended")
	require.False(t, s.Ended())
	for _, bad := range []string{"", "1 (x)", "1 (x) S 1 2 3", "1 (x) S 1 12 12 0 -1 x 1 0 0 0 0 0 0 0 20 0 1 0 987654"} {
		_, err := parseStat([]byte(bad))
		require.Error(t, err, bad)
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("12 (a) b (c)) S 1 12 12 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 987654 1 2 3\n"))
	f.Fuzz(func(t *testing.T, b []byte) { _, _ = parseStat(b) })
}

// forkPlan makes a child of the child, which executes this test binary, waits for it and checks its status; then the
// child goes on with slots that the other has changed none of.
func forkPlan(helper string, want uint32) *plan.Plan {
	mark := call("umask", imm(0o123))
	fork := call(plan.Fork)
	fork.To, fork.SkipOK = 1, 2
	other := call("umask", imm(0o77)) // of the child's child, which has a umask of its own
	other.To = 2
	inner := call("execve", text("/proc/self/exe"), strs("spawn-helper"), strs(helper))
	wait := call("waitid", imm(unix.P_PIDFD), slot(1), plan.Arg{Kind: plan.Mem, Mem: make([]byte, 128)}, imm(unix.WEXITED), imm(0))
	code, status := 8, 20
	if sigsetSize == 16 {
		code = 4
	}
	if wordSize == 8 {
		status = 24
	}
	wait.Checks = []plan.Check{
		{Arg: 2, Off: code, Size: 4, Mask: 0xffffffff, Want: 1},
		{Arg: 2, Off: status, Size: 4, Mask: 0xffffffff, Want: want},
	}
	same := call("umask", imm(0o22))
	same.Want = 0o123
	return &plan.Plan{Slots: []string{"", "pidfd", "mask"}, Calls: []plan.Call{mark, fork, other, inner, wait, same, execSelf("SPAWN_HELPER=ok")}}
}

// TestFork: a call of the plan makes a process of its own.
func TestFork(t *testing.T) {
	for range 20 {
		c, err := Run(context.Background(), forkPlan("SPAWN_HELPER=ok", 7), Options{})
		require.NoError(t, err)
		require.Equal(t, 7, status(t, c))
	}
	noChildren(t)
}

func TestForkErrors(t *testing.T) {
	_, err := Run(context.Background(), forkPlan("SPAWN_HELPER=ok", 0), Options{})
	require.EqualError(t, err, "do waitid: exit status 7")
	p := forkPlan("", 0)
	p.Calls[3] = call("execve", text("/no/such"), strs("x"), strs())
	_, err = Run(context.Background(), p, Options{})
	require.EqualError(t, err, "do execve: no such file or directory")
	noChildren(t)
}

// TestWaiting: a child that is a copy outlives its parent's interest only if that has said so, reports to a file, and is
// let go by a byte.
func TestWaiting(t *testing.T) {
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer r.Close()
	report, err := os.CreateTemp(t.TempDir(), "report")
	require.NoError(t, err)
	defer report.Close()
	require.NoError(t, report.Truncate(int64(os.Getpagesize())))
	read := call("read", slot(3), plan.Arg{Kind: plan.Mem, Mem: make([]byte, 8)}, imm(1))
	read.Want = 1
	p := barrierPlan(read, call("chdir", text("/no/such")), execSelf())
	p.Slots, p.Inputs, p.Gate = append(p.Slots, "gate"), append(p.Inputs, "gate"), 3
	o := Options{Inputs: map[string]uintptr{"gate": r.Fd()}, Report: report}
	boom := errors.New("boom")
	o.Ready = func(Child) error { return boom }
	_, err = Run(context.Background(), p, o)
	require.ErrorIs(t, err, boom)
	noChildren(t)
	require.NoError(t, report.Truncate(0))
	require.NoError(t, report.Truncate(int64(os.Getpagesize())))
	o.Ready = func(Child) error { return nil }
	c, err := Run(context.Background(), p, o)
	require.NoError(t, err)
	st, err := ReadStat(c.Pid)
	require.NoError(t, err)
	require.True(t, st.Forked())
	require.NoError(t, ReadReport(report, p.Gate, Steps(p)))
	_, err = w.Write([]byte{1})
	require.NoError(t, err)
	require.Equal(t, 125, status(t, c))
	require.EqualError(t, ReadReport(report, p.Gate, Steps(p)), "do chdir: no such file or directory")
	require.ErrorIs(t, ReadReport(report, p.Gate+5, nil), ErrAbandoned)
	w.Close()
}

// TestManyDescriptors: in a process that has many, children share its table for a moment, see no more than their inputs,
// and leave all of it as it was.
func TestManyDescriptors(t *testing.T) {
	require.NoError(t, ReserveLow())
	for range 512 {
		f, err := os.Open("/dev/null")
		require.NoError(t, err)
		t.Cleanup(func() { f.Close() })
	}
	free := len(low.free)
	before := descriptors(t, "self")
	var wg sync.WaitGroup
	for range lowNumbers { // more at a time than there are numbers for, two each
		wg.Go(func() {
			var held map[string]string
			c, err := Run(context.Background(), barrierPlan(execSelf("SPAWN_HELPER=ok")), Options{Barrier: func(pid int) error {
				held = descriptors(t, strconv.Itoa(pid))
				return nil
			}})
			if assert.NoError(t, err) {
				assert.Equal(t, 7, status(t, c))
			}
			assert.Len(t, held, 1, "%v", held)
		})
	}
	wg.Wait()
	require.Equal(t, before, descriptors(t, "self"))
	require.Len(t, low.free, free)

	require.Nil(t, lendLow(map[string]uintptr{"closed": 1 << 20}))
	require.Len(t, low.free, free, "nothing stays lent after a failure")
}

// descriptors are those above 2 of a process, by number.
func descriptors(t *testing.T, pid string) map[string]string {
	dir := "/proc/" + pid + "/fd"
	entries, err := os.ReadDir(dir)
	assert.NoError(t, err)
	all := map[string]string{}
	for _, e := range entries {
		if n, _ := strconv.Atoi(e.Name()); n > 2 {
			if name, err := os.Readlink(dir + "/" + e.Name()); err == nil && name != fmt.Sprintf("/proc/%d/fd", os.Getpid()) {
				all[e.Name()] = name
			}
		}
	}
	return all
}
