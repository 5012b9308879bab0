// Package containers is the store of containers: each with its record, which outlives a boot, and its state, which does not, by
// id and by name. What is changed is written down before anybody sees it, in the files of rt/store. It starts nothing and knows
// of no process: what an engine holds of one that runs (pipes, descriptors, links) is with whoever runs it.
package containers

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"

	"github.com/moby/moby/api/types/container"

	"github.com/coble-os/coble/rt/fault"
	"github.com/coble-os/coble/rt/store"
)

// Table is all containers of an engine. Its methods may be called from any goroutine.
type Table struct {
	store     *store.Store
	root, run string
	log       *slog.Logger

	mu    sync.Mutex            // taken before a container's own
	byID  map[string]*Container // guarded by mu
	names map[string]string     // name to id, also of those that are being made; guarded by mu
}

// New is a table without containers over a store, which stays the caller's. root and run are the engine's folders.
func New(s *store.Store, root, run string, log *slog.Logger) *Table {
	return &Table{store: s, root: root, run: run, log: log, byID: map[string]*Container{}, names: map[string]string{}}
}

// Add takes in a container whose record is there already.
func (t *Table) Add(spec store.Spec, st store.State) *Container {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.add(spec, st)
}

// add is called with mu held.
func (t *Table) add(spec store.Spec, st store.State) *Container {
	c := &Container{t: t, st: st, change: make(chan struct{})}
	c.record.Store(&spec)
	t.byID[spec.ID], t.names[spec.Name] = c, spec.ID
	return c
}

// Create makes a container: its layer, then its record. A layer without a record is swept at the next start, a record without
// its layer is never seen. Where the record cannot be written, unmake takes the layer away again.
func (t *Table) Create(spec store.Spec, layer func() error, unmake func()) (*Container, error) {
	t.mu.Lock()
	holder, taken := t.names[spec.Name]
	if !taken {
		t.names[spec.Name] = spec.ID
	}
	t.mu.Unlock()
	if taken {
		return nil, nameTaken(spec.Name, holder)
	}
	err := layer()
	if err == nil {
		if err = t.store.AddContainer(spec); err != nil {
			unmake()
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if err == nil {
		return t.add(spec, store.State{Status: container.StateCreated}), nil
	}
	delete(t.names, spec.Name)
	var other store.ErrNameTaken
	if errors.As(err, &other) {
		return nil, nameTaken(spec.Name, other.Holder)
	}
	return nil, fmt.Errorf("create container %s: %w", spec.Name, err)
}

func nameTaken(name, holder string) error {
	return fault.New(fault.Conflict, `Conflict. The container name "/%s" is already in use by container "%s". You have to remove (or rename) that container to be able to reuse that name.`, name, holder)
}

// Rename gives a container another name.
func (t *Table) Rename(c *Container, name string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if holder, taken := t.names[name]; taken {
		return nameTaken(name, holder)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.Spec().Name
	spec, err := t.store.Rename(c.Spec(), name)
	if err != nil {
		return err
	}
	c.record.Store(&spec)
	delete(t.names, old)
	t.names[name] = spec.ID
	return nil
}

// Remove takes a container's record away, and the container out of the table; then clean, which removes what else there is of
// it. Who waits for the removal is woken after that, whatever clean says.
func (t *Table) Remove(c *Container, clean func() error) error {
	if c.Removed() {
		return fault.New(fault.NotFound, "No such container: %s", c.Spec().ID)
	}
	if err := t.store.RemoveContainer(c.Spec()); err != nil {
		return fmt.Errorf("remove record of %s: %w", c.Spec().Name, err)
	}
	t.mu.Lock()
	delete(t.byID, c.Spec().ID)
	delete(t.names, c.Spec().Name)
	t.mu.Unlock()
	err := clean()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.removed = true
	c.wake()
	return err
}

// Find returns a container by id, name or unique prefix of the id.
func (t *Table) Find(ref string) (*Container, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if c := t.byID[ref]; c != nil {
		return c, nil
	}
	if c := t.byID[t.names[strings.TrimPrefix(ref, "/")]]; c != nil {
		return c, nil
	}
	var found *Container
	for id, c := range t.byID {
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

// ByID returns the container with exactly this id, or nil.
func (t *Table) ByID(id string) *Container {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.byID[id]
}

// All returns every container, in no order.
func (t *Table) All() []*Container {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make([]*Container, 0, len(t.byID))
	for _, c := range t.byID {
		all = append(all, c)
	}
	return all
}

// Views returns a view of every container, in no order.
func (t *Table) Views() []View {
	var views []View
	for _, c := range t.All() {
		views = append(views, c.View())
	}
	return views
}

// View returns a view of the container that Find finds.
func (t *Table) View(ref string) (View, error) {
	c, err := t.Find(ref)
	if err != nil {
		return View{}, err
	}
	return c.View(), nil
}
