package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/sandbox/cgroup"
	"github.com/coble-os/coble/sandbox/compiler"
	"github.com/coble-os/coble/sandbox/plan"
	"github.com/coble-os/coble/sandbox/spawn"
	"github.com/coble-os/coble/sandbox/spec"
)

// ErrPaused is a container that is frozen already.
var ErrPaused = errors.New("container is paused")

// freezeLimit is how long a container may take to stand still. Only a process that hangs in the kernel takes long.
const freezeLimit = 10 * time.Second

// ExecConfig says what Exec runs, and where.
type ExecConfig struct {
	Target     *Process // any live process of the container
	CgroupPath string   // of the container, as given to Start
	Freeze     []string // cgroup paths of the other containers that live in the target's PID namespace, all of them
	Process    *specs.Process
	Seccomp    *specs.LinuxSeccomp // nil: no filter
	HostMounts bool                // the container has no mount namespace of its own
	State      specs.State         // of the container, for the agent at the filter's listenerPath
	// As in Config.
	Stdin, Stdout, Stderr *os.File
	Preserve              int
}

// Exec starts another process in a running container: in its mount, PID, UTS, IPC, network and cgroup namespaces and
// its control groups. The new process is a child of this one.
//
// Until its execve the child shares this process's memory, in a PID namespace where others live, who might hold
// CAP_SYS_PTRACE and write to it. So the container's cgroup, and those in Freeze, are frozen from before the clone until after the execve; the
// new process is held before its first instruction until it is in that cgroup too. An engine that dies in between
// leaves the container frozen: the next one thaws what it did not pause (cgroup.Group.Thaw).
func Exec(ctx context.Context, c ExecConfig) (*Process, error) {
	if c.Target == nil || c.Process == nil {
		return nil, errors.New("exec: no target or no process")
	}
	group, err := cgroup.Open(c.CgroupPath)
	if err != nil {
		return nil, err
	}
	r := &runner{inputs: map[string]uintptr{}}
	defer r.close()
	like := Config{Spec: &specs.Spec{Process: c.Process}, Stdin: c.Stdin, Stdout: c.Stdout, Stderr: c.Stderr}
	if err := r.stdio(&like); err != nil {
		return nil, err
	}
	if err := r.listener(c.Seccomp, c.State); err != nil {
		return nil, err
	}
	before, later, err := r.joinsForExec(group)
	if err != nil {
		return nil, err
	}
	sameTime, err := sameTimeNS(c.Target.Pid)
	if err != nil {
		return nil, err
	}
	same, err := sameNS(c.Target.Pid, "user")
	if err == nil && !same {
		err = r.giveTo(c.Target.Pid, c.Process.User.UID)
	}
	if err != nil {
		return nil, err
	}
	k := kernel.get()
	p, err := compiler.CompileExec(compiler.ExecInput{
		Process: c.Process, Seccomp: c.Seccomp, UserNS: !same, TimeNS: !sameTime, Keep: c.Preserve,
		Chroot: c.HostMounts,
		Facts:  compiler.Facts{LastCap: k.lastCap, OwnStdio: r.own, Cgroup: before, AppArmor: k.appArmor, SELinux: k.seLinux},
	})
	if err != nil {
		return nil, err
	}
	thaw, err := freezeAll(ctx, append(slices.Clone(c.Freeze), c.CgroupPath))
	if err != nil {
		return nil, err
	}
	defer thaw()
	return r.exec(ctx, &c, p, func(pid int) error {
		if err := later(pid); err != nil {
			return err
		}
		if err := bindTo(pid, c.Process.ExecCPUAffinity); err != nil {
			return err
		}
		return thaw()
	})
}

// giveTo is give for the user namespace of a running process.
func (r *runner) giveTo(pid int, user uint32) error {
	uids, err := readMap(pid, "uid_map")
	if err != nil {
		return err
	}
	return r.give(uids, user)
}

// bindTo sets the processors that a process ends up on, once it is in its groups, whose cpuset may have changed them.
func bindTo(pid int, a *specs.CPUAffinity) error {
	if a == nil || a.Final == "" {
		return nil
	}
	mask, err := spec.CPUMask(a.Final)
	if err != nil {
		return fmt.Errorf("process.execCPUAffinity.final: %w", err)
	}
	var set unix.CPUSet
	for n := range len(mask) * 8 {
		if mask[n/8]>>(n%8)&1 != 0 {
			set.Set(n)
		}
	}
	if err := unix.SchedSetaffinity(pid, &set); err != nil {
		return fmt.Errorf("bind process to processors %s: %w", a.Final, err)
	}
	return nil
}

// joinsForExec opens what the child joins before its execve, and returns how it joins the frozen group after it.
func (r *runner) joinsForExec(g *cgroup.Group) (compiler.Cgroup, func(pid int) error, error) {
	if g.Unified() {
		return compiler.Cgroup{Unified: true}, g.Add, nil
	}
	joins, err := g.Joins()
	if err != nil {
		return compiler.Cgroup{}, nil, err
	}
	var before compiler.Cgroup
	var last *os.File
	for _, j := range joins {
		if slices.Contains(j.Controllers, "freezer") {
			last = j.Tasks
			r.files = append(r.files, last)
			continue
		}
		name := inputName(j.Hierarchy)
		r.keep(name, j.Tasks)
		before.Hierarchies = append(before.Hierarchies, compiler.Hierarchy{
			Mount: j.Mount, Controllers: j.Controllers, Path: g.Path, Input: name,
		})
	}
	if last == nil {
		return compiler.Cgroup{}, nil, errors.New("exec: no cgroup controller \"freezer\" (kernel option CONFIG_CGROUP_FREEZER)")
	}
	return before, func(pid int) error {
		_, err := last.WriteString(fmt.Sprint(pid))
		return err
	}, nil
}

// exec runs the plan in the target's PID namespace.
func (r *runner) exec(ctx context.Context, c *ExecConfig, p *plan.Plan, held func(int) error) (*Process, error) {
	fd := -1
	err := c.Target.control(func(pidfd int) error {
		var err error
		fd, err = unix.FcntlInt(uintptr(pidfd), unix.F_DUPFD_CLOEXEC, 3)
		return err
	})
	if err != nil {
		return nil, err
	}
	r.keep("target", os.NewFile(uintptr(fd), "target"))
	if err := unix.PidfdSendSignal(fd, 0, nil, 0); err != nil {
		return nil, fmt.Errorf("exec in process %d: %w", c.Target.Pid, ErrGone)
	}
	if c.HostMounts {
		root, err := os.OpenFile(fmt.Sprintf("/proc/%d/root", c.Target.Pid), unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			return nil, fmt.Errorf("open root of process %d: %w", c.Target.Pid, err)
		}
		r.keep("container.root", root)
		if err := unix.PidfdSendSignal(fd, 0, nil, 0); err != nil { // the path was its own
			return nil, fmt.Errorf("exec in process %d: %w", c.Target.Pid, ErrGone)
		}
	}
	return r.start(ctx, p, nil, spawn.Options{PidNS: fd, Held: held, Keep: numbers(3, c.Preserve)})
}

// freezers are the groups that this process has frozen for a start. The zero value is ready.
var freezers freezeTable

type freezeTable struct {
	mu   sync.Mutex
	busy map[string]chan struct{} // closed when the group is thawed
}

// enter waits until nobody else here has path frozen.
func (t *freezeTable) enter(ctx context.Context, path string) error {
	for {
		t.mu.Lock()
		wait, ok := t.busy[path]
		if !ok {
			if t.busy == nil {
				t.busy = map[string]chan struct{}{}
			}
			t.busy[path] = make(chan struct{})
			t.mu.Unlock()
			return nil
		}
		t.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (t *freezeTable) leave(path string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	close(t.busy[path])
	delete(t.busy, path)
}

// freeze makes a group stand still, for one caller at a time. The returned function, which may be called more than
// once, lets it run on.
func freeze(ctx context.Context, g *cgroup.Group) (func() error, error) {
	ctx, cancel := context.WithTimeout(ctx, freezeLimit)
	defer cancel()
	if err := freezers.enter(ctx, g.Path); err != nil {
		return nil, err
	}
	paused, err := g.Frozen()
	if err == nil && paused {
		err = ErrPaused
	}
	if err == nil {
		err = g.Freeze(ctx)
	}
	if err != nil {
		freezers.leave(g.Path)
		return nil, err
	}
	return sync.OnceValue(func() error {
		defer freezers.leave(g.Path)
		return g.Thaw()
	}), nil
}

// freezeAll freezes several groups.
func freezeAll(ctx context.Context, paths []string) (thaw func() error, err error) {
	var undo []func() error
	thaw = func() error {
		var errs []error
		for _, f := range undo {
			errs = append(errs, f())
		}
		return errors.Join(errs...)
	}
	sorted := slices.Compact(slices.Sorted(slices.Values(paths))) // one order for all, so that two starts cannot wait for each other
	for _, p := range sorted {
		g, err := cgroup.Open(p)
		if err != nil {
			return nil, errors.Join(err, thaw())
		}
		f, err := freeze(ctx, g)
		if err != nil {
			return nil, errors.Join(err, thaw())
		}
		undo = append(undo, f)
	}
	return thaw, nil
}
