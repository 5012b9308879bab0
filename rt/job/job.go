// Package job is the engine's table of handlers, and what they do now and did lately. A job is shaped like a Unix process: a
// name, arguments, standard streams, a context that can be cancelled, a start, an end and a status. Who asks for one knows its
// name and its input's type, and not who does it; the table knows nothing of what jobs are about.
package job

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coble-os/coble/layers/blob"
	"github.com/coble-os/coble/rt/fault"
)

// Job is one piece of work, shaped like a Unix process. Everything that the engine does is one.
type Job struct {
	ID    uint64
	Name  string
	Args  []string // what the job is about, for people
	Stdin io.Reader
	// Stdout and Stderr are never nil.
	Stdout, Stderr io.Writer

	ctx    context.Context
	cancel context.CancelFunc

	written atomic.Int64 // bytes into files

	mu      sync.Mutex
	started time.Time
	ended   time.Time // guarded by mu; zero while the job runs
	err     error     // guarded by mu
	note    string    // guarded by mu
}

// Context ends when the job's caller goes away or `coble jobs kill` is called.
func (j *Job) Context() context.Context { return j.ctx }

// Counting is another context that counts the job's writes: for what goes on when the job's own has ended.
func (j *Job) Counting(ctx context.Context) context.Context {
	return blob.CountWritten(ctx, &j.written)
}

// Note says what came of the job, for `coble jobs`.
func (j *Job) Note(text string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.note = text
}

// Info is a line of `coble jobs`.
type Info struct {
	ID      uint64
	Name    string
	Args    []string
	Started time.Time
	Ended   time.Time `json:",omitzero"`
	Status  int       // 0 done, 1 an error; meaningless while Ended is zero
	Error   string    `json:",omitempty"`
	Note    string    `json:",omitempty"` // what came of it
	// Written counts the bytes that the job wrote into files on storage: unpacked files, records of layers, downloads and
	// spools. A file that was removed again at once may never have got there. Pages of the store are not counted.
	Written int64 // bytes
}

func (j *Job) info() Info {
	j.mu.Lock()
	defer j.mu.Unlock()
	i := Info{ID: j.ID, Name: j.Name, Args: j.Args, Started: j.started, Ended: j.ended, Note: j.note, Written: j.written.Load()}
	if j.err != nil {
		i.Status, i.Error = 1, j.err.Error()
	}
	return i
}

// Table holds the handlers, what runs, and the last finished jobs. It may be used by many at once.
type Table struct {
	mu       sync.Mutex
	handlers map[string]func(*Job, any) (any, error) // guarded by mu
	running  map[uint64]*Job                         // guarded by mu
	last     []Info                                  // finished, oldest first, at most keep; guarded by mu
	next     uint64                                  // guarded by mu
}

// keep is how many finished jobs are remembered.
const keep = 128

// NewTable is one without handlers.
func NewTable() *Table {
	return &Table{handlers: map[string]func(*Job, any) (any, error){}, running: map[uint64]*Job{}}
}

// Register puts a handler into the table. A name is registered once.
func Register[In, Out any](t *Table, name string, h func(*Job, In) (Out, error)) {
	t.register(name, func(j *Job, in any) (any, error) {
		typed, ok := in.(In)
		if !ok {
			return nil, mismatch(name, "input", in, (*In)(nil))
		}
		return h(j, typed)
	})
}

// register and run hold what does not depend on types, which the compiler would copy for each job.
func (t *Table) register(name string, h func(*Job, any) (any, error)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.handlers[name] != nil {
		panic("job " + name + " registered twice")
	}
	t.handlers[name] = h
}

func mismatch(job, what string, got, want any) error {
	return fmt.Errorf("job %s: %s is %T, and must be what %T points to", job, what, got, want)
}

// Streams are a job's standard streams; nil ones are empty or discarded.
type Streams struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
}

// Run runs a job to its end and returns its result.
func Run[Out any](ctx context.Context, t *Table, name string, in any, s Streams, args ...string) (typed Out, err error) {
	out, err := t.run(ctx, name, in, s, args)
	if err != nil || out == nil {
		return typed, err
	}
	typed, ok := out.(Out)
	if !ok {
		err = mismatch(name, "result", out, (*Out)(nil))
	}
	return typed, err
}

func (t *Table) run(ctx context.Context, name string, in any, s Streams, args []string) (any, error) {
	t.mu.Lock()
	h := t.handlers[name]
	t.mu.Unlock()
	if h == nil {
		return nil, fault.New(fault.Unsupported, "no such job: %s", name)
	}
	j := t.begin(ctx, name, s, args)
	out, err := h(j, in)
	t.end(j, err)
	return out, err
}

// Do is Run for a job whose result nobody wants.
func Do(ctx context.Context, t *Table, name string, in any, args ...string) error {
	_, err := t.run(ctx, name, in, Streams{}, args)
	return err
}

func (t *Table) begin(ctx context.Context, name string, s Streams, args []string) *Job {
	j := &Job{Name: name, Args: args, Stdin: s.Stdin, Stdout: s.Stdout, Stderr: s.Stderr, started: time.Now()}
	if j.Stdout == nil {
		j.Stdout = io.Discard
	}
	if j.Stderr == nil {
		j.Stderr = io.Discard
	}
	j.ctx, j.cancel = context.WithCancel(j.Counting(ctx))
	t.mu.Lock()
	t.next++
	j.ID = t.next
	t.running[j.ID] = j
	t.mu.Unlock()
	return j
}

func (t *Table) end(j *Job, err error) {
	j.cancel()
	j.mu.Lock()
	j.ended, j.err = time.Now(), err
	j.mu.Unlock()
	t.mu.Lock()
	delete(t.running, j.ID)
	if t.last = append(t.last, j.info()); len(t.last) > keep {
		t.last = slices.Delete(t.last, 0, 1)
	}
	t.mu.Unlock()
}

// List tells what runs and what ran lately, by id.
func (t *Table) List() []Info {
	t.mu.Lock()
	all := slices.Clone(t.last)
	for _, j := range t.running {
		all = append(all, j.info())
	}
	t.mu.Unlock()
	sort.Slice(all, func(i, j int) bool { return all[i].ID < all[j].ID })
	return all
}

// Kill cancels one running job.
func (t *Table) Kill(id uint64) error {
	t.mu.Lock()
	j := t.running[id]
	t.mu.Unlock()
	if j == nil {
		return fault.New(fault.NotFound, "no running job %d", id)
	}
	j.cancel()
	return nil
}

// Count is how many jobs there have been since the table was made.
func (t *Table) Count() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.next
}
