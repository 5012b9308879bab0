package engine

import (
	"context"
	"strconv"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/rt/execdriver"
	"github.com/coble-os/coble/rt/fault"
	"github.com/coble-os/coble/rt/job"
	"github.com/coble-os/coble/rt/request"
	"github.com/coble-os/coble/rt/store"
)

const (
	defaultGrace = 10 * time.Second
	exitGrace    = 5 * time.Second
)

// StopIn asks for a polite end.
type StopIn struct {
	Ref     string
	Signal  string // empty: the container's own
	Seconds *int   // grace; nil: the container's own, negative: for ever
}

func (e *Engine) stop(j *job.Job, in StopIn) (any, error) {
	c, err := e.find(in.Ref)
	if err != nil {
		return nil, err
	}
	c.Op.Lock()
	defer c.Op.Unlock()
	c.cancelRestart()
	if err := c.SetSpec(func(s *store.Spec) { s.WantRunning = false }); err != nil {
		return nil, err
	}
	if !c.Running() {
		return nil, fault.New(fault.NotModified, "container %s is not running", in.Ref)
	}
	if err := c.stop(j.Context(), in.Signal, in.Seconds); err != nil {
		return nil, err
	}
	c.emit(events.ActionStop, nil)
	return nil, nil
}

// stop sends the stop signal, waits for the grace time, then kills. The caller holds op.
func (c *ctr) stop(ctx context.Context, signal string, seconds *int) error {
	if signal == "" {
		signal = c.Spec().Config.StopSignal
	}
	sig := unix.SIGTERM
	if signal != "" {
		s, err := request.ParseSignal(signal)
		if err != nil {
			return err
		}
		sig = s
	}
	grace := graceOf(c.Spec(), seconds)
	c.setStopAsked()
	exited := c.exitChannel()
	if exited == nil {
		return nil
	}
	c.e.Exec.Thaw(c.Container)
	c.e.Exec.Signal(c.Container, sig)
	var over <-chan time.Time
	if grace >= 0 {
		over = time.After(grace)
	}
	select {
	case <-exited:
		return nil
	case <-over:
	case <-ctx.Done():
		return ctx.Err()
	}
	return c.killHard(exited)
}

// graceOf is pure: how long a container has between its stop signal and the kill; negative is for ever. What is asked
// wins over what the container says.
func graceOf(spec store.Spec, asked *int) time.Duration {
	if asked == nil {
		asked = spec.Config.StopTimeout
	}
	if asked == nil {
		return defaultGrace
	}
	return time.Duration(*asked) * time.Second
}

// killHard ends every process of the container.
func (c *ctr) killHard(exited chan struct{}) error {
	c.e.Exec.Signal(c.Container, unix.SIGKILL)
	select {
	case <-exited:
		return nil
	case <-time.After(execdriver.KillGrace):
	}
	c.e.Exec.Kill(c.Container)
	select {
	case <-exited:
		return nil
	case <-time.After(execdriver.KillGrace):
		return fault.New(fault.Conflict, "container %s does not end after SIGKILL: a process of it hangs in the kernel (see /proc/%d/stack)", c.Spec().Name, c.View().State.Pid)
	}
}

func (c *ctr) exitChannel() chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.exited
}

func (c *ctr) setStopAsked() { c.SetState(func(st *store.State) { st.StopAsked = true }) }

// KillIn asks for a signal.
type KillIn struct {
	Ref    string
	Signal string // empty: KILL
}

func (e *Engine) kill(j *job.Job, in KillIn) (any, error) {
	c, err := e.find(in.Ref)
	if err != nil {
		return nil, err
	}
	sig := unix.SIGKILL
	if in.Signal != "" {
		if sig, err = request.ParseSignal(in.Signal); err != nil {
			return nil, err
		}
	}
	if !c.Running() {
		return nil, fault.New(fault.Conflict, "cannot kill container: %s: container %s is not running", in.Ref, c.Spec().ID)
	}
	exited := c.exitChannel()
	deadly := sig == unix.SIGKILL
	if deadly || sig == stopSignalOf(c.Spec()) {
		c.setStopAsked()
		c.SetSpec(func(s *store.Spec) { s.WantRunning = false })
	}
	if err := c.e.Exec.Signal(c.Container, sig); err != nil {
		return nil, fault.As(fault.Conflict, err)
	}
	c.emit(events.ActionKill, map[string]string{"signal": strconv.Itoa(int(sig))})
	if deadly && exited != nil {
		c.e.Exec.Thaw(c.Container)
		return nil, c.killHard(exited)
	}
	return nil, nil
}

func stopSignalOf(spec store.Spec) unix.Signal {
	if s, err := request.ParseSignal(spec.Config.StopSignal); err == nil {
		return s
	}
	return unix.SIGTERM
}

func (e *Engine) restart(j *job.Job, in StopIn) (any, error) {
	c, err := e.find(in.Ref)
	if err != nil {
		return nil, err
	}
	c.Op.Lock()
	defer c.Op.Unlock()
	c.cancelRestart()
	if c.Running() {
		if err := c.stop(j.Context(), in.Signal, in.Seconds); err != nil {
			return nil, err
		}
	}
	if err := c.SetSpec(func(s *store.Spec) { s.WantRunning = true }); err != nil {
		return nil, err
	}
	c.SetState(func(st *store.State) { st.RestartCount, st.StopAsked = 0, false })
	if err := c.start(j.Context()); err != nil {
		return nil, err
	}
	c.emit(events.ActionRestart, nil)
	return nil, nil
}

// pause freezes every process of the container.
func (e *Engine) pause(j *job.Job, ref string) (any, error) {
	c, err := e.find(ref)
	if err != nil {
		return nil, err
	}
	c.Op.Lock()
	defer c.Op.Unlock()
	switch st := c.View().State; {
	case st.Status == container.StatePaused:
		return nil, fault.New(fault.Conflict, "container %s is already paused", ref)
	case !st.Running():
		return nil, fault.New(fault.Conflict, "container %s is not running", ref)
	}
	if err := e.Exec.Freeze(j.Context(), c.Container); err != nil {
		return nil, err
	}
	c.SetState(func(st *store.State) { st.Status = container.StatePaused })
	c.emit(events.ActionPause, nil)
	return nil, nil
}

func (e *Engine) unpause(j *job.Job, ref string) (any, error) {
	c, err := e.find(ref)
	if err != nil {
		return nil, err
	}
	c.Op.Lock()
	defer c.Op.Unlock()
	if c.View().State.Status != container.StatePaused {
		return nil, fault.New(fault.Conflict, "container %s is not paused", ref)
	}
	if err := c.e.Exec.Thaw(c.Container); err != nil {
		return nil, err
	}
	c.emit(events.ActionUnPause, nil)
	return nil, nil
}
