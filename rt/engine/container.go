package engine

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"sync"
	"time"

	"github.com/moby/moby/api/types/events"

	"github.com/coble-os/coble/rt/containers"
	"github.com/coble-os/coble/rt/logs"
	"github.com/coble-os/coble/sandbox"
)

// ctr is one container at work: its record and state, and the handles of this engine process.
type ctr struct {
	*containers.Container
	e *Engine

	mu      sync.Mutex       // not held while the container's Op is taken
	proc    *sandbox.Process // of the running container; guarded by mu
	log     *logs.Log        // opened at first need; guarded by mu
	stdin   *os.File         // write end, while open; guarded by mu
	console *os.File         // terminal's master, while running with a terminal; guarded by mu
	wake    *time.Timer      // the restart that the policy has planned; guarded by mu
	exited  chan struct{}    // closed when the present run has ended; nil when not running; guarded by mu
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
		h = &ctr{Container: c, e: e}
		if !c.Removed() {
			e.ctrs[c] = h
		}
	}
	return h
}

// logOf opens the container's log at first need.
func (c *ctr) logOf() (*logs.Log, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.log != nil {
		return c.log, nil
	}
	o, err := c.e.logOptions(c.Spec())
	if err != nil {
		return nil, err
	}
	name := c.Spec().Name
	o.OnError = func(err error) { c.e.log.Error("log of container", "container", name, "err", err) }
	c.log, err = logs.Open(o)
	return c.log, err
}

func (c *ctr) cgroup() string { return "/" + c.e.name + "/" + c.Spec().ID }

// fdName is how the keeper knows a descriptor of the container's: its id and "0", "1", "2" or "tty".
func (c *ctr) fdName(what string) string { return c.Spec().ID + "." + what }

func (c *ctr) emit(action events.Action, extra map[string]string) {
	c.e.events.emit(events.ContainerEventType, action, c.Spec().ID, c.Attributes(extra))
}

func hashString(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}
