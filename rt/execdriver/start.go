package execdriver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/moby/moby/api/types/container"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/layers/driver"
	"github.com/coble-os/coble/rt/containers"
	"github.com/coble-os/coble/rt/fault"
	"github.com/coble-os/coble/rt/job"
	"github.com/coble-os/coble/rt/ocispec"
	"github.com/coble-os/coble/sandbox"
	"github.com/coble-os/coble/sandbox/reaper"
	"github.com/coble-os/coble/sandbox/rootfs"
)

// Command is a container's start: what Begin has begun and Prepare has found out, and what its caller adds.
type Command struct {
	c      *containers.Container
	ahead  *sandbox.Ahead
	mounts []driver.Mount // of its root
	user   rootfs.User

	Files   [3]*os.File         // standard streams, the caller's; unused with a terminal, whose master is the process's Console
	Created func(pid int) error // runs while the child waits, its namespaces made and nothing mounted
}

// Begin makes the kernel begin with what takes it longest of a container's start, while the caller sees to what comes before.
// The caller closes what it returns.
func (d *Driver) Begin(c *containers.Container) *Command {
	return &Command{c: c, ahead: sandbox.MakeAhead(ocispec.Outline(c.Spec()))}
}

// Close lets go of what the start, which has ended, does not need any more.
func (cmd *Command) Close() { cmd.ahead.End() }

// Prepare looks into a container's root for what its start needs. Nothing is changed but for its folder of this boot, which is
// made.
func (d *Driver) Prepare(cmd *Command) error {
	c := cmd.c
	if err := os.MkdirAll(viewDir(c), 0o711); err != nil {
		return fmt.Errorf("make run folder: %w", err)
	}
	var err error
	if cmd.mounts, err = d.o.Mounts(c.Spec().ID, viewDir(c)); err != nil {
		return err
	}
	cmd.user, err = lookUpUser(c, cmd.mounts)
	return err
}

// Start starts a container's process. What it makes beside that, undo takes away.
func (d *Driver) Start(ctx context.Context, cmd *Command, undo func(func())) (*sandbox.Process, error) {
	c := cmd.c
	if err := writeInit(c); err != nil {
		return nil, err
	}
	in, err := d.ociInput(c, cmd.user)
	if err != nil {
		return nil, err
	}
	spec, err := ocispec.Build(in)
	if err != nil {
		return nil, err
	}
	if err := openShm(c); err != nil {
		return nil, err
	}
	undo(func() { closeShm(c.RunDir()) })
	ready, release, err := driver.Attach(cmd.mounts)
	if err != nil {
		return nil, err
	}
	defer release()
	rootMounts, trees := sandboxMounts(ready)
	proc, err := sandbox.Start(ctx, sandbox.Config{
		ID: c.Spec().ID, Spec: spec, Bundle: c.RunDir(), RootMounts: rootMounts, Trees: trees, CgroupPath: d.cgroup(c),
		Stdin: cmd.Files[0], Stdout: cmd.Files[1], Stderr: cmd.Files[2],
		Init:    ocispec.InitPath(c.Spec()),
		Freeze:  d.freezeForStart(c),
		Created: cmd.Created,
		Ahead:   cmd.ahead,
	})
	if err != nil {
		return nil, err
	}
	d.setProcess(c, proc)
	return proc, nil
}

// Adopt takes over the process of a container that an earlier engine started. One that has ended gives an error.
func (d *Driver) Adopt(c *containers.Container) (*sandbox.Process, error) {
	st := c.View().State
	proc, err := sandbox.Adopt(st.Pid, st.StartTime)
	if err != nil {
		return nil, err
	}
	d.setProcess(c, proc)
	if st.Status == container.StateRunning {
		// An engine that died in the middle of an exec left the container frozen.
		if g, ok := d.group(c); ok {
			if err := g.Thaw(); err != nil {
				d.o.Log.Error("thaw container", "container", c.Spec().Name, "err", err)
			}
		}
	}
	return proc, nil
}

func (d *Driver) setProcess(c *containers.Container, p *sandbox.Process) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.procs[c] = p
}

// process is a container's, nil if it does not run.
func (d *Driver) process(c *containers.Container) *sandbox.Process {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.procs[c]
}

// Signal sends a signal to a container's process.
func (d *Driver) Signal(c *containers.Container, sig unix.Signal) error {
	proc := d.process(c)
	if proc == nil {
		return fault.New(fault.Conflict, "container %s is not running", c.Spec().ID)
	}
	return proc.Signal(sig)
}

// Clean takes away what there is of a container's run beside its process, which has ended or never was: whatever else is in its
// control group is killed.
func (d *Driver) Clean(c *containers.Container) {
	d.removeCgroup(c)
	closeShm(c.RunDir())
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.procs, c)
}

// writeInit makes the container's own copy of the init that it asks for: one who may mount could change it.
func writeInit(c *containers.Container) error {
	if ocispec.InitPath(c.Spec()) == "" {
		return nil
	}
	if err := os.WriteFile(filepath.Join(c.RunDir(), "init"), reaper.Executable(), 0o755); err != nil {
		return fmt.Errorf("write init: %w", err)
	}
	return nil
}

// StartError finds the words that Docker's client looks for: it turns them into the exit codes 126 and 127.
func (d *Driver) StartError(c *containers.Container, err error) error {
	var exec *sandbox.ExecError
	if !errors.As(err, &exec) {
		return fmt.Errorf("start container %s: %w%s", c.Spec().Name, err, d.ifFull())
	}
	text := exec.Errno.Error()
	if exec.Errno == unix.ENOENT && !hasSlash(exec.Name) {
		text = "executable file not found in $PATH"
	}
	return fault.New(fault.Invalid, "start container %s: exec: %q: %s", c.Spec().Name, exec.Name, text)
}

func hasSlash(s string) bool { return filepath.Base(s) != s }

// ifFull explains errors that a full disk has many names for: overlayfs mounts read-only on one.
func (d *Driver) ifFull() string {
	const little = 64 << 10 // bytes
	var st unix.Statfs_t
	if err := unix.Statfs(d.o.Root, &st); err != nil || int64(st.Bavail)*int64(st.Bsize) > little {
		return ""
	}
	return fmt.Sprintf("; the disk of %s is full: remove containers or images (coble rm, coble rmi, coble image prune)", d.o.Root)
}

// PlanOut is the list of system calls that starting a container makes.
type PlanOut struct {
	Text string
	JSON []byte
}

// plan compiles what starting the container would do, without doing it.
func (d *Driver) plan(_ *job.Job, ref string) (PlanOut, error) {
	var out PlanOut
	c, err := d.o.Containers.Find(ref)
	if err != nil {
		return out, err
	}
	mounts, err := d.o.Mounts(c.Spec().ID, viewDir(c))
	if err != nil {
		return out, err
	}
	in, err := d.ociInput(c, rootfs.User{Home: "/root"})
	if err != nil {
		return out, err
	}
	spec, err := ocispec.Build(in)
	if err != nil {
		return out, err
	}
	rootMounts, _ := sandboxMounts(mounts)
	p, err := sandbox.Plan(sandbox.Config{ID: c.Spec().ID, Spec: spec, Bundle: c.RunDir(), RootMounts: rootMounts, CgroupPath: d.cgroup(c), Init: ocispec.InitPath(c.Spec())})
	if err != nil {
		return out, err
	}
	out.Text = p.String()
	out.JSON, err = json.MarshalIndent(p, "", "  ")
	return out, err
}
