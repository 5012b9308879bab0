package engine

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/moby/moby/api/types/container"

	"github.com/coble-os/coble/netcfg/dns"
	"github.com/coble-os/coble/rt/fault"
	"github.com/coble-os/coble/rt/logs"
	"github.com/coble-os/coble/rt/store"
	"github.com/coble-os/coble/sandbox"
)

// ctr is one container at work: its record, its state, and the handles of this engine process.
type ctr struct {
	e *Engine

	// op is held by the one job that starts, stops for good, renames or removes the container. Never taken with mu.
	op sync.Mutex

	mu      sync.Mutex
	record  atomic.Pointer[store.Spec] // immutable values; replaced with mu held
	st      store.State
	proc    *sandbox.Process // of the running container
	log     *logs.Log        // opened at first need
	stdin   *os.File         // write end, while open
	console *os.File         // terminal's master, while running with a terminal
	dns     *dns.Server      // while running in a network that answers names
	change  chan struct{}    // closed and replaced at each change of st
	exits   int              // how many runs have ended since the engine started
	removed bool
	wake    *time.Timer   // the restart that the policy has planned
	exited  chan struct{} // closed when the present run has ended; nil when not running
}

func newCtr(e *Engine, spec store.Spec, st store.State) *ctr {
	c := &ctr{e: e, st: st, change: make(chan struct{})}
	c.record.Store(&spec)
	return c
}

// spec is the record as it is now.
func (c *ctr) spec() store.Spec { return *c.record.Load() }

// setState changes the state under its lock, writes it down and wakes whoever waits for a change.
func (c *ctr) setState(f func(*store.State)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f(&c.st)
	if err := c.e.store.PutState(c.spec().ID, c.st); err != nil {
		c.e.log.Error("write state", "container", c.spec().Name, "err", err)
	}
	close(c.change)
	c.change = make(chan struct{})
}

// setSpec changes the durable record.
func (c *ctr) setSpec(f func(*store.Spec)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	next := c.spec()
	f(&next)
	if err := c.e.store.PutContainer(next); err != nil {
		return err
	}
	c.record.Store(&next)
	return nil
}

// View is a container as others may see it: a copy.
type View struct {
	store.Spec
	State   store.State
	ExecIDs []string
}

func (c *ctr) view() View {
	c.mu.Lock()
	defer c.mu.Unlock()
	return View{Spec: c.spec(), State: c.st}
}

func (c *ctr) running() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return isRunning(c.st)
}

func isRunning(st store.State) bool {
	return st.Status == container.StateRunning || st.Status == container.StatePaused
}

// logOf opens the container's log at first need.
func (c *ctr) logOf() (*logs.Log, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.log != nil {
		return c.log, nil
	}
	o, err := c.e.logOptions(c.spec())
	if err != nil {
		return nil, err
	}
	name := c.spec().Name
	o.OnError = func(err error) { c.e.log.Error("log of container", "container", name, "err", err) }
	c.log, err = logs.Open(o)
	return c.log, err
}

func (c *ctr) runDir() string  { return filepath.Join(c.e.o.Run, "c", c.spec().ID) }
func (c *ctr) rootDir() string { return filepath.Join(c.e.o.Root, "containers", c.spec().ID) }

func (c *ctr) cgroup() string { return "/" + c.e.name + "/" + c.spec().ID }

// fdName is how the keeper knows a descriptor of the container's: its id and "0", "1", "2" or "tty".
func (c *ctr) fdName(what string) string { return c.spec().ID + "." + what }

// find returns a container by id, name or unique prefix of the id.
func (e *Engine) find(ref string) (*ctr, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if c := e.containers[ref]; c != nil {
		return c, nil
	}
	if id, ok := e.names[strings.TrimPrefix(ref, "/")]; ok {
		return e.containers[id], nil
	}
	var found *ctr
	for id, c := range e.containers {
		if ref == "" || !strings.HasPrefix(id, ref) {
			continue
		}
		if found != nil {
			return nil, fault.New(fault.Invalid, "multiple IDs found with provided prefix: %s", ref)
		}
		found = c
	}
	if found == nil {
		return nil, fault.New(fault.NotFound, "No such container: %s", ref)
	}
	return found, nil
}

func (e *Engine) all() []*ctr {
	e.mu.Lock()
	defer e.mu.Unlock()
	all := make([]*ctr, 0, len(e.containers))
	for _, c := range e.containers {
		all = append(all, c)
	}
	return all
}

// Containers returns a view of every container, in no order.
func (e *Engine) Containers() []View {
	var views []View
	for _, c := range e.all() {
		views = append(views, c.view())
	}
	return views
}

// Container returns a view of one.
func (e *Engine) Container(ref string) (View, error) {
	c, err := e.find(ref)
	if err != nil {
		return View{}, err
	}
	return c.view(), nil
}

// awaitState waits until the condition holds, or the context ends.
func (c *ctr) await(ctx context.Context, cond func(st store.State, exits int, removed bool) bool) (store.State, error) {
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

func hashString(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}
