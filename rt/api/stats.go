package api

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/moby/moby/api/types/container"

	"github.com/coble-os/coble/rt/engine"
	"github.com/coble-os/coble/rt/execdriver"
	"github.com/coble-os/coble/rt/job"
	"github.com/coble-os/coble/rt/networkdriver"
)

func (s *Server) topContainer(w http.ResponseWriter, r *http.Request) error {
	in := execdriver.TopIn{Ref: r.PathValue("name"), Args: r.FormValue("ps_args")}
	out, err := job.Run[execdriver.TopOut](r.Context(), s.e.Jobs, "top", in, job.Streams{}, in.Ref)
	if err != nil {
		return err
	}
	return reply(w, http.StatusOK, container.TopResponse{Titles: out.Titles, Processes: out.Rows})
}

func (s *Server) updateContainer(w http.ResponseWriter, r *http.Request) error {
	var req struct {
		container.UpdateConfig
		Bandwidth networkdriver.BandwidthIn // coble's own
	}
	if err := decode(r, &req); err != nil {
		return err
	}
	in := engine.UpdateIn{Ref: r.PathValue("name"), Limits: req.Resources, Policy: req.RestartPolicy, Bandwidth: req.Bandwidth}
	if err := job.Do(r.Context(), s.e.Jobs, "update", in, in.Ref); err != nil {
		return err
	}
	return reply(w, http.StatusOK, container.UpdateResponse{Warnings: []string{}})
}

// statsEvery is how often a stream of samples has one.
const statsEvery = time.Second

// containerStats answers with samples: a stream of them, two for one answer with a difference in it, or just one.
func (s *Server) containerStats(w http.ResponseWriter, r *http.Request) error {
	stream := r.FormValue("stream") == "" || flag(r, "stream")
	take := func() (execdriver.Sample, error) {
		return job.Run[execdriver.Sample](r.Context(), s.e.Jobs, "stats", r.PathValue("name"), job.Streams{}, r.PathValue("name"))
	}
	before, err := take()
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	if !stream && flag(r, "one-shot") {
		return replyBody(w, wireStats(before, execdriver.Sample{}))
	}
	w.WriteHeader(http.StatusOK)
	flush(w)
	tick := time.NewTicker(statsEvery)
	defer tick.Stop()
	enc := json.NewEncoder(w)
	last := before
	if stream { // one at once, without a difference
		if err := enc.Encode(wireStats(before, execdriver.Sample{})); err != nil {
			return nil
		}
		flush(w)
	}
	for {
		select {
		case <-tick.C:
		case <-r.Context().Done():
			return nil
		}
		next, err := take()
		if err != nil {
			return nil // removed: the stream ends
		}
		if err := enc.Encode(wireStats(next, last)); err != nil || !stream {
			return nil
		}
		flush(w)
		last = next
	}
}

// wireStats is pure: a sample, and the one before it, in Docker's words.
func wireStats(s, before execdriver.Sample) container.StatsResponse {
	out := container.StatsResponse{
		ID: s.ID, Name: "/" + s.Name, OSType: "linux", Read: s.Read, PreRead: before.Read, CPUStats: wireCPU(s), PreCPUStats: wireCPU(before),
		PidsStats: container.PidsStats{Current: s.Stats.Pids, Limit: s.Stats.PidsLimit},
	}
	cache := "inactive_file"
	if s.CgroupVersion == 1 {
		cache = "total_inactive_file"
	}
	if s.MemoryLimit > 0 {
		out.MemoryStats = container.MemoryStats{
			Usage: s.Stats.MemoryUsage, MaxUsage: s.Stats.MemoryPeak, Limit: s.MemoryLimit, Stats: map[string]uint64{cache: s.Stats.MemoryCache},
		}
	}
	for _, b := range s.Stats.Blocks {
		out.BlkioStats.IoServiceBytesRecursive = append(out.BlkioStats.IoServiceBytesRecursive,
			container.BlkioStatEntry{Major: b.Major, Minor: b.Minor, Op: "read", Value: b.Read},
			container.BlkioStatEntry{Major: b.Major, Minor: b.Minor, Op: "write", Value: b.Written})
	}
	for name, t := range s.Networks {
		if out.Networks == nil {
			out.Networks = map[string]container.NetworkStats{}
		}
		out.Networks[name] = container.NetworkStats{
			RxBytes: t.RxBytes, RxPackets: t.RxPackets, RxErrors: t.RxErrors, RxDropped: t.RxDropped,
			TxBytes: t.TxBytes, TxPackets: t.TxPackets, TxErrors: t.TxErrors, TxDropped: t.TxDropped,
		}
	}
	return out
}

func wireCPU(s execdriver.Sample) container.CPUStats {
	if s.SystemCPU == 0 {
		return container.CPUStats{}
	}
	return container.CPUStats{
		CPUUsage: container.CPUUsage{
			TotalUsage: uint64(s.Stats.CPUUsage), UsageInUsermode: uint64(s.Stats.CPUUser), UsageInKernelmode: uint64(s.Stats.CPUSystem),
		},
		SystemUsage: uint64(s.SystemCPU), OnlineCPUs: uint32(s.OnlineCPUs), ThrottlingData: container.ThrottlingData{ThrottledTime: uint64(s.Stats.Throttled)},
	}
}
