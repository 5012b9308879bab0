package engine

import (
	"errors"
	"fmt"
	"os"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"github.com/coble-os/coble/rt/fault"
	"github.com/coble-os/coble/rt/job"
	"github.com/coble-os/coble/rt/request"
)

// RemoveIn asks for a container's removal.
type RemoveIn struct {
	Ref     string
	Force   bool // kill it first
	Volumes bool // and its anonymous volumes
}

func (e *Engine) remove(j *job.Job, in RemoveIn) (any, error) {
	c, err := e.find(in.Ref)
	if err != nil {
		return nil, err
	}
	if c.running() && !in.Force {
		return nil, fault.New(fault.Conflict, "cannot remove container %q: container is running: stop the container before removing or force remove", in.Ref)
	}
	c.op.Lock()
	defer c.op.Unlock()
	c.cancelRestart()
	if exited := c.exitChannel(); exited != nil {
		if !in.Force {
			return nil, fault.New(fault.Conflict, "cannot remove container %q: container is running: stop the container before removing or force remove", in.Ref)
		}
		c.setStopAsked()
		c.thaw()
		if err := c.killHard(exited); err != nil {
			return nil, err
		}
	}
	return nil, c.remove()
}

// remove takes the record away first: what the file system still holds is then nobody's, and swept if the engine dies
// in between. The caller holds op.
func (c *ctr) remove() error {
	c.mu.Lock()
	if c.removed {
		c.mu.Unlock()
		return fault.New(fault.NotFound, "No such container: %s", c.spec().ID)
	}
	c.mu.Unlock()
	e := c.e
	if err := e.store.RemoveContainer(c.spec()); err != nil {
		return fmt.Errorf("remove record of %s: %w", c.spec().Name, err)
	}
	e.mu.Lock()
	delete(e.containers, c.spec().ID)
	delete(e.names, c.spec().Name)
	e.mu.Unlock()
	e.used(c.spec().ImageID) // up to now
	e.releaseLeases(c)
	e.forgetExecs(c)
	err := errors.Join(e.images.RemoveLayer(c.spec().ID), removeRunDir(c.runDir()), os.RemoveAll(c.rootDir()))
	c.mu.Lock()
	c.removed = true
	close(c.change)
	c.change = make(chan struct{})
	c.mu.Unlock()
	c.emit(events.ActionDestroy, nil)
	return err
}

// RenameIn asks for another name.
type RenameIn struct{ Ref, Name string }

func (e *Engine) rename(j *job.Job, in RenameIn) (any, error) {
	c, err := e.find(in.Ref)
	if err != nil {
		return nil, err
	}
	if !request.ValidName(in.Name) {
		return nil, fault.New(fault.Invalid, "Invalid container name (%s), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed", in.Name)
	}
	c.op.Lock()
	defer c.op.Unlock()
	e.mu.Lock()
	defer e.mu.Unlock()
	if holder, taken := e.names[in.Name]; taken {
		return nil, nameTaken(in.Name, holder)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.spec().Name
	spec, err := e.store.Rename(c.spec(), in.Name)
	if err != nil {
		return nil, err
	}
	c.record.Store(&spec)
	delete(e.names, old)
	e.names[in.Name] = spec.ID
	return nil, nil
}

// PruneOut tells what a prune took away.
type PruneOut struct {
	Deleted   []string
	Reclaimed int64 // bytes
}

// prune removes every stopped container that the filter keeps.
func (e *Engine) prune(j *job.Job, keep func(View) bool) (PruneOut, error) {
	out := PruneOut{Deleted: []string{}}
	for _, c := range e.all() {
		v := c.view()
		if v.State.Status != container.StateCreated && v.State.Status != container.StateExited || !keep(v) {
			continue
		}
		size, _ := e.images.LayerSize(v.ID)
		if _, err := e.remove(j, RemoveIn{Ref: v.ID}); err != nil {
			return out, err
		}
		out.Deleted = append(out.Deleted, v.ID)
		out.Reclaimed += size
	}
	return out, nil
}
