package engine

import (
	"context"
	"time"

	"github.com/moby/moby/api/types/container"

	"github.com/coble-os/coble/rt/job"
	"github.com/coble-os/coble/rt/store"
)

const (
	firstDelay = 100 * time.Millisecond
	maxDelay   = time.Minute
	// settled is how long a container must have run for its next end to count as the first again.
	settled = 10 * time.Second
)

// restartPlan is what the restart policy says of an end.
type restartPlan struct {
	again bool
	delay time.Duration
	count int
}

// planRestart is pure. ran is how long the container had run. Like Docker's, the delay doubles from 100 ms to a minute
// and starts over once a container has run for 10 s; the count, unlike the delay, is kept for `inspect`.
func planRestart(p container.RestartPolicy, st store.State, ran time.Duration) restartPlan {
	plan := restartPlan{count: st.RestartCount + 1, delay: firstDelay}
	switch {
	case st.StopAsked:
	case p.Name == container.RestartPolicyAlways, p.Name == container.RestartPolicyUnlessStopped:
		plan.again = true
	case p.Name == container.RestartPolicyOnFailure:
		plan.again = st.ExitCode != 0 && (p.MaximumRetryCount == 0 || st.RestartCount < p.MaximumRetryCount)
	}
	if ran < settled {
		for range st.RestartCount {
			if plan.delay = plan.delay * 2; plan.delay > maxDelay {
				plan.delay = maxDelay
				break
			}
		}
	}
	return plan
}

// planRestart starts the container again after the delay.
func (c *ctr) planRestart(delay time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wake = time.AfterFunc(delay, func() { job.Do(c.e.ctx, c.e.Jobs, "restart-by-policy", c.Spec().ID, c.Spec().Name) })
}

// cancelRestart takes back a planned restart. The caller holds op.
func (c *ctr) cancelRestart() {
	c.mu.Lock()
	wake := c.wake
	c.wake = nil
	c.mu.Unlock()
	if wake != nil {
		wake.Stop()
	}
	if c.View().State.Status == container.StateRestarting {
		c.SetState(func(st *store.State) { st.Status, st.RestartAt = container.StateExited, time.Time{} })
	}
}

// restartByPolicy is the job behind a planned restart.
func (e *Engine) restartByPolicy(j *job.Job, id string) (any, error) {
	c, err := e.find(id)
	if err != nil {
		return nil, err
	}
	c.Op.Lock()
	defer c.Op.Unlock()
	st := c.View().State
	if st.Status != container.StateRestarting {
		return nil, nil
	}
	err = c.start(context.WithoutCancel(j.Context()))
	if err == nil {
		return nil, nil
	}
	e.log.Error("restart container", "container", c.Spec().Name, "err", err)
	c.scheduleRetry()
	return nil, err
}

// scheduleRetry goes on with the policy's back-off after a start that failed, as if the container had crashed at once.
// The caller holds op.
func (c *ctr) scheduleRetry() {
	plan := planRestart(c.Spec().Host.RestartPolicy, c.View().State, 0)
	if !plan.again {
		return
	}
	c.SetState(func(st *store.State) {
		st.Status, st.RestartAt, st.RestartCount = container.StateRestarting, now().Add(plan.delay), plan.count
	})
	c.planRestart(plan.delay)
}
