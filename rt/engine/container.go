package engine

import (
	"sync"
	"time"

	"github.com/moby/moby/api/types/events"

	"github.com/coble-os/coble/rt/containers"
	"github.com/coble-os/coble/rt/job"
	"github.com/coble-os/coble/rt/stdio"
)

// ctr is one container at work: its record and state, and the handles of this engine process.
type ctr struct {
	*containers.Container
	e   *Engine
	std *stdio.Streams

	mu     sync.Mutex    // not held while the container's Op is taken
	wake   *time.Timer   // the restart that the policy has planned; guarded by mu
	exited chan struct{} // closed when the present run has ended; nil when not running; guarded by mu
}

// find returns a container by id, name or unique prefix of the id.
func (e *Engine) find(ref string) (*ctr, error) {
	c, err := e.Containers.Find(ref)
	if err != nil {
		return nil, err
	}
	return e.handles(c), nil
}

// handles gives a container its handles. One that is removed keeps none.
func (e *Engine) handles(c *containers.Container) *ctr {
	e.mu.Lock()
	defer e.mu.Unlock()
	h := e.ctrs[c]
	if h == nil {
		h = &ctr{Container: c, e: e, std: stdio.New(c, e.keeper, e.o.Logs, e.log)}
		if !c.Removed() {
			e.ctrs[c] = h
		}
	}
	return h
}

func (c *ctr) emit(action events.Action, extra map[string]string) {
	c.e.events.emit(events.ContainerEventType, action, c.Spec().ID, c.Attributes(extra))
}

func (e *Engine) attach(j *job.Job, in stdio.AttachIn) (any, error) {
	c, err := e.find(in.Ref)
	if err != nil {
		return nil, err
	}
	began := in.Began
	in.Began = func(tty bool) {
		c.emit(events.ActionAttach, nil)
		began(tty)
	}
	return nil, c.std.Attach(j, in)
}

func (e *Engine) logs(j *job.Job, in stdio.LogsIn) (any, error) {
	c, err := e.find(in.Ref)
	if err != nil {
		return nil, err
	}
	return nil, c.std.Logs(j, in)
}

func (e *Engine) resize(_ *job.Job, in stdio.ResizeIn) (any, error) {
	c, err := e.find(in.Ref)
	if err != nil {
		return nil, err
	}
	return nil, c.std.Resize(in)
}
