// Package execdriver makes a process of a container's record, and knows what is around a process that runs: the root file
// system as it sees it, its user, devices and namespaces, the memory that it shares, its control group and what it uses of the
// machine, and other processes that join it (exec). How the kernel is told is the sandbox's; when a container starts, and what
// follows its end, is the engine's.
package execdriver

import (
	"log/slog"
	"sync"

	"github.com/moby/moby/api/types/events"

	"github.com/coble-os/coble/layers/driver"
	"github.com/coble-os/coble/rt/containers"
	"github.com/coble-os/coble/rt/job"
	"github.com/coble-os/coble/sandbox"
)

// Options say whose containers they are, and whom a Driver tells what.
type Options struct {
	Instance string // names the folder of control groups
	Root     string // the engine's durable folder
	Log      *slog.Logger

	Jobs       *job.Table // gets a handler of each job about processes
	Containers *containers.Table
	Emit       func(t events.Type, a events.Action, id string, attributes map[string]string)
	// Mounts says how the root of a container's layer is mounted at a folder.
	Mounts func(id, at string) ([]driver.Mount, error)
}

// Driver is the processes of an engine's containers. Its methods may be called from any goroutine.
type Driver struct {
	o Options

	mu    sync.Mutex
	procs map[*containers.Container]*sandbox.Process // of those that run; guarded by mu
	execs map[string]*execution                      // by id; guarded by mu
}

// New makes a driver and registers its jobs.
func New(o Options) *Driver {
	d := &Driver{o: o, procs: map[*containers.Container]*sandbox.Process{}, execs: map[string]*execution{}}
	job.Register(o.Jobs, "exec-create", d.execCreate)
	job.Register(o.Jobs, "exec", d.execStart)
	job.Register(o.Jobs, "exec-inspect", d.execInspect)
	job.Register(o.Jobs, "exec-resize", d.execResize)
	job.Register(o.Jobs, "plan", d.plan)
	job.Register(o.Jobs, "top", d.top)
	job.Register(o.Jobs, "stats", d.stats)
	return d
}

func (d *Driver) emit(c *containers.Container, action events.Action, extra map[string]string) {
	d.o.Emit(events.ContainerEventType, action, c.Spec().ID, c.Attributes(extra))
}

// cgroup is the control group of a container.
func (d *Driver) cgroup(c *containers.Container) string {
	return "/" + d.o.Instance + "/" + c.Spec().ID
}
