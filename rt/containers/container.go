package containers

import (
	"context"
	"maps"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/coble-os/coble/rt/store"
)

// Container is one container: its record and its state.
type Container struct {
	// Op is held by the one job that starts, stops for good, renames or removes the container.
	Op sync.Mutex

	t *Table

	version atomic.Uint64              // counts changes of record and st, with mu held
	mu      sync.Mutex                 // never held while Op is taken
	record  atomic.Pointer[store.Spec] // immutable values; replaced with mu held
	st      store.State                // guarded by mu
	change  chan struct{}              // closed and replaced at each change of st; guarded by mu
	exits   int                        // how many runs have ended since the engine started; guarded by mu
	removed bool                       // guarded by mu
}

// Spec is the record as it is now.
func (c *Container) Spec() store.Spec { return *c.record.Load() }

// SetState changes the state under its lock, writes it down and wakes whoever waits for a change.
func (c *Container) SetState(f func(*store.State)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.setState(f)
}

// EndRun is SetState for the end of a run.
func (c *Container) EndRun(f func(*store.State)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.exits++
	c.setState(f)
}

func (c *Container) setState(f func(*store.State)) {
	f(&c.st)
	c.version.Add(1)
	if err := c.t.store.PutState(c.Spec().ID, c.st); err != nil {
		c.t.log.Error("write state", "container", c.Spec().Name, "err", err)
	}
	c.wake()
}

// wake is called with mu held.
func (c *Container) wake() {
	close(c.change)
	c.change = make(chan struct{})
}

// SetSpec changes the durable record.
func (c *Container) SetSpec(f func(*store.Spec)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	next := c.Spec()
	f(&next)
	if err := c.t.store.PutContainer(next); err != nil {
		return err
	}
	c.record.Store(&next)
	c.version.Add(1)
	return nil
}

// Version is another one after each change of the record or the state. What is looked at after it was read is of that version,
// or of a later one.
func (c *Container) Version() uint64 { return c.version.Load() }

// View is a container as others may see it: a copy.
type View struct {
	store.Spec
	State store.State
}

// View is a copy of the container as it is now.
func (c *Container) View() View {
	c.mu.Lock()
	defer c.mu.Unlock()
	return View{Spec: c.Spec(), State: c.st}
}

// Running tells whether it runs or is paused.
func (c *Container) Running() bool { return c.View().State.Running() }

// Removed tells whether it is gone.
func (c *Container) Removed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.removed
}

// Exits is how many of its runs have ended since the engine started.
func (c *Container) Exits() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.exits
}

// Next is the state, and a channel that is closed when it changes.
func (c *Container) Next() (store.State, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.st, c.change
}

// Await waits until the condition holds, or the context ends.
func (c *Container) Await(ctx context.Context, cond func(st store.State, exits int, removed bool) bool) (store.State, error) {
	for {
		c.mu.Lock()
		st, exits, removed, change := c.st, c.exits, c.removed, c.change
		c.mu.Unlock()
		if cond(st, exits, removed) {
			return st, nil
		}
		select {
		case <-change:
		case <-ctx.Done():
			return st, ctx.Err()
		}
	}
}

// RunDir is the container's folder of this boot, RootDir its durable one. Its user makes them.
func (c *Container) RunDir() string  { return filepath.Join(c.t.run, "c", c.Spec().ID) }
func (c *Container) RootDir() string { return filepath.Join(c.t.root, "containers", c.Spec().ID) }

// FDName is how the keeper knows a descriptor of the container's. All names together have little room there (a string of
// execve(2)): of the id there are 64 bits.
func (c *Container) FDName(what string) string { return c.Spec().ID[:16] + "." + what }

// Attributes are what an event about the container tells of it, beside what is extra.
func (c *Container) Attributes(extra map[string]string) map[string]string {
	spec := c.Spec()
	a := map[string]string{}
	maps.Copy(a, spec.Config.Labels)
	a["name"], a["image"] = spec.Name, spec.Image
	maps.Copy(a, extra)
	return a
}
