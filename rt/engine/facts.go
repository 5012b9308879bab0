package engine

import (
	"os"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/moby/moby/api/types/container"

	"github.com/coble-os/coble/init/boot"
	"github.com/coble-os/coble/netcfg/links"
	"github.com/coble-os/coble/rt/fault"
)

// Status is what `coble status` tells.
type Status struct {
	Hostname   string
	Version    string
	Uptime     float64 // milliseconds since the kernel started
	Problems   []string
	Links      []links.Status // the machine's own, where they are coble's
	Containers []ContainerStatus
}

// ContainerStatus is a line of it.
type ContainerStatus struct {
	Name, Image, Section string
	State                container.ContainerState
	ExitCode, Restarts   int
	Error                string
	Since                time.Time
	Written              uint64 // bytes to storage, over all runs
}

// problemList is what went wrong and is still worth knowing.
type problemList struct {
	mu    sync.Mutex
	texts []string // guarded by mu
}

// Problem notes something that the owner of the machine should know; it is logged, and kept for `coble status`.
func (e *Engine) Problem(text string) {
	e.log.Error(text)
	e.problems.mu.Lock()
	defer e.problems.mu.Unlock()
	if !slices.Contains(e.problems.texts, text) && len(e.problems.texts) < 100 {
		e.problems.texts = append(e.problems.texts, text)
	}
}

// problemOnce is Problem for what stays so: it is logged and noted the first time.
func (e *Engine) problemOnce(text string) {
	e.problems.mu.Lock()
	known := slices.Contains(e.problems.texts, text)
	e.problems.mu.Unlock()
	if !known {
		e.Problem(text)
	}
}

// Status tells how the machine does.
func (e *Engine) Status() Status {
	st := Status{Version: e.o.Version, Uptime: boot.Uptime(), Problems: []string{}, Links: []links.Status{}, Containers: []ContainerStatus{}}
	st.Hostname, _ = os.Hostname()
	e.problems.mu.Lock()
	st.Problems = append(st.Problems, e.problems.texts...)
	e.problems.mu.Unlock()
	if e.o.Links != nil {
		st.Links = e.o.Links()
	}
	for _, c := range e.Containers.All() {
		v := c.View()
		since := v.State.StartedAt
		if !v.State.Running() {
			since = v.State.FinishedAt
		}
		st.Containers = append(st.Containers, ContainerStatus{
			Name: v.Name, Image: v.Image, Section: v.Origin, State: v.State.Status, ExitCode: v.State.ExitCode,
			Restarts: v.State.RestartCount, Error: v.State.Error, Since: since, Written: e.Exec.Written(c),
		})
	}
	sort.Slice(st.Containers, func(i, j int) bool { return st.Containers[i].Name < st.Containers[j].Name })
	return st
}

// RequestShutdown asks the keeper for a poweroff, reboot or halt; it then ends this engine like any other signal would.
func (e *Engine) RequestShutdown(how string) error {
	if !e.o.Init {
		return fault.New(fault.Conflict, "this engine does not run the machine: coble is not PID 1 here; use the host's own %s", how)
	}
	e.keeper.Say("SHUTDOWN=" + how)
	return nil
}
