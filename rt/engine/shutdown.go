package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/coble-os/coble/rt/containers"
	"github.com/coble-os/coble/rt/execdriver"
	"github.com/coble-os/coble/rt/job"
	"github.com/coble-os/coble/rt/store"
)

// shutdown stops every container, each with its own signal and grace time, then writes down how each ended. The keeper
// is told how long that may take.
func (e *Engine) shutdown(j *job.Job, _ struct{}) (any, error) {
	e.mu.Lock()
	again := e.closing
	e.closing = true
	e.mu.Unlock()
	if again {
		<-e.done
		return nil, nil
	}
	defer close(e.done)
	e.keeper.Say("STOPPING=1")
	levels := stopOrder(e.Containers.Views())
	e.keeper.Say(fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", (e.stopTime(levels) + execdriver.KillGrace).Microseconds()))
	for _, level := range levels {
		var wg sync.WaitGroup
		for _, id := range level {
			wg.Go(func() { e.stopForShutdown(id) })
		}
		wg.Wait()
	}
	return nil, errors.Join(e.writeLastStates(), e.store.SetRunMeta("launched", false))
}

// stopOrder is pure: containers that run or wait for a restart, in levels. Those made by hand know no order and stop
// together, first; those of the TOML file stop one after the other, the last started first, so that none outlives what
// it was started after.
func stopOrder(views []containers.View) [][]string {
	views = slices.DeleteFunc(slices.Clone(views), func(v containers.View) bool { return !v.State.Running() && v.State.RestartAt.IsZero() })
	sort.Slice(views, func(i, j int) bool { return views[i].State.StartedAt.After(views[j].State.StartedAt) })
	levels := [][]string{nil}
	for _, v := range views {
		if v.Origin == "" {
			levels[0] = append(levels[0], v.ID)
		} else {
			levels = append(levels, []string{v.ID})
		}
	}
	return levels
}

// stopTime bounds how long stopping the levels takes: each container's grace time and then the kill's.
func (e *Engine) stopTime(levels [][]string) (all time.Duration) {
	for _, level := range levels {
		longest := time.Duration(0)
		for _, id := range level {
			if c, err := e.find(id); err == nil {
				longest = max(longest, max(graceOf(c.Spec(), nil), defaultGrace)+2*execdriver.KillGrace)
			}
		}
		all += longest
	}
	return all
}

func (e *Engine) stopForShutdown(id string) {
	c, err := e.find(id)
	if err != nil {
		return
	}
	c.Op.Lock()
	defer c.Op.Unlock()
	c.cancelRestart()
	var seconds *int
	if graceOf(c.Spec(), nil) < 0 {
		seconds = new(int(defaultGrace / time.Second)) // a shutdown waits for nobody for ever
	}
	if err := c.stop(context.Background(), "", seconds); err != nil {
		e.log.Error("stop container", "container", c.Spec().Name, "err", err)
	}
}

// writeLastStates makes the ends durable, in one transaction.
func (e *Engine) writeLastStates() error {
	var specs []store.Spec
	for _, v := range e.Containers.Views() {
		st := v.State
		st.Pid, st.StartTime, st.Starting, st.Ports, st.Ends, st.HostIf, st.StopAsked = 0, 0, false, nil, nil, "", false
		v.Spec.LastExit = &st
		specs = append(specs, v.Spec)
	}
	return e.store.PutContainers(specs)
}
