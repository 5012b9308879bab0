package engine

import (
	"context"

	"github.com/coble-os/coble/configs"
)

// waits are the containers of one reading of the file that are started when a link is there. Nobody else waits with them.
type waits struct {
	e    *Engine
	ctx  context.Context // ends when the file is read again
	done map[string]chan struct{}
}

// newWaits ends those of before. It is called by the launch job only.
func (e *Engine) newWaits() *waits {
	if e.endWaits != nil {
		e.endWaits()
	}
	w := &waits{e: e, done: map[string]chan struct{}{}}
	w.ctx, e.endWaits = context.WithCancel(e.ctx)
	return w
}

// add starts a container once what it needs is there, and those that it is to come after have had their turn.
func (w *waits) add(name string, conf configs.Container, needs []string) {
	if c, err := w.e.find(name); err == nil && c.View().State.Run > 0 && !w.e.isFresh() {
		return // this boot has started it already
	}
	var before []chan struct{}
	for _, dep := range conf.After {
		if ch := w.done[dep]; ch != nil { // Order puts it first
			before = append(before, ch)
		}
	}
	done := make(chan struct{})
	w.done[name] = done
	go func() {
		defer close(done)
		for _, link := range needs {
			w.e.log.Info("waiting", "container", name, "for", link)
			if link == configs.NeedsNetwork {
				link = ""
			}
			if w.e.o.Online(w.ctx, link) != nil {
				return // the file was read again, or the engine ends
			}
		}
		for _, ch := range before {
			select {
			case <-ch:
			case <-w.ctx.Done():
				return
			}
		}
		w.e.launchContainer(w.ctx, name, conf)
	}()
}
