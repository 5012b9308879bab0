package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"github.com/coble-os/coble/init/notify"
	"github.com/coble-os/coble/rt/execdriver"
	"github.com/coble-os/coble/rt/fault"
	"github.com/coble-os/coble/rt/job"
	"github.com/coble-os/coble/rt/stdio"
	"github.com/coble-os/coble/rt/store"
	"github.com/coble-os/coble/sandbox"
)

// undo is the list of what to take back when a step fails; success throws it away.
type undo []func()

func (u *undo) add(f func()) { *u = append(*u, f) }

func (u undo) run() {
	for i := len(u) - 1; i >= 0; i-- {
		u[i]()
	}
}

// start starts a container for a user: it forgets earlier restarts.
func (e *Engine) start(j *job.Job, ref string) (any, error) {
	c, err := e.find(ref)
	if err != nil {
		return nil, err
	}
	c.Op.Lock()
	defer c.Op.Unlock()
	c.cancelRestart()
	if c.Running() {
		return nil, fault.New(fault.NotModified, "container %s is running already", ref)
	}
	if err := c.SetSpec(func(s *store.Spec) { s.WantRunning = true }); err != nil {
		return nil, err
	}
	c.SetState(func(st *store.State) { st.RestartCount, st.StopAsked = 0, false })
	err = c.start(j.Context())
	if err != nil && c.Spec().Host.AutoRemove {
		c.remove()
	}
	return nil, err
}

// start brings a container up. The caller holds op.
func (c *ctr) start(ctx context.Context) (err error) {
	c.e.mu.Lock()
	closing := c.e.closing
	c.e.mu.Unlock()
	if closing || c.Removed() {
		return fault.New(fault.Conflict, "container %s cannot be started: it is being removed, or the engine is shutting down", c.Spec().Name)
	}
	cmd := c.e.Exec.Begin(c.Container)
	defer cmd.Close()
	// The intent comes first: whatever the kernel holds of a start that never ends is swept by the next engine.
	c.SetState(func(st *store.State) {
		st.Starting, st.Error, st.OOMKilled = true, "", false
		st.Run++
		st.Written, st.WrittenNow = st.Written+st.WrittenNow, 0
	})
	var u undo
	defer func() {
		if err != nil {
			u.run()
			c.startFailed(err)
		}
	}()
	proc, err := c.launch(ctx, cmd, &u)
	if err != nil {
		return c.e.Exec.StartError(c.Container, err)
	}
	c.mu.Lock()
	c.exited = make(chan struct{})
	c.mu.Unlock()
	c.SetState(func(st *store.State) {
		st.Status, st.Starting, st.Pid, st.StartTime = container.StateRunning, false, proc.Pid, proc.StartTime
		st.StartedAt, st.ExitCode, st.RestartAt = now(), 0, time.Time{}
	})
	c.e.Images.Used(c.Spec().ImageID)
	c.emit(events.ActionStart, nil)
	go c.watch(proc, false)
	go c.e.Net.CheckFirewall(c.Container)
	return nil
}

// launch does the steps between intent and running process.
func (c *ctr) launch(ctx context.Context, cmd *execdriver.Command, u *undo) (*sandbox.Process, error) {
	if err := c.e.Exec.Prepare(cmd); err != nil {
		return nil, err
	}
	ends, err := c.e.Net.Reserve(c.Container, u.add)
	if err != nil {
		return nil, err
	}
	if err := c.e.Net.WriteNames(c.Container, ends); err != nil {
		return nil, err
	}
	if cmd.Files, err = c.std.Open(); err != nil {
		return nil, err
	}
	defer stdio.CloseAll(cmd.Files)
	u.add(c.std.CloseStdin)
	cmd.Created = func(pid int) error { return c.e.Net.Plug(c.Container, ends, pid, u.add) }
	proc, err := c.e.Exec.Start(ctx, cmd, u.add)
	if err != nil {
		return nil, err
	}
	if proc.Console != nil {
		c.std.TakeConsole(proc.Console)
	}
	return proc, nil
}

// startFailed leaves the container as it was, with the reason and the exit code that a shell would give.
func (c *ctr) startFailed(err error) {
	code := 128
	var fault *fault.Error
	if errors.As(err, &fault) {
		code = execdriver.ExitCode(fault.Err.Error())
	}
	c.std.Drain()
	c.e.Exec.Clean(c.Container)
	c.std.Close()
	c.SetState(func(st *store.State) {
		st.Starting, st.Pid, st.ExitCode, st.Error = false, 0, code, err.Error()
		if st.Status != container.StateCreated {
			st.Status, st.FinishedAt = container.StateExited, now()
		}
	})
}

// watch waits for the container's end. inherited says that the process is the keeper's child, not this engine's.
func (c *ctr) watch(proc *sandbox.Process, inherited bool) {
	key := notify.Process{PID: proc.Pid, Start: proc.StartTime}
	code, known := 0, true
	if err := proc.WaitEnd(c.e.ctx); err != nil {
		if c.e.ctx.Err() == nil {
			c.e.log.Error("watch container", "container", c.Spec().Name, "err", err)
		}
		return // the engine is going; the next one watches
	}
	if inherited {
		ctx, cancel := context.WithTimeout(c.e.ctx, exitGrace)
		code, known = c.inheritedExit(ctx, key)
		cancel()
	} else {
		exit, err := proc.WaitNoReap()
		if err != nil {
			c.e.log.Error("wait for container", "container", c.Spec().Name, "err", err)
			known = false
		}
		code = exit.Status()
	}
	if !known {
		code = 255
	}
	c.ended(code, known)
	if inherited {
		c.e.keeper.Forget(key)
	} else {
		proc.Reap()
	}
	proc.Close()
}

// inheritedExit asks the keeper how a process ended; ctx bounds how long a lost status is looked for.
func (c *ctr) inheritedExit(ctx context.Context, key notify.Process) (int, bool) {
	st, ok := c.e.keeper.ExitOf(ctx, key)
	if !ok {
		return 0, false
	}
	if st.Signaled() {
		return 128 + int(st.Signal()), true
	}
	return st.ExitStatus(), true
}

// ended commits a container's end: output first, so that whoever sees the end sees all of it.
func (c *ctr) ended(code int, known bool) {
	oom := c.e.Exec.OOMKilled(c.Container)
	c.std.Drain()
	c.e.Net.Unplug(c.Container)
	c.e.Exec.Clean(c.Container)
	c.std.Close()
	c.mu.Lock()
	exited := c.exited
	c.exited = nil
	c.mu.Unlock()
	text := ""
	if !known {
		text = "exit status unknown: the keeper and the engine were both gone when the container ended"
	}
	plan := restartPlan{}
	c.EndRun(func(st *store.State) {
		st.Status, st.Pid, st.StartTime, st.ExitCode, st.OOMKilled = container.StateExited, 0, 0, code, oom
		st.FinishedAt, st.Ports, st.Ends, st.HostIf, st.Error = now(), nil, nil, "", text
		plan = planRestart(c.Spec().Host.RestartPolicy, *st, st.FinishedAt.Sub(st.StartedAt))
		if plan.again {
			st.Status, st.RestartAt = container.StateRestarting, now().Add(plan.delay)
			st.RestartCount = plan.count
		}
	})
	if oom {
		c.emit(events.ActionOOM, nil)
	}
	c.emit(events.ActionDie, map[string]string{"exitCode": fmt.Sprint(code)})
	if exited != nil {
		close(exited)
	}
	if plan.again {
		c.planRestart(plan.delay)
		return
	}
	if c.Spec().Host.AutoRemove {
		go job.Do(c.e.ctx, c.e.Jobs, "rm", RemoveIn{Ref: c.Spec().ID, Volumes: true}, c.Spec().Name)
	}
}
