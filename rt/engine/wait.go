package engine

import (
	"github.com/moby/moby/api/types/container"

	"github.com/coble-os/coble/rt/job"
	"github.com/coble-os/coble/rt/store"
)

// WaitIn asks to be told of an end.
type WaitIn struct {
	Ref       string
	Condition container.WaitCondition
	// Began, if not nil, is called once when the wait is under way, so that nothing that happens later is missed.
	Began func()
}

// WaitOut is how it ended.
type WaitOut struct {
	Code  int
	Error string
}

func (e *Engine) wait(j *job.Job, in WaitIn) (WaitOut, error) {
	c, err := e.find(in.Ref)
	if err != nil {
		return WaitOut{}, err
	}
	from := c.Exits()
	if in.Began != nil {
		in.Began()
	}
	st, err := c.Await(j.Context(), func(st store.State, exits int, removed bool) bool {
		switch in.Condition {
		case container.WaitConditionNextExit:
			return exits > from || removed
		case container.WaitConditionRemoved:
			return removed
		default:
			return removed || !st.Running() && st.Status != container.StateRestarting
		}
	})
	if err != nil {
		return WaitOut{}, err
	}
	return WaitOut{Code: st.ExitCode, Error: st.Error}, nil
}
