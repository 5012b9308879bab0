package notify

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Link is the engine's side of the keeper: descriptors that outlive the engine, and the exits that the keeper
// reaped. Without a keeper its methods do nothing and know nothing.
type Link struct {
	conn *Conn // nil without a keeper
	// inherited are the descriptors that an earlier engine had stored, by name. Who takes one deletes it.
	inherited map[string]*os.File

	mu     sync.Mutex
	exits  map[Process]unix.WaitStatus // guarded by mu
	ready  bool                        // all remembered exits have arrived; guarded by mu
	change chan struct{}               // closed and replaced at each arrival; guarded by mu
}

// Process names a process for ever: pids are used again, pids with start times are not.
type Process struct {
	PID   int
	Start uint64 // field 22 of /proc/PID/stat, in clock ticks since boot
}

// Dial reaches the keeper, if there is one, and takes over what an earlier engine had stored. It may be called once.
func Dial() (*Link, error) {
	l := &Link{inherited: map[string]*os.File{}, exits: map[Process]unix.WaitStatus{}, change: make(chan struct{})}
	conn, files, err := Open()
	if errors.Is(err, ErrNoKeeper) {
		l.ready = true
		return l, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reach the keeper: %w", err)
	}
	l.conn = conn
	for _, f := range files {
		// Ends that this engine reads or writes do not block: waiting for one costs no thread.
		unix.SetNonblock(f.FD, true)
		l.inherited[f.Name] = os.NewFile(uintptr(f.FD), f.Name)
	}
	if conn.Exit == nil {
		l.ready = true
		return l, nil
	}
	go l.listen()
	return l, nil
}

// listen reads exits until the keeper goes.
func (l *Link) listen() {
	for {
		x, err := l.conn.Exit.Next()
		if err != nil {
			return
		}
		l.mu.Lock()
		if x.Ready {
			l.ready = true
		} else {
			l.exits[Process{x.PID, x.Start}] = x.Status
		}
		close(l.change)
		l.change = make(chan struct{})
		l.mu.Unlock()
	}
}

// ExitOf waits for the exit of a process that has ended and whose parent is the keeper. ok is false where nobody knows
// how it ended (the keeper was killed too, or the context ended first).
func (l *Link) ExitOf(ctx context.Context, p Process) (st unix.WaitStatus, ok bool) {
	for {
		l.mu.Lock()
		st, ok = l.exits[p]
		change := l.change
		l.mu.Unlock()
		if ok {
			return st, true
		}
		select {
		case <-change:
		case <-ctx.Done():
			return 0, false
		}
	}
}

// WaitReady waits until the keeper has told what it remembers.
func (l *Link) WaitReady(ctx context.Context) {
	for {
		l.mu.Lock()
		ready, change := l.ready, l.change
		l.mu.Unlock()
		if ready {
			return
		}
		select {
		case <-change:
		case <-ctx.Done():
			return
		}
	}
}

// Forget tells the keeper that the exit of a process is written down.
func (l *Link) Forget(p Process) {
	l.mu.Lock()
	delete(l.exits, p)
	l.mu.Unlock()
	if l.conn != nil {
		l.conn.Forget(p.PID, p.Start)
	}
}

// Say sends one datagram; a keeper that has gone is noticed elsewhere.
func (l *Link) Say(text string) {
	if l.conn != nil {
		l.conn.Send(text)
	}
}

// Store gives the keeper a copy of a descriptor, to be given back to the next engine.
func (l *Link) Store(name string, f syscall.Conn) error {
	if l.conn == nil {
		return nil
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	err = raw.Control(func(fd uintptr) { serr = l.conn.Store(name, int(fd)) })
	if err = errors.Join(err, serr); err != nil {
		return fmt.Errorf("give %s to the keeper: %w", name, err)
	}
	return nil
}

// Drop takes a stored descriptor back out. The keeper's copy of a container's stdin must go before the engine's, or
// the container would never see its end.
func (l *Link) Drop(name string) {
	if l.conn != nil {
		l.conn.Remove(name)
	}
}

// Take returns a descriptor that an earlier engine had stored, or nil.
func (l *Link) Take(name string) *os.File {
	f := l.inherited[name]
	delete(l.inherited, name)
	return f
}

// Sweep closes and drops the descriptors that nobody has taken, but those whose names are to be kept.
func (l *Link) Sweep(keep func(name string) bool) {
	for name, f := range l.inherited {
		if !keep(name) {
			f.Close()
			l.Drop(name)
			delete(l.inherited, name)
		}
	}
}
