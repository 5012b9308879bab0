package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/init/notify"
)

// keeperLink is the engine's side of the keeper: descriptors that outlive the engine, and the exits that the keeper
// reaped. Without a keeper its methods do nothing and know nothing.
type keeperLink struct {
	conn *notify.Conn // nil without a keeper
	// inherited are the descriptors that an earlier engine had stored, by name. Who takes one deletes it.
	inherited map[string]*os.File

	mu     sync.Mutex
	exits  map[procKey]unix.WaitStatus // guarded by mu
	ready  bool                        // all remembered exits have arrived; guarded by mu
	change chan struct{}               // closed and replaced at each arrival; guarded by mu
}

// procKey names a process for ever: pids are used again, pids with start times are not.
type procKey struct {
	pid   int
	start uint64
}

func openKeeperLink() (*keeperLink, error) {
	k := &keeperLink{inherited: map[string]*os.File{}, exits: map[procKey]unix.WaitStatus{}, change: make(chan struct{})}
	conn, files, err := notify.Open()
	if errors.Is(err, notify.ErrNoKeeper) {
		k.ready = true
		return k, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reach the keeper: %w", err)
	}
	k.conn = conn
	for _, f := range files {
		// Ends that this engine reads or writes do not block: waiting for one costs no thread.
		unix.SetNonblock(f.FD, true)
		k.inherited[f.Name] = os.NewFile(uintptr(f.FD), f.Name)
	}
	if conn.Exit == nil {
		k.ready = true
		return k, nil
	}
	go k.listen()
	return k, nil
}

// listen reads exits until the keeper goes.
func (k *keeperLink) listen() {
	for {
		x, err := k.conn.Exit.Next()
		if err != nil {
			return
		}
		k.mu.Lock()
		if x.Ready {
			k.ready = true
		} else {
			k.exits[procKey{x.PID, x.Start}] = x.Status
		}
		close(k.change)
		k.change = make(chan struct{})
		k.mu.Unlock()
	}
}

// exitOf waits for the exit of a process that has ended and whose parent is the keeper. ok is false where nobody knows
// how it ended (the keeper was killed too, or the context ended first).
func (k *keeperLink) exitOf(ctx context.Context, key procKey) (st unix.WaitStatus, ok bool) {
	for {
		k.mu.Lock()
		st, ok = k.exits[key]
		change := k.change
		k.mu.Unlock()
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

// waitReady waits until the keeper has told what it remembers.
func (k *keeperLink) waitReady(ctx context.Context) {
	for {
		k.mu.Lock()
		ready, change := k.ready, k.change
		k.mu.Unlock()
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

func (k *keeperLink) forget(key procKey) {
	k.mu.Lock()
	delete(k.exits, key)
	k.mu.Unlock()
	if k.conn != nil {
		k.conn.Forget(key.pid, key.start)
	}
}

// say sends one datagram; a keeper that has gone is noticed elsewhere.
func (k *keeperLink) say(text string) {
	if k.conn != nil {
		k.conn.Send(text)
	}
}

// store gives the keeper a copy of a descriptor, to be given back to the next engine.
func (k *keeperLink) store(name string, f syscall.Conn) error {
	if k.conn == nil {
		return nil
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	err = raw.Control(func(fd uintptr) { serr = k.conn.Store(name, int(fd)) })
	if err = errors.Join(err, serr); err != nil {
		return fmt.Errorf("give %s to the keeper: %w", name, err)
	}
	return nil
}

// drop takes a stored descriptor back out. The keeper's copy of a container's stdin must go before the engine's, or
// the container would never see its end.
func (k *keeperLink) drop(name string) {
	if k.conn != nil {
		k.conn.Remove(name)
	}
}

// take returns a descriptor that an earlier engine had stored, or nil.
func (k *keeperLink) take(name string) *os.File {
	f := k.inherited[name]
	delete(k.inherited, name)
	return f
}
