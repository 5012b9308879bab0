package execdriver

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/moby/moby/api/types/container"

	"github.com/coble-os/coble/rt/containers"
	"github.com/coble-os/coble/rt/ocispec"
	"github.com/coble-os/coble/rt/store"
	"github.com/coble-os/coble/sandbox/cgroup"
)

// group is the container's control group; ok is false where it has none.
func (d *Driver) group(c *containers.Container) (g *cgroup.Group, ok bool) {
	g, err := cgroup.Open(d.cgroup(c))
	return g, err == nil
}

func (d *Driver) removeCgroup(c *containers.Container) {
	if g, ok := d.group(c); ok {
		d.noteWritten(c, g)
		if err := endGroup(g); err != nil {
			d.o.Log.Error("remove cgroup", "container", c.Spec().Name, "err", err)
		}
	}
}

// noteWritten writes down what the present run has written to storage, before the kernel's count goes with the group.
// Twice in a run, as after an engine's death, does no harm.
func (d *Driver) noteWritten(c *containers.Container, g *cgroup.Group) {
	n, err := g.Written()
	if err != nil {
		d.o.Log.Error("read what container wrote", "container", c.Spec().Name, "err", err)
	}
	if n > c.View().State.WrittenNow {
		c.SetState(func(st *store.State) { st.WrittenNow = n })
	}
}

// Written is what all runs have written to storage, in bytes, since the container was made or the machine was switched
// on without a shutdown before.
func (d *Driver) Written(c *containers.Container) uint64 {
	st := c.View().State
	if g, ok := d.group(c); ok && st.Running() {
		if n, err := g.Written(); err == nil {
			st.WrittenNow = max(st.WrittenNow, n)
		}
	}
	return st.Written + st.WrittenNow
}

// KillGrace is how long a process has to end after SIGKILL.
const KillGrace = 10 * time.Second

// endGroup kills what is left in a group and removes it.
func endGroup(g *cgroup.Group) error {
	ctx, cancel := context.WithTimeout(context.Background(), KillGrace)
	defer cancel()
	for {
		if err := g.Kill(ctx); err != nil {
			return err
		}
		err := g.Remove()
		if err == nil || ctx.Err() != nil {
			return err
		}
		time.Sleep(time.Millisecond) // a killed process leaves its group when its parent has reaped it
	}
}

// Kill ends every process in a container's control group.
func (d *Driver) Kill(c *containers.Container) {
	g, ok := d.group(c)
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), KillGrace)
	defer cancel()
	if err := g.Kill(ctx); err != nil {
		d.o.Log.Error("kill processes", "container", c.Spec().Name, "err", err)
	}
}

// OOMKilled tells whether the memory limit has killed one of them.
func (d *Driver) OOMKilled(c *containers.Container) bool {
	g, ok := d.group(c)
	if !ok {
		return false
	}
	n, err := g.OOMKills()
	return err == nil && n > 0
}

// Freeze makes every process of a container stand still.
func (d *Driver) Freeze(ctx context.Context, c *containers.Container) error {
	g, err := cgroup.Open(d.cgroup(c))
	if err != nil {
		return err
	}
	return g.Freeze(ctx)
}

// Thaw lets a paused container go on; one that is not paused stays as it is.
func (d *Driver) Thaw(c *containers.Container) error {
	if c.View().State.Status != container.StatePaused {
		return nil
	}
	g, err := cgroup.Open(d.cgroup(c))
	if err != nil {
		return err
	}
	if err := g.Thaw(); err != nil {
		return err
	}
	c.SetState(func(st *store.State) { st.Status = container.StateRunning })
	return nil
}

// SweepCgroups ends and removes the groups of an instance that nobody claims, and the instance's own folders when they
// are empty then.
func SweepCgroups(instance string, claimed func(id string) bool) error {
	layout, err := cgroup.Detect()
	if err != nil {
		return err
	}
	var bad error
	for _, h := range layout.Hierarchies {
		entries, err := os.ReadDir(filepath.Join(h.Mount, instance))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		bad = errors.Join(bad, err)
		for _, d := range entries {
			if !d.IsDir() || claimed(d.Name()) {
				continue
			}
			if g, err := cgroup.Open("/" + instance + "/" + d.Name()); err == nil {
				bad = errors.Join(bad, endGroup(g))
			}
		}
		os.Remove(filepath.Join(h.Mount, instance))
	}
	return bad
}

// Limit makes limits hold for a container that runs.
func (d *Driver) Limit(c *containers.Container, r container.Resources) error {
	g, err := cgroup.Open(d.cgroup(c))
	if err != nil {
		return err
	}
	return g.Update(ocispec.Limits(r))
}

// CgroupVersion is 1 (also for hybrid machines) or 2; 0 where there are no control groups.
func CgroupVersion() int {
	l, err := cgroup.Detect()
	switch {
	case err != nil:
		return 0
	case l.Unified:
		return 2
	}
	return 1
}
