package oci

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/pflag"

	"github.com/coble-os/coble/sandbox/cgroup"
)

// event is a line of `runc events`.
type event struct {
	Type string `json:"type"` // stats or oom
	ID   string `json:"id"`
	Data *stats `json:"data,omitempty"`
}

// stats are the figures that coble knows, in runc's shape. Times are nanoseconds, sizes bytes.
type stats struct {
	CPU struct {
		Usage struct {
			Total  uint64 `json:"total"`
			Kernel uint64 `json:"kernel"`
			User   uint64 `json:"user"`
		} `json:"usage"`
		Throttling struct {
			Time uint64 `json:"throttledTime,omitempty"`
		} `json:"throttling"`
	} `json:"cpu"`
	Memory struct {
		Cache uint64            `json:"cache,omitempty"`
		Usage memoryEntry       `json:"usage"`
		Raw   map[string]uint64 `json:"raw,omitempty"`
	} `json:"memory"`
	Pids struct {
		Current uint64 `json:"current"`
		Limit   uint64 `json:"limit,omitempty"`
	} `json:"pids"`
}

type memoryEntry struct {
	Limit   uint64 `json:"limit"`
	Usage   uint64 `json:"usage"`
	Max     uint64 `json:"max"`
	Failcnt uint64 `json:"failcnt"`
}

func setupEvents(a *app, f *pflag.FlagSet) func(context.Context, []string) error {
	interval := f.Duration("interval", 5*time.Second, "time between two lines")
	once := f.Bool("stats", false, "print the figures once")
	return func(_ context.Context, args []string) error {
		if *interval <= 0 {
			return errors.New("duration interval must be greater than 0")
		}
		r, err := a.load(args[0])
		if err != nil {
			return err
		}
		if r.status() == specs.StateStopped {
			return errors.New("container with id " + r.ID + " is not running")
		}
		g, err := r.group()
		if err != nil {
			return err
		}
		if *once {
			_, err := a.printStats(r, g)
			return err
		}
		return a.watch(r, g, *interval)
	}
}

func (a *app) printStats(r *record, g *cgroup.Group) (cgroup.Stats, error) {
	s, err := g.Stats()
	if err != nil {
		return s, err
	}
	return s, a.printJSON(event{"stats", r.ID, newStats(s, g)}, "")
}

func newStats(s cgroup.Stats, g *cgroup.Group) *stats {
	out := &stats{}
	out.CPU.Usage.Total, out.CPU.Usage.Kernel, out.CPU.Usage.User = uint64(s.CPUUsage), uint64(s.CPUSystem), uint64(s.CPUUser)
	out.CPU.Throttling.Time = uint64(s.Throttled)
	out.Memory.Cache = s.MemoryCache
	hits, err := g.LimitHits()
	if err != nil {
		hits = 0 // the group is about to go
	}
	out.Memory.Usage = memoryEntry{Limit: s.MemoryLimit, Usage: s.MemoryUsage, Max: s.MemoryPeak, Failcnt: hits}
	if s.MemoryLimit == 0 {
		out.Memory.Usage.Limit = 1<<63 - 1 // none
	}
	out.Memory.Raw = map[string]uint64{"inactive_file": s.MemoryCache, "total_inactive_file": s.MemoryCache}
	out.Pids.Current, out.Pids.Limit = s.Pids, s.PidsLimit
	return out
}

// watch prints figures in turn, and that memory ran out, until the container ends.
func (a *app) watch(r *record, g *cgroup.Group, interval time.Duration) error {
	kills := uint64(0)
	for tick := time.NewTicker(interval); ; <-tick.C {
		s, err := a.printStats(r, g)
		if errors.Is(err, os.ErrNotExist) || r.status() == specs.StateStopped {
			return nil
		}
		if err != nil {
			return err
		}
		if s.OOMKills > kills {
			kills = s.OOMKills
			if err := a.printJSON(event{Type: "oom", ID: r.ID}, ""); err != nil {
				return err
			}
		}
	}
}
