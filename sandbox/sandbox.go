// Package sandbox isolates one tree of processes, as an OCI runtime spec says, and is what an engine calls.
//
// [Start] compiles the spec into a list of system calls (sandbox/compiler, sandbox/plan) and runs it in a child that borrows this
// process's memory until its execve (sandbox/spawn). The child of a Start is a child of this process: [Process]
// signals it by pidfd, waits without reaping ([Process.WaitNoReap]) and reaps ([Process.Reap]). [Adopt] takes over
// a process that an earlier run of the engine started. [Exec] starts another process inside. [Plan] shows what Start
// would do.
//
// What callers must hold to:
//   - Nobody in this process reaps children of others (no wait4(-1)), and all descriptors are close-on-exec.
//   - A process that starts others for strangers makes itself non-dumpable (prctl(2), PR_SET_DUMPABLE). A start with
//     a user other than root does so anyway, since the child shares this process's memory while it changes users.
//   - After a crash of its predecessor an engine thaws the groups that it did not pause: see Exec.
//
// Nothing is mounted on the host: all mounts are made inside the new mount namespace and die with it. What a spec asks
// for and nothing here does is an error that names the field; what the kernel lacks is one that names the option.
//
// This package imports nothing else of coble. The oldest kernel is 5.10.
package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/sandbox/cgroup"
	"github.com/coble-os/coble/sandbox/compiler"
	"github.com/coble-os/coble/sandbox/plan"
	"github.com/coble-os/coble/sandbox/spawn"
)

// Mount is one mount(2), made as it stands.
type Mount = compiler.Mount

// Config says what Start needs beside the OCI spec.
type Config struct {
	ID     string
	Spec   *specs.Spec
	Bundle string // folder that a relative Spec.Root.Path and relative bind sources start from
	// RootMounts are mounted on Root.Path inside the container's new mount namespace before anything else (an
	// overlay from layers): nothing is ever mounted on the host. Root.Path must be a folder.
	RootMounts []Mount
	// Trees has the mounts that RootMounts name as their Tree. They stay the caller's to close, and can be used once.
	Trees map[string]*os.File
	// Stdin, Stdout, Stderr become 0, 1, 2; nil is /dev/null. They stay the caller's to close. Ignored when
	// Spec.Process.Terminal is set. Pipes are given to the process's user.
	Stdin, Stdout, Stderr *os.File
	// CgroupPath, such as "/coble/web", is made below the root of each hierarchy. It must not hold processes. After a
	// failed Start it is gone again; else the caller removes it (cgroup.Open, Remove). Empty: Spec.Linux.CgroupsPath,
	// and if that is empty too, no cgroup, and no limits.
	CgroupPath string
	// Created, if not nil, runs in the parent while the child waits at its barrier, namespaces made, before mounts
	// and exec: network set-up by /proc/<pid>/ns/net. An error aborts the start.
	Created func(pid int) error
	// Ahead, if not nil, was begun for this start, earlier. It stays the caller's to End. One of another kind than the spec
	// wants is left alone.
	Ahead *Ahead
	// Freeze lists the cgroup paths of the containers whose PID namespace the spec joins by path, all of them. They
	// stand still until the execve, or until the process of a Create waits, for the reason given at Exec. It is not nil
	// where such a namespace has none but processes that are trusted.
	Freeze []string

	// Init, if not empty, is the path inside the container of a program (sandbox/reaper) that runs the command and is
	// process 1 in its place. The spec has it among its mounts.
	Init string

	// MapRoot mounts the root id-mapped with the mappings of the spec's user namespace: files of a root folder that belong
	// to 0 outside belong to 0 inside. Needs Linux 5.12 and a file system that can.
	MapRoot bool

	// Preserve is how many descriptors from 3 on the program gets, with the same numbers. They must be open.
	Preserve int

	// Delegated, if not empty, lists who is in the cgroup already, which somebody else has made and will remove.
	Delegated []int
	// KeepKeyring leaves the session keyring of this process to the container.
	KeepKeyring bool

	gate         *Gate  // of a Create
	rootMount    uint64 // what the root lies on, of a container with HostMounts
	noSetattr    bool   // for tests: go the way of kernels before 5.12
	noTimeOnExec bool   // likewise, before 6.3
}

// ErrOOM is a start that the memory limit did not leave enough memory for.
var ErrOOM = errors.New("memory limit too small to start in")

// ExecError is a program that could not be executed.
type ExecError struct {
	Name   string        // args[0]
	Lookup bool          // it was looked for in PATH
	Errno  syscall.Errno // ENOENT: no such file (exit code 127 by custom); EACCES, ENOEXEC and others: 126
}

func (e *ExecError) Error() string {
	if e.Lookup && e.Errno == unix.ENOENT {
		return fmt.Sprintf("exec: %q: executable file not found in $PATH", e.Name)
	}
	return fmt.Sprintf("exec: %q: %v", e.Name, e.Errno)
}

// Unwrap gives the error number, so that errors.Is(err, fs.ErrNotExist) and fs.ErrPermission work.
func (e *ExecError) Unwrap() error { return e.Errno }

// ExitCode is what a shell, and Docker, report for such a program.
func (e *ExecError) ExitCode() int {
	if e.Errno == unix.ENOENT || e.Errno == unix.ENOTDIR {
		return 127
	}
	return 126
}

// Start starts a container's first process. When it returns without an error, the process has passed its execve.
// An error leaves nothing behind.
func Start(ctx context.Context, c Config) (*Process, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	layout, err := c.layout()
	if err != nil {
		return nil, err
	}
	r := &runner{inputs: map[string]uintptr{}}
	defer r.close()
	if r.ahead = c.Ahead; r.ahead == nil || r.ahead.kind != newAheadKind(c.Spec) {
		r.ahead = MakeAhead(c.Spec)
		defer r.ahead.End()
	}
	for name, f := range c.Trees {
		r.inputs[name] = f.Fd()
	}
	if err := r.stdio(&c); err != nil {
		return nil, err
	}
	if err := r.listener(c.Spec.Linux.Seccomp, c.creating()); err != nil {
		return nil, err
	}
	if err := c.giveStdio(ctx, r); err != nil {
		return nil, err
	}
	if c.gate != nil {
		if err := r.gateFiles(c.gate.Dir); err != nil {
			return nil, err
		}
	}
	if err := r.hookFiles(c.Spec.Hooks); err != nil {
		return nil, err
	}
	p, err := c.compile(layout, r.own)
	if err != nil {
		return nil, err
	}
	if err := c.makeTargets(); err != nil {
		return nil, err
	}
	if err := c.findRootMount(); err != nil {
		return nil, err
	}
	var group *cgroup.Group
	if c.CgroupPath != "" {
		if group, err = c.makeGroup(layout); err != nil {
			return nil, err
		}
	}
	proc, err := c.run(ctx, r, p, group)
	if err == nil && c.gate == nil {
		err = c.poststart(ctx, r, proc)
	}
	if err != nil {
		return nil, c.undo(r, group, err)
	}
	return proc, nil
}

// creating is the state of the container while it is made.
func (c *Config) creating() specs.State {
	return specs.State{
		Version: specs.Version, ID: c.ID, Status: specs.StateCreating, Bundle: c.Bundle, Annotations: c.Spec.Annotations,
	}
}

func (c *Config) makeGroup(l cgroup.Layout) (*cgroup.Group, error) {
	if len(c.Delegated) > 0 {
		return cgroup.CreateDelegated(l, c.CgroupPath, c.Spec.Linux.Resources, c.Delegated)
	}
	return cgroup.CreateIn(l, c.CgroupPath, c.Spec.Linux.Resources)
}

// run runs the plan while those who could meddle with it stand still.
func (c *Config) run(ctx context.Context, r *runner, p *plan.Plan, group *cgroup.Group) (*Process, error) {
	if p.PidNS != "" && c.Freeze == nil {
		return nil, errors.New("linux.namespaces: a pid namespace by path needs the cgroups of those who live in it")
	}
	thaw, err := freezeAll(ctx, c.Freeze)
	if err != nil {
		return nil, err
	}
	o := spawn.Options{
		Barrier: func(pid int) error { return c.atBarrier(ctx, r, pid) },
		Keep:    numbers(3, c.Preserve),
	}
	if c.gate != nil {
		o.Report, o.Ready = r.report, func(child spawn.Child) error { return c.gate.Ready(waiting(p, child)) }
	}
	proc, err := r.start(ctx, p, group, o)
	if terr := thaw(); terr != nil && err == nil {
		return nil, errors.Join(terr, proc.destroy())
	}
	return proc, err
}

// undoLimit is how long the end of what a failed start left in its group may take.
const undoLimit = 10 * time.Second

// undo removes the group of a start that failed, which may be nil, and says so if memory was the reason.
func (c *Config) undo(r *runner, group *cgroup.Group, err error) error {
	if r.hooked {
		err = errors.Join(err, c.poststop(context.Background()))
	}
	if c.Spec.Linux.IntelRdt != nil {
		err = errors.Join(err, RemoveResctrl(c.ID, c.Spec.Linux.IntelRdt))
	}
	if group == nil {
		return errors.Join(err, c.unmountRoot())
	}
	if outOfMemory(err) {
		if n, herr := group.LimitHits(); herr == nil && n > 0 {
			err = fmt.Errorf("%w: %w", ErrOOM, err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), undoLimit)
	defer cancel()
	return errors.Join(err, group.Kill(ctx), group.Remove(), c.unmountRoot())
}

// outOfMemory tells whether an error may be that of a start in a group which has hit its memory limit. The kernel has
// many names for that (ENOSPC for a mount, E2BIG for the arguments of execve, even ENOENT), and in a fresh group nobody
// else can have hit it. But a program that is not there is not there.
func outOfMemory(err error) bool {
	var call *spawn.Error
	var killed *spawn.KilledError
	var exec *ExecError
	if errors.As(err, &exec) {
		return exec.Errno == unix.ENOMEM || exec.Errno == unix.E2BIG
	}
	return errors.As(err, &call) || errors.As(err, &killed)
}

// Plan returns what Start would run, for printing. It looks at bind sources and at how cgroups are mounted, and
// changes nothing.
func Plan(c Config) (*plan.Plan, error) {
	layout, err := c.layout()
	if err != nil {
		return nil, err
	}
	var own [3]bool
	return c.compile(layout, own)
}

func (c *Config) layout() (cgroup.Layout, error) {
	if c.Spec == nil || c.Spec.Linux == nil {
		return cgroup.Layout{}, errors.New("spec.linux: missing")
	}
	if c.CgroupPath == "" {
		c.CgroupPath = c.Spec.Linux.CgroupsPath
	}
	if c.CgroupPath == "" {
		if c.Spec.Linux.Resources != nil && limits(c.Spec.Linux.Resources) {
			return cgroup.Layout{}, errors.New("linux.resources: need a cgroup path")
		}
		return cgroup.Layout{}, nil
	}
	l, err := cgroup.Detect()
	if err != nil {
		return l, err
	}
	return cgroup.Select(c.CgroupPath, l, c.Spec.Linux.Resources)
}

// limits tells whether r asks for anything.
func limits(r *specs.LinuxResources) bool {
	return len(r.Devices) > 0 || r.Memory != nil || r.CPU != nil || r.Pids != nil || r.BlockIO != nil ||
		len(r.HugepageLimits) > 0 || r.Network != nil || len(r.Rdma) > 0 || len(r.Unified) > 0
}

func (c *Config) compile(l cgroup.Layout, own [3]bool) (*plan.Plan, error) {
	root, err := c.root()
	if err != nil {
		return nil, err
	}
	k := kernel.get()
	dirs, flags := c.dirs()
	return compiler.Compile(compiler.Input{
		ID: c.ID, Spec: c.Spec, Bundle: c.Bundle, Root: root, RootMounts: c.RootMounts,
		Init: c.Init, MapRoot: c.MapRoot,
		Barrier: c.needsBarrier() || c.gate != nil, Gate: c.gate != nil, Keep: c.Preserve, KeepKeyring: c.KeepKeyring,
		Facts: compiler.Facts{
			Dirs: dirs, SourceFlags: flags, MountSetattr: k.setattr && !c.noSetattr, LastCap: k.lastCap, OwnStdio: own, Cgroup: facts(c.CgroupPath, l),
			BareRoot: bareRoot(), Host: ownNamespaces(c.Spec.Linux.Namespaces), TimeOnExec: k.timeOnExec && !c.noTimeOnExec, AppArmor: k.appArmor, SELinux: k.seLinux,
			Resctrl: c.Spec.Linux.IntelRdt != nil && hasResctrl(),
		},
	})
}

// root is the absolute path of the root folder.
func (c *Config) root() (string, error) {
	if c.Spec.Root == nil {
		return "", errors.New("root.path: missing")
	}
	root := c.Spec.Root.Path
	if filepath.IsAbs(root) {
		return filepath.Clean(root), nil
	}
	if !filepath.IsAbs(c.Bundle) {
		return "", fmt.Errorf("root.path: %s is relative, and bundle %q is not absolute", root, c.Bundle)
	}
	return filepath.Join(c.Bundle, root), nil
}

// giveStdio does for a container in a user namespace what otherwise its own child does.
func (c *Config) giveStdio(ctx context.Context, r *runner) error {
	for _, n := range c.Spec.Linux.Namespaces {
		if n.Type != specs.UserNamespace || r.own == [3]bool{} {
			continue
		}
		uids, _, err := userMaps(ctx, c.Spec)
		if err != nil {
			return err
		}
		return r.give(uids, c.Spec.Process.User.UID)
	}
	return nil
}

// numbers returns n numbers from first on.
func numbers(first, n int) []uintptr {
	out := make([]uintptr, n)
	for i := range out {
		out[i] = uintptr(first + i)
	}
	return out
}
