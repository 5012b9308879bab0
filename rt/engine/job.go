package engine

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
	e      *Engine

	written atomic.Int64 // bytes into files

	mu      sync.Mutex
	started time.Time
	ended   time.Time // guarded by mu; zero while the job runs
	err     error     // guarded by mu
	note    string    // guarded by mu
}

// Context ends when the job's caller goes away or `coble jobs kill` is called.
func (j *Job) Context() context.Context { return j.ctx }

// Note says what came of the job, for `coble jobs`.
func (j *Job) Note(text string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.note = text
}

// JobInfo is a line of `coble jobs`.
type JobInfo struct {
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

func (j *Job) info() JobInfo {
	j.mu.Lock()
	defer j.mu.Unlock()
	i := JobInfo{ID: j.ID, Name: j.Name, Args: j.Args, Started: j.started, Ended: j.ended, Note: j.note, Written: j.written.Load()}
	if j.err != nil {
		i.Status, i.Error = 1, j.err.Error()
	}
	return i
}

// jobTable holds the handlers, what runs, and the last finished jobs.
type jobTable struct {
	mu       sync.Mutex
	handlers map[string]func(*Job, any) (any, error)
	running  map[uint64]*Job
	last     []JobInfo // finished, oldest first, at most keepJobs
	next     uint64
}

const keepJobs = 128

// Register puts a handler into the engine's table. A name is registered once.
func Register[In, Out any](e *Engine, name string, h func(*Job, In) (Out, error)) {
	e.jobs.mu.Lock()
	defer e.jobs.mu.Unlock()
	if e.jobs.handlers[name] != nil {
		panic("job " + name + " registered twice")
	}
	e.jobs.handlers[name] = func(j *Job, in any) (any, error) {
		typed, ok := in.(In)
		if !ok {
			return nil, fmt.Errorf("job %s takes %T, not %T", name, typed, in)
		}
		return h(j, typed)
	}
}

// Streams are a job's standard streams; nil ones are empty or discarded.
type Streams struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
}

// Run runs a job to its end and returns its result.
func Run[Out any](ctx context.Context, e *Engine, name string, in any, s Streams, args ...string) (Out, error) {
	var none Out
	e.jobs.mu.Lock()
	h := e.jobs.handlers[name]
	e.jobs.mu.Unlock()
	if h == nil {
		return none, fault.New(fault.Unsupported, "no such job: %s", name)
	}
	j := e.begin(ctx, name, s, args)
	out, err := h(j, in)
	e.end(j, err)
	if err != nil {
		return none, err
	}
	typed, ok := out.(Out)
	if !ok && out != nil {
		return none, fmt.Errorf("job %s gives %T, not %T", name, out, none)
	}
	return typed, nil
}

// Do is Run for a job whose result nobody wants.
func Do(ctx context.Context, e *Engine, name string, in any, args ...string) error {
	_, err := Run[any](ctx, e, name, in, Streams{}, args...)
	return err
}

func (e *Engine) begin(ctx context.Context, name string, s Streams, args []string) *Job {
	j := &Job{Name: name, Args: args, Stdin: s.Stdin, Stdout: s.Stdout, Stderr: s.Stderr, e: e, started: time.Now()}
	if j.Stdout == nil {
		j.Stdout = io.Discard
	}
	if j.Stderr == nil {
		j.Stderr = io.Discard
	}
	j.ctx, j.cancel = context.WithCancel(blob.CountWritten(ctx, &j.written))
	e.jobs.mu.Lock()
	e.jobs.next++
	j.ID = e.jobs.next
	e.jobs.running[j.ID] = j
	e.jobs.mu.Unlock()
	return j
}

func (e *Engine) end(j *Job, err error) {
	j.cancel()
	j.mu.Lock()
	j.ended, j.err = time.Now(), err
	j.mu.Unlock()
	e.jobs.mu.Lock()
	delete(e.jobs.running, j.ID)
	if e.jobs.last = append(e.jobs.last, j.info()); len(e.jobs.last) > keepJobs {
		e.jobs.last = slices.Delete(e.jobs.last, 0, 1)
	}
	e.jobs.mu.Unlock()
}

// Jobs lists what runs and what ran lately, by id.
func (e *Engine) Jobs() []JobInfo {
	e.jobs.mu.Lock()
	all := slices.Clone(e.jobs.last)
	for _, j := range e.jobs.running {
		all = append(all, j.info())
	}
	e.jobs.mu.Unlock()
	sort.Slice(all, func(i, j int) bool { return all[i].ID < all[j].ID })
	return all
}

// KillJob cancels one running job.
func (e *Engine) KillJob(id uint64) error {
	e.jobs.mu.Lock()
	j := e.jobs.running[id]
	e.jobs.mu.Unlock()
	if j == nil {
		return fault.New(fault.NotFound, "no running job %d", id)
	}
	j.cancel()
	return nil
}

// JobCount is how many jobs there have been since the engine started.
func (e *Engine) JobCount() uint64 {
	e.jobs.mu.Lock()
	defer e.jobs.mu.Unlock()
	return e.jobs.next
}
