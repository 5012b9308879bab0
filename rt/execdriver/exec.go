package execdriver

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/coble-os/coble/rt/containers"
	"github.com/coble-os/coble/rt/fault"
	"github.com/coble-os/coble/rt/job"
	"github.com/coble-os/coble/rt/ocispec"
	"github.com/coble-os/coble/rt/request"
	"github.com/coble-os/coble/rt/stdio"
	"github.com/coble-os/coble/sandbox"
	"github.com/coble-os/coble/sandbox/rootfs"
)

// ExecIn asks for another process in a running container.
type ExecIn struct {
	Ref        string
	Cmd, Env   []string
	User       string // empty: the container's
	WorkingDir string // empty: the container's
	Tty        bool
	Stdin      bool // connect the standard input
	Stdout     bool
	Stderr     bool
	Privileged bool
	DetachKeys []byte // typed on its terminal, they let the client go
}

// ExecView is an exec as others may see it.
type ExecView struct {
	ExecIn
	ID, Container string
	Running       bool
	Pid           int
	ExitCode      *int // nil until it has ended
}

// execution is one exec. It lives as long as its container and this engine: its output has no other reader.
type execution struct {
	d  *Driver
	c  *containers.Container
	id string
	in ExecIn

	mu      sync.Mutex
	started bool     // guarded by mu
	running bool     // guarded by mu
	pid     int      // guarded by mu; kept when it has ended
	code    *int     // guarded by mu
	console *os.File // guarded by mu
}

func (d *Driver) findExec(id string) (*execution, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if x := d.execs[id]; x != nil {
		return x, nil
	}
	return nil, fault.New(fault.NotFound, "No such exec instance: %s", id)
}

// execCreate notes what to run.
func (d *Driver) execCreate(_ *job.Job, in ExecIn) (string, error) {
	c, err := d.o.Containers.Find(in.Ref)
	if err != nil {
		return "", err
	}
	if err := execAllowed(c); err != nil {
		return "", err
	}
	if len(in.Cmd) == 0 || in.Cmd[0] == "" {
		return "", fault.New(fault.Invalid, "No exec command specified")
	}
	x := &execution{d: d, c: c, id: containers.NewID(), in: in}
	d.mu.Lock()
	d.execs[x.id] = x
	d.mu.Unlock()
	d.emit(c, events.Action("exec_create: "+strings.Join(in.Cmd, " ")), map[string]string{"execID": x.id})
	return x.id, nil
}

func execAllowed(c *containers.Container) error {
	switch st := c.View().State; {
	case st.Status == container.StatePaused:
		return fault.New(fault.Conflict, "container %s is paused, unpause the container before exec", c.Spec().Name)
	case st.Status == container.StateRestarting:
		return fault.New(fault.Conflict, "container %s is restarting, wait until the container is running", c.Spec().ID)
	case !st.Running():
		return fault.New(fault.Conflict, "container %s is not running", c.Spec().ID)
	}
	return nil
}

// ExecStartIn starts a noted exec.
type ExecStartIn struct {
	ID          string
	Detach      bool
	ConsoleSize [2]uint // rows, columns
}

// execStart runs it to its end, or, detached, only starts it.
func (d *Driver) execStart(j *job.Job, in ExecStartIn) (any, error) {
	x, err := d.findExec(in.ID)
	if err != nil {
		return nil, err
	}
	if err := execAllowed(x.c); err != nil {
		return nil, err
	}
	x.mu.Lock()
	again := x.started
	x.started = true
	x.mu.Unlock()
	if again {
		return nil, fault.New(fault.Conflict, "exec command %s has already run", in.ID)
	}
	ends, proc, err := x.start(j.Context(), in)
	if err != nil {
		x.ended(ExitCode(err.Error()))
		return nil, err
	}
	copied := x.connect(j, ends, in.Detach)
	if in.Detach {
		go x.wait(proc, ends, copied)
		return nil, nil
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		x.wait(proc, ends, copied)
	}()
	select {
	case <-done:
	case <-j.Context().Done(): // the client has gone, or typed its detach keys: the process goes on
	}
	return nil, nil
}

// start makes the streams and the process.
func (x *execution) start(ctx context.Context, in ExecStartIn) (ends [3]*os.File, proc *sandbox.Process, err error) {
	target := x.d.process(x.c)
	if target == nil {
		return ends, nil, fault.New(fault.Conflict, "container %s is not running", x.c.Spec().ID)
	}
	process, filter, err := x.process(target.Pid)
	if err != nil {
		return ends, nil, err
	}
	if in.ConsoleSize[0] > 0 && x.in.Tty {
		process.ConsoleSize = &specs.Box{Height: in.ConsoleSize[0], Width: in.ConsoleSize[1]}
	}
	var child [3]*os.File
	if !x.in.Tty {
		if ends, child, err = x.pipes(); err != nil {
			return ends, nil, err
		}
	}
	proc, err = sandbox.Exec(ctx, sandbox.ExecConfig{
		Target: target, CgroupPath: x.d.cgroup(x.c), Freeze: x.d.pidFamily(x.c), Process: process, Seccomp: filter, Stdin: child[0], Stdout: child[1], Stderr: child[2],
		State: specs.State{Version: specs.Version, ID: x.c.Spec().ID, Status: specs.StateRunning, Pid: target.Pid, Bundle: x.c.RunDir()},
	})
	stdio.CloseAll(child)
	if err != nil {
		stdio.CloseAll(ends)
		return ends, nil, x.d.StartError(x.c, err)
	}
	x.mu.Lock()
	x.running, x.pid, x.console = true, proc.Pid, proc.Console
	x.mu.Unlock()
	x.d.emit(x.c, events.Action("exec_start: "+strings.Join(x.in.Cmd, " ")), map[string]string{"execID": x.id})
	return ends, proc, nil
}

// process is what to run, with the container's own limits and filter.
func (x *execution) process(target int) (*specs.Process, *specs.LinuxSeccomp, error) {
	spec := x.c.Spec()
	if x.in.User != "" {
		spec.Config.User = x.in.User
	}
	spec.Config.Tty = x.in.Tty
	spec.Config.Env = request.MergeEnv(spec.Config.Env, x.in.Env)
	if x.in.WorkingDir != "" {
		spec.Config.WorkingDir = x.in.WorkingDir
	}
	spec.Path, spec.Args = x.in.Cmd[0], x.in.Cmd[1:]
	root, err := rootfs.Open(fmt.Sprintf("/proc/%d/root", target))
	if err != nil {
		return nil, nil, fmt.Errorf("look into container %s: %w", spec.Name, err)
	}
	defer root.Close()
	user, err := userIn(root, spec.Config.User, spec.Host.GroupAdd)
	if err != nil {
		return nil, nil, err
	}
	kernel, _ := Uname()
	return ocispec.Process(ocispec.Input{Spec: spec, User: user, Kernel: ocispec.ParseKernel(kernel), Available: availableCaps()}, x.in.Privileged)
}

// pipes makes the streams that were asked for; the others are /dev/null.
func (x *execution) pipes() (ends, child [3]*os.File, err error) {
	for n, want := range []bool{x.in.Stdin, x.in.Stdout, x.in.Stderr} {
		if !want {
			continue
		}
		mine := stdio.ReadEnd
		if n == 0 {
			mine = stdio.WriteEnd
		}
		r, w, perr := stdio.Pipe(mine)
		if perr != nil {
			stdio.CloseAll(ends)
			stdio.CloseAll(child)
			return ends, child, perr
		}
		if ends[n], child[n] = r, w; n == 0 {
			ends[n], child[n] = w, r
		}
	}
	return ends, child, nil
}

// connect starts copying; the group is done when the output has ended.
func (x *execution) connect(j *job.Job, ends [3]*os.File, detach bool) *sync.WaitGroup {
	var copied sync.WaitGroup
	out := func(w io.Writer, f *os.File) {
		if f != nil {
			copied.Go(func() {
				io.Copy(w, f)
				io.Copy(io.Discard, f) // a client that has gone must not hold the process up
			})
		}
	}
	stdout, stderr := j.Stdout, j.Stderr
	if detach {
		stdout, stderr = io.Discard, io.Discard
	}
	in := ends[0]
	if x.in.Tty {
		in = x.tty()
		out(stdout, in)
	}
	out(stdout, ends[1])
	out(stderr, ends[2])
	switch {
	case in == nil:
	case detach || !x.in.Stdin || j.Stdin == nil:
		if !x.in.Tty {
			in.Close()
		}
	default:
		go func() {
			io.Copy(in, j.Stdin)
			if !x.in.Tty {
				in.Close()
			}
		}()
	}
	return &copied
}

func (x *execution) tty() *os.File {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.console
}

// wait waits for the end and then, for a bounded time, for the last of the output: what the process left behind may
// hold it open.
func (x *execution) wait(proc *sandbox.Process, ends [3]*os.File, copied *sync.WaitGroup) {
	exit, err := proc.WaitNoReap()
	if err == nil {
		exit, err = proc.Reap()
	}
	code := exit.Status()
	if err != nil {
		x.d.o.Log.Error("wait for exec", "container", x.c.Spec().Name, "err", err)
		code = 255
	}
	tty := x.tty()
	late := stdio.AfterGrace(append(ends[1:], tty))
	copied.Wait()
	late.Stop()
	x.ended(code)
	stdio.CloseAll(ends)
	proc.Close() // and the terminal with it
	x.d.emit(x.c, events.ActionExecDie, map[string]string{"execID": x.id, "exitCode": fmt.Sprint(code)})
}

func (x *execution) ended(code int) {
	x.mu.Lock()
	x.running, x.code, x.console = false, &code, nil
	x.mu.Unlock()
}

func (d *Driver) execInspect(_ *job.Job, id string) (ExecView, error) {
	x, err := d.findExec(id)
	if err != nil {
		return ExecView{}, err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	return ExecView{ExecIn: x.in, ID: x.id, Container: x.c.Spec().ID, Running: x.running, Pid: x.pid, ExitCode: x.code}, nil
}

func (d *Driver) execResize(_ *job.Job, in stdio.ResizeIn) (any, error) {
	x, err := d.findExec(in.Ref)
	if err != nil {
		return nil, err
	}
	tty := x.tty()
	if tty == nil {
		return nil, fault.New(fault.Conflict, "exec %s is not running, or has no terminal", in.Ref)
	}
	return nil, stdio.Resize(tty, in.Rows, in.Cols)
}

// ExecIDs are the execs that run in the container of this id.
func (d *Driver) ExecIDs(container string) []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var ids []string
	for id, x := range d.execs {
		x.mu.Lock()
		if x.running && x.c.Spec().ID == container {
			ids = append(ids, id)
		}
		x.mu.Unlock()
	}
	slices.Sort(ids)
	return ids
}

// Forget drops a container's execs with it.
func (d *Driver) Forget(c *containers.Container) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for id, x := range d.execs {
		if x.c == c {
			delete(d.execs, id)
		}
	}
}
