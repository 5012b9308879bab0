package engine

import (
	"context"
	"sync"
	"time"

	"github.com/moby/moby/api/types/events"
)

// eventLog keeps the last events and hands new ones to listeners.
type eventLog struct {
	mu        sync.Mutex
	last      []events.Message // oldest first, at most keepEvents; guarded by mu
	listeners map[chan events.Message]struct{}
}

const keepEvents = 256

// emit publishes an event. A listener that does not read for 256 events misses some: the engine never waits for it.
func (l *eventLog) emit(typ events.Type, action events.Action, id string, attributes map[string]string) {
	now := time.Now()
	m := events.Message{
		Type: typ, Action: action, Scope: "local", Time: now.Unix(), TimeNano: now.UnixNano(),
		Actor: events.Actor{ID: id, Attributes: attributes},
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.last = append(l.last, m); len(l.last) > keepEvents {
		l.last = l.last[1:]
	}
	for c := range l.listeners {
		select {
		case c <- m:
		default:
		}
	}
}

// Events visits past events from since on, if it is set, then new ones until the context or until ends.
func (e *Engine) Events(ctx context.Context, since, until time.Time, visit func(events.Message) error) error {
	c := make(chan events.Message, keepEvents)
	e.events.mu.Lock()
	past := append([]events.Message(nil), e.events.last...)
	e.events.listeners[c] = struct{}{}
	e.events.mu.Unlock()
	defer func() { e.events.mu.Lock(); delete(e.events.listeners, c); e.events.mu.Unlock() }()
	for _, m := range past {
		at := time.Unix(0, m.TimeNano)
		if since.IsZero() || at.Before(since) || (!until.IsZero() && at.After(until)) {
			continue
		}
		if err := visit(m); err != nil {
			return err
		}
	}
	if !until.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, until)
		defer cancel()
	}
	for {
		select {
		case m := <-c:
			if err := visit(m); err != nil {
				return err
			}
		case <-ctx.Done():
			return nil
		}
	}
}
