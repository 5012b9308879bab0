package containers

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"
	"github.com/spf13/pflag"

	"github.com/coble-os/coble/rt/client/command"
	"github.com/coble-os/coble/rt/client/flags"
)

// TopVerb is `coble top`.
func TopVerb(f *pflag.FlagSet) command.Run {
	f.SetInterspersed(false)
	return func(ctx context.Context, a *command.App, args []string) error {
		if err := command.Need(args, 1, -1, "a container and options of ps"); err != nil {
			return err
		}
		var out container.TopResponse
		q := url.Values{"ps_args": {strings.Join(args[1:], " ")}}
		if err := a.Call(ctx, "GET", path(args[0], "top"), q, nil, &out); err != nil {
			return err
		}
		a.Table(append([][]string{out.Titles}, out.Processes...))
		return nil
	}
}

// UpdateVerb is `coble update`.
func UpdateVerb(f *pflag.FlagSet) command.Run {
	limits, rates := flags.AddLimits(f), flags.AddRates(f)
	restart := f.String("restart", "", "no, always, unless-stopped or on-failure[:n]")
	return func(ctx context.Context, a *command.App, args []string) error {
		if err := command.Need(args, 1, -1, "containers"); err != nil {
			return err
		}
		var req struct {
			container.UpdateConfig
			Bandwidth flags.Bandwidth
		}
		var err error
		if req.Bandwidth, err = rates.Read(); err != nil {
			return err
		}
		if err := limits.Into(&req.Resources); err != nil {
			return err
		}
		policy, count, _ := strings.Cut(*restart, ":")
		req.RestartPolicy.Name = container.RestartPolicyMode(policy)
		fmt.Sscanf(count, "%d", &req.RestartPolicy.MaximumRetryCount)
		return a.EachOf(args, func(n string) error { return a.Call(ctx, "POST", path(n, "update"), nil, req, nil) })
	}
}

// StatsVerb is `coble stats`: it shows every running container, or those named; again each second unless it shall not.
func StatsVerb(f *pflag.FlagSet) command.Run {
	once := f.Bool("no-stream", false, "one sample, then end")
	return func(ctx context.Context, a *command.App, args []string) error {
		for {
			names := args
			if len(names) == 0 {
				var list []struct{ ID string }
				if err := a.Call(ctx, "GET", "/containers/json", nil, nil, &list); err != nil {
					return err
				}
				for _, c := range list {
					names = append(names, c.ID)
				}
			}
			rows, err := samples(ctx, a, names)
			if err != nil {
				return err
			}
			if !*once {
				fmt.Fprint(a.Out, "\x1b[H\x1b[J") // home, clear
			}
			a.Table(rows)
			if *once {
				return nil
			}
			if len(names) == 0 {
				time.Sleep(time.Second) // samples take one
			}
		}
	}
}

// samples asks for all at once, since each takes a second.
func samples(ctx context.Context, a *command.App, names []string) ([][]string, error) {
	rows := make([][]string, len(names)+1)
	rows[0] = []string{"CONTAINER ID", "NAME", "CPU %", "MEM USAGE / LIMIT", "MEM %", "NET I/O", "BLOCK I/O", "PIDS"}
	errs := make([]error, len(names))
	var wg sync.WaitGroup
	for i, n := range names {
		wg.Go(func() {
			var s container.StatsResponse
			if errs[i] = a.Call(ctx, "GET", path(n, "stats"), url.Values{"stream": {"false"}}, nil, &s); errs[i] == nil {
				rows[i+1] = sampleRow(s)
			}
		})
	}
	wg.Wait()
	return rows, errors.Join(errs...)
}

// sampleRow is pure.
func sampleRow(s container.StatsResponse) []string {
	cpu, mem := 0.0, 0.0
	used := float64(s.CPUStats.CPUUsage.TotalUsage) - float64(s.PreCPUStats.CPUUsage.TotalUsage)
	if all := float64(s.CPUStats.SystemUsage) - float64(s.PreCPUStats.SystemUsage); all > 0 && used > 0 {
		cpu = used / all * float64(s.CPUStats.OnlineCPUs) * 100
	}
	usage := s.MemoryStats.Usage
	for _, cache := range []string{"inactive_file", "total_inactive_file"} {
		if n := s.MemoryStats.Stats[cache]; n < usage {
			usage -= n
		}
	}
	if s.MemoryStats.Limit > 0 {
		mem = float64(usage) / float64(s.MemoryStats.Limit) * 100
	}
	var rx, tx uint64
	for _, n := range s.Networks {
		rx, tx = rx+n.RxBytes, tx+n.TxBytes
	}
	var read, written uint64
	for _, b := range s.BlkioStats.IoServiceBytesRecursive {
		switch b.Op {
		case "read":
			read += b.Value
		case "write":
			written += b.Value
		}
	}
	return []string{
		s.ID[:min(12, len(s.ID))], strings.TrimPrefix(s.Name, "/"), fmt.Sprintf("%.2f%%", cpu), units.BytesSize(float64(usage)) + " / " + units.BytesSize(float64(s.MemoryStats.Limit)),
		fmt.Sprintf("%.2f%%", mem), units.HumanSizeWithPrecision(float64(rx), 3) + " / " + units.HumanSizeWithPrecision(float64(tx), 3),
		units.HumanSizeWithPrecision(float64(read), 3) + " / " + units.HumanSizeWithPrecision(float64(written), 3), fmt.Sprint(s.PidsStats.Current),
	}
}
