// Package spawn runs a [plan.Plan] in a new process, without a fork of memory and without a second start of this
// binary.
//
// The child is made by clone3(CLONE_VM|CLONE_VFORK|…): it borrows the address space of the caller, whose thread
// stands still meanwhile, runs the calls of the plan in a loop that needs no Go runtime (no allocation, no stack
// growth, no write barrier), and ends in execve or in exit. What went wrong is left in memory that both see. The
// calling thread gives its P away (entersyscall), and no lock is held: other goroutines, one of which may have to
// release the child from a barrier, run on even with GOMAXPROCS=1 and in the middle of a collection.
//
// Before the first call the child puts signals back to their defaults, and closes all descriptors above 2 but the
// inputs: a child that waits at a barrier for long keeps no pipe of anybody else's open. ReserveLow makes that cheap in
// a process that has thousands.
//
// What callers must hold to:
//   - Every descriptor of the process is close-on-exec, since syscall.ForkLock is not taken. The plan closes all
//     but 0, 1 and 2 anyway.
//   - Nobody in this process reaps with wait4(-1) while Run is under way: Run reaps a child that failed.
//   - A change of user in the plan makes the memory of this process, which the child shares, non-dumpable
//     (prctl(2), PR_SET_DUMPABLE): the kernel keeps that bit with the memory.
package spawn

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/sandbox/plan"
)

// Options are what a plan cannot hold.
type Options struct {
	Inputs   map[string]uintptr // a descriptor for each of the plan's inputs other than sync and sync.parent
	CgroupFD int                // descriptor of a cgroup v2 folder to be born in; 0 means none
	PidNS    int                // pidfd of a process whose PID namespace the child starts in; 0 means none
	Made     []Namespace        // that the child gets instead of new ones that the plan asks for
	// Barrier, if not nil, is called on another goroutine at each barrier of the plan while the child waits.
	// An error ends the child. Run waits for it to return even if the child is dead by then.
	Barrier func(pid int) error
	// Held, if not nil, is called after execve and before the first instruction of the new program, which the plan
	// must have prepared by ptrace(PTRACE_TRACEME). An error kills the child.
	Held func(pid int) error
	Keep []uintptr // descriptors that the new program gets too
	// Report, if not nil, is a file of at least a page. The child is then a copy of this process that outlives it, and
	// leaves in the file what goes wrong: see Waiting. Run returns when the plan's last barrier, at which Ready is
	// called instead of Barrier, is behind it.
	Report *os.File
	Ready  func(c Child) error
}

// Child is a process that has passed its execve.
type Child struct {
	Pid       int
	PidFD     int    // owned by the caller, close-on-exec
	StartTime uint64 // field 22 of /proc/PID/stat, in clock ticks since boot
}

// Error is a call of the plan that failed in the child.
type Error struct {
	Index int       // in Plan.Calls
	Call  plan.Call // the call itself
	Text  string    // the call as printed in the plan, with its arguments
	Errno syscall.Errno
	Found uint32 // what a failed check found
	Which int    // the number of that check
}

func (e *Error) Error() string {
	switch {
	case e.Errno != plan.ErrCheck:
		return e.Call.Doc + ": " + e.Errno.Error()
	case e.Call.Name == "ppoll":
		return e.Call.Doc + ": timed out"
	case e.Call.Name == "waitid" && e.Which == 0:
		return e.Call.Doc + ": killed by a signal"
	case e.Call.Name == "waitid":
		return fmt.Sprintf("%s: exit status %d", e.Call.Doc, e.Found)
	}
	return e.Call.Doc + ": unexpected result of " + e.Call.Name
}

// Unwrap gives the error number, for errors.Is(err, unix.EPERM) and the like.
func (e *Error) Unwrap() error { return e.Errno }

// KilledError is a child that was killed by a signal before its execve.
type KilledError struct {
	Signal unix.Signal
	Doc    string // the call that it was in
}

func (e *KilledError) Error() string {
	return fmt.Sprintf("%s: killed by %s", e.Doc, unix.SignalName(e.Signal))
}

// Run runs p in a new child and returns when the child has passed its execve, or failed. It waits for ctx too: a
// context that ends kills the child.
func Run(ctx context.Context, p *plan.Plan, o Options) (Child, error) {
	if err := ctx.Err(); err != nil {
		return Child{}, err
	}
	in := make(map[string]uintptr, len(o.Inputs)+2)
	for k, v := range o.Inputs {
		in[k] = v
	}
	var b *barrier
	if p.Barriers > 0 {
		var err error
		if b, err = newBarrier(in); err != nil {
			return Child{}, err
		}
		defer b.close()
	}
	flags := p.CloneFlags
	for _, n := range o.Made {
		flags &^= n.flag
	}
	if o.Report == nil && len(o.Keep) == 0 {
		if back := lendLow(in); back != nil {
			defer back()
			flags |= unix.CLONE_FILES
		}
	}
	m, err := assemble(p, in, o.Keep)
	if err != nil {
		return Child{}, err
	}
	m.prepare(flags, o.CgroupFD)
	if o.Report != nil {
		return runWaiting(ctx, p, o, m, b)
	}
	unshare, err := m.share(p.Copy)
	if err != nil {
		return Child{}, err
	}
	defer unshare()
	return runToExec(ctx, p, o, m, b)
}

// runToExec makes the child and waits for its execve.
func runToExec(ctx context.Context, p *plan.Plan, o Options, m *machine, b *barrier) (Child, error) {
	if b != nil {
		b.busy = true
		go b.serve(m, p.Barriers, o.Barrier)
	}
	finished, killed := make(chan struct{}), make(chan struct{})
	stop := context.AfterFunc(ctx, func() { m.killWhenBorn(finished); close(killed) })
	pid, errno := start(m, p, o, b != nil)
	close(finished)
	ended := !stop()
	if ended {
		<-killed // it uses the pidfd, which must not be closed before
	}
	if errno != nil {
		return Child{}, errno
	}
	defer runtime.UnlockOSThread() // start locked it
	c, err := m.outcome(p, pid)
	if err == nil && o.Held != nil {
		err = c.hold(o.Held)
	}
	switch {
	case err == nil && ended:
		c.kill()
		return Child{}, ctx.Err()
	case err != nil && ended:
		return Child{}, ctx.Err()
	case err != nil:
		return Child{}, errors.Join(b.hookError(), err)
	}
	return c, nil
}

// start makes the child. On success the goroutine stays locked to the thread that is the child's parent (and, for
// a held child, its tracer).
func start(m *machine, p *plan.Plan, o Options, wait bool) (int, error) {
	runtime.LockOSThread()
	back, err := enterPidNS(o.PidNS, p.PidNS)
	if err != nil {
		runtime.UnlockOSThread()
		return 0, err
	}
	defer back()
	leave, err := enterAll(p.Enter, o.Made)
	if err != nil {
		runtime.UnlockOSThread()
		return 0, err
	}
	defer leave()
	var pid, errno uintptr
	if wait {
		pid, errno = runBlocking(m)
	} else {
		pid, errno = run(m)
	}
	runtime.KeepAlive(m)
	if errno != 0 {
		runtime.UnlockOSThread()
		return 0, fmt.Errorf("clone3 with flags %#x: %w", p.CloneFlags, syscall.Errno(errno))
	}
	return int(pid), nil
}

// enterPidNS makes the next child of this thread start in the PID namespace of a pidfd, or at path. The returned
// function undoes that; if it cannot, the thread stays locked and so dies with its goroutine.
func enterPidNS(pidfd int, path string) (func(), error) {
	if pidfd == 0 && path == "" {
		return func() {}, nil
	}
	own, err := os.Open("/proc/thread-self/ns/pid_for_children")
	if err != nil {
		return nil, err
	}
	if path != "" {
		ns, err := os.Open(path)
		if err != nil {
			own.Close()
			return nil, fmt.Errorf("open pid namespace: %w", err)
		}
		defer ns.Close()
		pidfd = int(ns.Fd())
	}
	if err := unix.Setns(pidfd, unix.CLONE_NEWPID); err != nil {
		own.Close()
		return nil, fmt.Errorf("enter pid namespace %s: %w", path, err)
	}
	return func() {
		defer own.Close()
		if unix.Setns(int(own.Fd()), unix.CLONE_NEWPID) != nil {
			runtime.LockOSThread()
		}
	}, nil
}

// outcome tells, after the clone returned, whether the child has passed its execve.
func (m *machine) outcome(p *plan.Plan, pid int) (Child, error) {
	c := Child{Pid: pid, PidFD: int(atomic.LoadInt32(&m.pidfd))}
	if m.rep.errno != 0 {
		c.reap()
		return Child{}, m.rep.failure(p)
	}
	st, err := settled(pid)
	if err != nil {
		c.kill()
		return Child{}, err
	}
	if st.Flags&pfForkNoExec != 0 {
		return Child{}, &KilledError{Signal: c.reap(), Doc: p.Calls[m.rep.pc].Doc}
	}
	c.StartTime = st.StartTime
	return c, nil
}

// settled reads the stat of a child that the kernel has let go of its parent's memory: which it does on the way
// through execve, a moment before it takes note of that, or on the way out. It waits for that moment to pass.
func settled(pid int) (Stat, error) {
	for wait := time.Microsecond; ; wait = min(2*wait, time.Millisecond) {
		st, err := ReadStat(pid)
		if err != nil || st.Flags&pfForkNoExec == 0 || st.State == 'Z' || st.State == 'X' {
			return st, err
		}
		time.Sleep(wait)
	}
}

// kill ends the child, if it is still alive, reaps it and tells by which signal it died (0: by none).
func (c Child) kill() unix.Signal {
	if c.PidFD > 0 {
		_ = unix.PidfdSendSignal(c.PidFD, unix.SIGKILL, nil, 0) // it may be dead already
	}
	return c.reap()
}

func (c Child) reap() unix.Signal {
	var ws unix.WaitStatus
	for {
		_, err := unix.Wait4(c.Pid, &ws, unix.WALL, nil)
		if err != unix.EINTR {
			break
		}
	}
	unix.Close(c.PidFD)
	if ws.Signaled() {
		return ws.Signal()
	}
	return 0
}

// killWhenBorn kills the child of m once there is one, unless the start ends first.
func (m *machine) killWhenBorn(finished chan struct{}) {
	for {
		if fd := atomic.LoadInt32(&m.pidfd); fd >= 0 {
			_ = unix.PidfdSendSignal(int(fd), unix.SIGKILL, nil, 0) // fails only for a dead child
			return
		}
		select {
		case <-finished:
			return
		case <-time.After(time.Millisecond):
		}
	}
}
