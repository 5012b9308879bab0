package api

import (
	"encoding/json"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/api/types/system"

	"github.com/coble-os/coble/rt/engine"
	"github.com/coble-os/coble/rt/execdriver"
	"github.com/coble-os/coble/rt/job"
)

// readHeader bounds how long a client may take to say what it wants.
const readHeader = 30 * time.Second

func (s *Server) systemRoutes() {
	s.route("GET /_ping", s.ping)
	s.route("HEAD /_ping", s.ping)
	s.route("GET /version", s.version)
	s.route("GET /info", s.info)
	s.route("GET /events", s.eventStream)
	s.route("GET /system/df", s.diskUsage)
	s.route("GET /coble/jobs", s.jobs)
	s.route("DELETE /coble/jobs/{id}", s.killJob)
	s.route("GET /coble/boot", s.bootMarks)
	s.route("GET /coble/status", s.status)
	s.route("GET /coble/graph", s.graph)
	s.route("GET /coble/plan/{name}", s.plan)
	s.route("POST /coble/fsck", s.fsck)
	s.route("POST /coble/shutdown", s.shutdown)
}

func (s *Server) ping(w http.ResponseWriter, r *http.Request) error {
	w.Header().Set("Cache-Control", "no-cache, no-store, must-revalidate")
	w.Header().Set("Pragma", "no-cache")
	w.Header().Set("Builder-Version", "1")
	w.Header().Set("Swarm", "inactive")
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Content-Length", "2")
	if r.Method == http.MethodGet {
		w.Write([]byte("OK"))
	}
	return nil
}

func (s *Server) version(w http.ResponseWriter, r *http.Request) error {
	kernel, _ := execdriver.Uname()
	v := system.VersionResponse{
		Platform: system.PlatformInfo{Name: "coble"}, Version: s.e.Options().Version, APIVersion: Version, MinAPIVersion: MinVersion,
		Os: "linux", Arch: runtime.GOARCH, GoVersion: runtime.Version(), KernelVersion: kernel,
	}
	v.Components = []system.ComponentVersion{{Name: "Engine", Version: v.Version, Details: map[string]string{
		"ApiVersion": Version, "MinAPIVersion": MinVersion, "Arch": v.Arch, "Os": v.Os, "GoVersion": v.GoVersion, "KernelVersion": kernel,
	}}}
	return reply(w, http.StatusOK, v)
}

func (s *Server) info(w http.ResponseWriter, r *http.Request) error {
	i, err := job.Run[engine.Info](r.Context(), s.e.Jobs, "info", struct{}{}, job.Streams{})
	if err != nil {
		return err
	}
	status := [][2]string{{"Backing Filesystem", i.Backing}, {"Chosen because", i.DriverReason}, {"Bridge", i.Bridge}, {"Subnet", i.Subnet}}
	if i.Firewall != "" {
		status = append(status, [2]string{"Firewall", i.Firewall})
	}
	if i.Proxied != "" {
		status = append(status, [2]string{"Published ports", "by a proxy inside the engine: " + i.Proxied})
	}
	return reply(w, http.StatusOK, system.Info{
		ID: i.ID, Name: i.Name, ServerVersion: i.Version, DockerRootDir: i.Root,
		Containers: i.Total, ContainersRunning: i.Running, ContainersPaused: i.Paused, ContainersStopped: i.Stopped, Images: i.Images,
		Driver: i.Driver, DriverStatus: status,
		Plugins:     system.PluginsInfo{Volume: []string{"local"}, Network: []string{"bridge", "host", "null"}, Log: []string{"json-file", "local", "none"}},
		MemoryLimit: true, SwapLimit: true, CPUCfsPeriod: true, CPUCfsQuota: true, CPUShares: true, CPUSet: true, PidsLimit: true, IPv4Forwarding: true,
		OomKillDisable: i.CgroupVersion == 1, NFd: i.Descriptors, NGoroutines: i.Goroutines, SystemTime: time.Now().Format(time.RFC3339Nano),
		LoggingDriver: "json-file", CgroupDriver: "cgroupfs", CgroupVersion: strconv.Itoa(i.CgroupVersion), KernelVersion: i.Kernel,
		OperatingSystem: i.OS, OSType: "linux", Architecture: i.Arch, NCPU: i.CPUs, MemTotal: i.Memory,
		IndexServerAddress: "https://index.docker.io/v1/", RegistryConfig: &registry.ServiceConfig{IndexConfigs: map[string]*registry.IndexInfo{}},
		Labels: []string{}, Runtimes: map[string]system.RuntimeWithStatus{"coble": {}}, DefaultRuntime: "coble", LiveRestoreEnabled: true,
		Swarm: swarm.Info{LocalNodeState: swarm.LocalNodeStateInactive}, SecurityOptions: []string{"name=seccomp,profile=builtin", "name=cgroupns"},
		CDISpecDirs: []string{}, Warnings: append([]string{}, i.Warnings...),
	})
}

// eventFilter is pure: whether an event passes the API's filters.
func eventFilter(f filters, m events.Message) bool {
	name := m.Actor.Attributes["name"]
	actor := func(typ events.Type) bool {
		for _, v := range f[string(typ)] {
			if m.Type == typ && (v == name || strings.HasPrefix(m.Actor.ID, v)) {
				return true
			}
		}
		return len(f[string(typ)]) == 0
	}
	return f.any("type", string(m.Type)) && f.any("event", string(m.Action)) && f.labels("label", m.Actor.Attributes) &&
		(len(f["image"]) == 0 || slices.Contains(f["image"], m.Actor.Attributes["image"]) || m.Type == events.ImageEventType && slices.Contains(f["image"], name)) &&
		actor(events.ContainerEventType)
}

func (s *Server) eventStream(w http.ResponseWriter, r *http.Request) error {
	f, err := readFilters(r)
	if err != nil {
		return err
	}
	since, err := readTime(r.FormValue("since"))
	if err != nil {
		return err
	}
	until, err := readTime(r.FormValue("until"))
	if err != nil {
		return err
	}
	if !since.IsZero() && !until.IsZero() && until.Before(since) {
		return invalid("`since` time (%s) cannot be after `until` time (%s)", r.FormValue("since"), r.FormValue("until"))
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	flush(w)
	enc := json.NewEncoder(w)
	return s.e.Events(r.Context(), since, until, func(m events.Message) error {
		if !eventFilter(f, m) {
			return nil
		}
		err := enc.Encode(m)
		flush(w)
		return err
	})
}

func flush(w http.ResponseWriter) {
	if f, ok := w.(http.Flusher); ok {
		f.Flush()
	}
}

// readTime reads seconds since 1970 with an optional fraction, or RFC 3339.
func readTime(v string) (time.Time, error) {
	if v == "" || v == "0" {
		return time.Time{}, nil
	}
	secs, frac, _ := strings.Cut(v, ".")
	n, err := strconv.ParseInt(secs, 10, 64)
	if err != nil {
		t, err := time.Parse(time.RFC3339Nano, v)
		if err != nil {
			return t, invalid("invalid time %q: want seconds since 1970 or RFC 3339", v)
		}
		return t, nil
	}
	nanos, err := strconv.ParseInt((frac + "000000000")[:9], 10, 64)
	if err != nil {
		return time.Time{}, invalid("invalid time %q", v)
	}
	return time.Unix(n, nanos), nil
}

func (s *Server) jobs(w http.ResponseWriter, r *http.Request) error {
	return reply(w, http.StatusOK, s.e.Jobs.List())
}

func (s *Server) killJob(w http.ResponseWriter, r *http.Request) error {
	id, err := strconv.ParseUint(r.PathValue("id"), 10, 64)
	if err != nil {
		return invalid("invalid job id %q", r.PathValue("id"))
	}
	if err := s.e.Jobs.Kill(id); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Server) bootMarks(w http.ResponseWriter, r *http.Request) error {
	return reply(w, http.StatusOK, s.e.Boot.Marks())
}

func (s *Server) status(w http.ResponseWriter, r *http.Request) error {
	return reply(w, http.StatusOK, s.e.Status())
}

func (s *Server) plan(w http.ResponseWriter, r *http.Request) error {
	p, err := job.Run[execdriver.PlanOut](r.Context(), s.e.Jobs, "plan", r.PathValue("name"), job.Streams{}, r.PathValue("name"))
	if err != nil {
		return err
	}
	if r.FormValue("format") == "json" {
		w.Header().Set("Content-Type", "application/json")
		_, err = w.Write(p.JSON)
		return err
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, err = w.Write([]byte(p.Text))
	return err
}

func (s *Server) shutdown(w http.ResponseWriter, r *http.Request) error {
	how := r.FormValue("how")
	if !slices.Contains([]string{"poweroff", "reboot", "halt"}, how) {
		return invalid("shutdown %q is not known: use poweroff, reboot or halt", how)
	}
	if err := s.e.RequestShutdown(how); err != nil {
		return err
	}
	w.WriteHeader(http.StatusAccepted)
	return nil
}
