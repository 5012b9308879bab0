package engine

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"

	"github.com/coble-os/coble/init/notify"
	"github.com/coble-os/coble/rt/execdriver"
	"github.com/coble-os/coble/rt/store"
)

// adoptAll brings the engine's view and the kernel's together, whatever happened before, be it crash, upgrade or power
// cut: containers whose process still lives are taken over, ends that were missed are committed, and what no record
// claims is removed. A damaged record is reported and does not stop the others.
func (e *Engine) adoptAll() {
	ctx, cancel := context.WithTimeout(e.ctx, exitGrace)
	e.keeper.WaitReady(ctx)
	cancel()
	specs, err := e.store.Containers()
	if err != nil {
		e.log.Error("read containers", "err", err)
	}
	// All of those that have ended share one wait for how.
	lost, cancel := context.WithTimeout(e.ctx, exitGrace)
	defer cancel()
	var planned, all []*ctr
	for _, spec := range specs {
		all = append(all, e.handles(e.Containers.Add(spec, e.stateOf(spec))))
	}
	for _, c := range all {
		spec := c.Spec()
		e.Net.Claim(c.Container)
		if !e.adopted {
			c.SetState(func(*store.State) {}) // what a boot begins with is this boot's state
		}
		if err := c.adopt(lost); err != nil {
			e.log.Error("take over container", "container", spec.Name, "err", err)
		}
		if c.View().State.Status == container.StateRestarting {
			planned = append(planned, c)
		}
	}
	if err := e.store.SetRunMeta("adopted", true); err != nil {
		e.log.Error("write state", "err", err)
	}
	e.sweep()
	if err := e.Net.Apply(); err != nil {
		e.log.Error("network", "err", err)
	}
	for _, c := range planned {
		c.planRestart(time.Until(c.View().State.RestartAt))
	}
}

// stateOf is this boot's state, or, on the first start of a boot, what was known at the last shutdown.
func (e *Engine) stateOf(spec store.Spec) store.State {
	st, ok, err := e.store.State(spec.ID)
	if err != nil {
		e.log.Error("read state", "container", spec.Name, "err", err)
	}
	switch {
	case ok:
		return st
	case e.adopted:
		// Made in this boot. What was asked for is the first that is written of a start: an engine died right then.
		return store.State{Status: container.StateCreated, Starting: spec.WantRunning}
	case spec.LastExit != nil:
		return *spec.LastExit
	case spec.WantRunning:
		return store.State{Status: container.StateExited, ExitCode: 255, Error: "the machine went down while the container ran"}
	default:
		return store.State{Status: container.StateCreated}
	}
}

// adopt takes over one container. lost bounds how long an exit status is looked for.
func (c *ctr) adopt(lost context.Context) error {
	st := c.View().State
	switch {
	case st.Starting:
		return c.abandonStart()
	case !st.Running():
		return nil
	}
	if err := c.std.Adopt(); err != nil {
		return err
	}
	proc, err := c.e.Exec.Adopt(c.Container)
	if err != nil {
		code, known := c.inheritedExit(lost, notify.Process{PID: st.Pid, Start: st.StartTime})
		if !known {
			code = 255
		}
		c.ended(code, known)
		c.e.keeper.Forget(notify.Process{PID: st.Pid, Start: st.StartTime})
		return nil
	}
	c.mu.Lock()
	c.exited = make(chan struct{})
	c.mu.Unlock()
	if err := c.e.Net.Adopt(c.Container); err != nil {
		c.e.log.Error("serve names", "container", c.Spec().Name, "err", err)
	}
	go c.watch(proc, true)
	return nil
}

// abandonStart ends what is left of a start that an engine's death cut short.
func (c *ctr) abandonStart() error {
	c.e.Exec.Kill(c.Container)
	c.std.Abandon()
	wanted := c.Spec().WantRunning
	os.RemoveAll(filepath.Join(c.RunDir(), "spool"))
	c.e.Exec.Clean(c.Container)
	c.SetState(func(st *store.State) {
		st.Starting, st.Pid = false, 0
		if st.Status != container.StateCreated {
			st.Status = container.StateExited
		}
		if wanted {
			st.Status, st.RestartAt = container.StateRestarting, now()
		}
	})
	return nil
}

// sweep removes what no record claims: descriptors at the keeper, cgroups with their processes, run folders, writable
// layers. It runs before the first job.
func (e *Engine) sweep() {
	e.keeper.Sweep(func(name string) bool { return strings.HasPrefix(name, "listen.") })
	claimed := func(id string) bool { return e.Containers.ByID(id) != nil }
	if err := execdriver.SweepCgroups(e.name, func(name string) bool {
		c := e.Containers.ByID(name)
		return c != nil && c.Running()
	}); err != nil {
		e.log.Error("sweep cgroups", "err", err)
	}
	sweepDir(filepath.Join(e.o.Run, "c"), claimed)
	sweepDir(filepath.Join(e.o.Root, "containers"), claimed)
	if err := e.Images.SweepLayers(claimed); err != nil {
		e.log.Error("sweep layers", "err", err)
	}
}

func sweepDir(dir string, claimed func(string) bool) {
	entries, _ := os.ReadDir(dir)
	for _, d := range entries {
		if !claimed(d.Name()) {
			execdriver.RemoveRunDir(filepath.Join(dir, d.Name()))
		}
	}
}

// findPredecessor finds out what earlier engines of this boot got done. Where none has launched what the file and the
// restart policies want (the machine was down, the last engine shut down politely, or died on the way), this one does.
func (e *Engine) findPredecessor() {
	e.adopted, e.fresh = e.store.RunMeta("adopted"), !e.store.RunMeta("launched")
}

func (e *Engine) isFresh() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.fresh
}

// launched notes that the launch is done: the next engine of this boot, and a reload, leave alone what was stopped since.
func (e *Engine) launched() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closing {
		return nil
	}
	e.fresh = false
	return e.store.SetRunMeta("launched", true)
}
