package engine

import (
	"errors"
	"os"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"github.com/coble-os/coble/rt/containers"
	"github.com/coble-os/coble/rt/execdriver"
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
	if c.Running() && !in.Force {
		return nil, fault.New(fault.Conflict, "cannot remove container %q: container is running: stop the container before removing or force remove", in.Ref)
	}
	c.Op.Lock()
	defer c.Op.Unlock()
	c.cancelRestart()
	if exited := c.exitChannel(); exited != nil {
		if !in.Force {
			return nil, fault.New(fault.Conflict, "cannot remove container %q: container is running: stop the container before removing or force remove", in.Ref)
		}
		c.setStopAsked()
		c.e.Exec.Thaw(c.Container)
		if err := c.killHard(exited); err != nil {
			return nil, err
		}
	}
	return nil, c.remove()
}

// remove takes the record away first: what the file system still holds is then nobody's, and swept if the engine dies
// in between. The caller holds Op.
func (c *ctr) remove() error {
	e, spec, gone := c.e, c.Spec(), false
	err := e.Containers.Remove(c.Container, func() error {
		gone = true
		e.Images.Used(spec.ImageID) // up to now
		e.Net.Release(c.Container)
		e.Exec.Forget(c.Container)
		return errors.Join(e.Images.RemoveLayer(spec.ID), execdriver.RemoveRunDir(c.RunDir()), os.RemoveAll(c.RootDir()))
	})
	if !gone {
		return err
	}
	e.mu.Lock()
	delete(e.ctrs, c.Container)
	e.mu.Unlock()
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
	c.Op.Lock()
	defer c.Op.Unlock()
	return nil, e.Containers.Rename(c.Container, in.Name)
}

// PruneOut tells what a prune took away.
type PruneOut struct {
	Deleted   []string
	Reclaimed int64 // bytes
}

// prune removes every stopped container that the filter keeps.
func (e *Engine) prune(j *job.Job, keep func(containers.View) bool) (PruneOut, error) {
	out := PruneOut{Deleted: []string{}}
	for _, c := range e.Containers.All() {
		v := c.View()
		if v.State.Status != container.StateCreated && v.State.Status != container.StateExited || !keep(v) {
			continue
		}
		size, _ := e.Images.LayerSize(v.ID)
		if _, err := e.remove(j, RemoveIn{Ref: v.ID}); err != nil {
			return out, err
		}
		out.Deleted = append(out.Deleted, v.ID)
		out.Reclaimed += size
	}
	return out, nil
}
