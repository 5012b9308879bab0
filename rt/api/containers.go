package api

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"github.com/coble-os/coble/rt/containers"
	"github.com/coble-os/coble/rt/engine"
	"github.com/coble-os/coble/rt/fault"
	"github.com/coble-os/coble/rt/job"
	"github.com/coble-os/coble/rt/networkdriver"
	"github.com/coble-os/coble/rt/request"
	"github.com/coble-os/coble/rt/stdio"
)

func (s *Server) containerRoutes() {
	s.route("GET /containers/json", s.listContainers)
	s.route("POST /containers/create", s.createContainer)
	s.route("POST /containers/prune", s.pruneContainers)
	s.route("GET /containers/{name}/json", s.inspectContainer)
	s.route("POST /containers/{name}/start", s.startContainer)
	s.route("POST /containers/{name}/stop", s.stopContainer)
	s.route("POST /containers/{name}/restart", s.restartContainer)
	s.route("POST /containers/{name}/kill", s.killContainer)
	s.route("POST /containers/{name}/pause", s.byName("pause"))
	s.route("POST /containers/{name}/unpause", s.byName("unpause"))
	s.route("POST /containers/{name}/wait", s.waitContainer)
	s.route("POST /containers/{name}/rename", s.renameContainer)
	s.route("POST /containers/{name}/resize", s.resizeContainer)
	s.route("POST /containers/{name}/attach", s.attachContainer)
	s.route("GET /containers/{name}/logs", s.containerLogs)
	s.route("DELETE /containers/{name}", s.removeContainer)
	s.route("GET /containers/{name}/top", s.topContainer)
	s.route("GET /containers/{name}/stats", s.containerStats)
	s.route("POST /containers/{name}/update", s.updateContainer)
}

// do runs a job without a result and answers 204.
func (s *Server) do(w http.ResponseWriter, r *http.Request, name string, in any) error {
	// A client that goes away cancels nothing: half of a start or of a stop helps nobody.
	if err := job.Do(context.WithoutCancel(r.Context()), s.e.Jobs, name, in, r.PathValue("name")); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Server) byName(verb string) handler {
	return func(w http.ResponseWriter, r *http.Request) error { return s.do(w, r, verb, r.PathValue("name")) }
}

func (s *Server) createContainer(w http.ResponseWriter, r *http.Request) error {
	var req struct {
		container.CreateRequest
		Bandwidth networkdriver.Bandwidth // coble's own
	}
	if err := decode(r, &req); err != nil {
		return err
	}
	if req.Config == nil {
		return invalid("config cannot be empty in order to create a container")
	}
	in := request.Create{Name: trimSlash(r.FormValue("name")), Platform: r.FormValue("platform"), Config: *req.Config, Bandwidth: req.Bandwidth}
	if req.HostConfig != nil {
		in.Host = *req.HostConfig
	}
	if req.NetworkingConfig != nil {
		in.Networks = req.NetworkingConfig.EndpointsConfig
	}
	out, err := job.Run[engine.CreateOut](r.Context(), s.e.Jobs, "create", in, job.Streams{}, in.Name, in.Config.Image)
	if err != nil {
		return err
	}
	return reply(w, http.StatusCreated, container.CreateResponse{ID: out.ID, Warnings: out.Warnings})
}

func trimSlash(s string) string {
	if len(s) > 0 && s[0] == '/' {
		return s[1:]
	}
	return s
}

func (s *Server) startContainer(w http.ResponseWriter, r *http.Request) error {
	return s.do(w, r, "start", r.PathValue("name"))
}

func stopIn(r *http.Request) (engine.StopIn, error) {
	in := engine.StopIn{Ref: r.PathValue("name"), Signal: r.FormValue("signal")}
	if t := r.FormValue("t"); t != "" {
		n, err := strconv.Atoi(t)
		if err != nil {
			return in, invalid("invalid grace time %q", t)
		}
		in.Seconds = &n
	}
	return in, nil
}

func (s *Server) stopContainer(w http.ResponseWriter, r *http.Request) error {
	in, err := stopIn(r)
	if err != nil {
		return err
	}
	return s.do(w, r, "stop", in)
}

func (s *Server) restartContainer(w http.ResponseWriter, r *http.Request) error {
	in, err := stopIn(r)
	if err != nil {
		return err
	}
	return s.do(w, r, "restart", in)
}

func (s *Server) killContainer(w http.ResponseWriter, r *http.Request) error {
	return s.do(w, r, "kill", engine.KillIn{Ref: r.PathValue("name"), Signal: r.FormValue("signal")})
}

func (s *Server) removeContainer(w http.ResponseWriter, r *http.Request) error {
	if flag(r, "link") {
		return invalid("links are not supported")
	}
	return s.do(w, r, "rm", engine.RemoveIn{Ref: r.PathValue("name"), Force: flag(r, "force"), Volumes: flag(r, "v")})
}

func (s *Server) renameContainer(w http.ResponseWriter, r *http.Request) error {
	return s.do(w, r, "rename", engine.RenameIn{Ref: r.PathValue("name"), Name: trimSlash(r.FormValue("name"))})
}

func resizeIn(r *http.Request) (stdio.ResizeIn, error) {
	rows, err1 := strconv.Atoi(r.FormValue("h"))
	cols, err2 := strconv.Atoi(r.FormValue("w"))
	if err1 != nil || err2 != nil || rows < 0 || cols < 0 || rows > 65535 || cols > 65535 {
		return stdio.ResizeIn{}, invalid("invalid terminal size h=%q w=%q", r.FormValue("h"), r.FormValue("w"))
	}
	return stdio.ResizeIn{Ref: r.PathValue("name"), Rows: rows, Cols: cols}, nil
}

func (s *Server) resizeContainer(w http.ResponseWriter, r *http.Request) error {
	in, err := resizeIn(r)
	if err != nil {
		return err
	}
	if err := job.Do(r.Context(), s.e.Jobs, "resize", in, in.Ref); err != nil {
		return err
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

// waitContainer sends the header as soon as it waits: clients start the container only then.
func (s *Server) waitContainer(w http.ResponseWriter, r *http.Request) error {
	cond := container.WaitCondition(r.FormValue("condition"))
	if !slices.Contains([]container.WaitCondition{"", container.WaitConditionNotRunning, container.WaitConditionNextExit, container.WaitConditionRemoved}, cond) {
		return invalid("invalid condition: %q", cond)
	}
	in := engine.WaitIn{Ref: r.PathValue("name"), Condition: cond, Began: func() {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusOK)
		flush(w)
	}}
	out, err := job.Run[engine.WaitOut](r.Context(), s.e.Jobs, "wait", in, job.Streams{}, in.Ref)
	if err != nil && fault.KindOf(err) == fault.NotFound {
		return err
	}
	if err != nil {
		return nil // the client has gone
	}
	resp := container.WaitResponse{StatusCode: int64(out.Code)}
	if out.Error != "" {
		resp.Error = &container.WaitExitError{Message: out.Error}
	}
	return replyBody(w, resp)
}

func (s *Server) pruneContainers(w http.ResponseWriter, r *http.Request) error {
	f, err := readFilters(r, "label", "label!", "until")
	if err != nil {
		return err
	}
	until, err := pruneUntil(f)
	if err != nil {
		return err
	}
	keep := func(v containers.View) bool {
		return f.labels("label", v.Config.Labels) && (len(f["label!"]) == 0 || !f.labels("label!", v.Config.Labels)) && (until.IsZero() || v.Created.Before(until))
	}
	out, err := job.Run[engine.PruneOut](r.Context(), s.e.Jobs, "prune", keep, job.Streams{})
	if err != nil {
		return err
	}
	return reply(w, http.StatusOK, container.PruneReport{ContainersDeleted: out.Deleted, SpaceReclaimed: uint64(out.Reclaimed)})
}

// pruneUntil reads until=24h or a time.
func pruneUntil(f filters) (time.Time, error) {
	if len(f["until"]) == 0 {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(f["until"][0]); err == nil {
		return time.Now().Add(-d), nil
	}
	return readTime(f["until"][0])
}

// portMap turns leases into the wire's map.
func portMap(v containers.View) network.PortMap {
	m := network.PortMap{}
	for p := range v.Config.ExposedPorts {
		m[p] = nil
	}
	for _, l := range v.State.Ports {
		p, ok := network.PortFrom(l.ContainerPort, network.IPProtocol(l.Proto))
		if ok {
			m[p] = append(m[p], network.PortBinding{HostIP: addrOrAny(l.HostIP), HostPort: fmt.Sprint(l.HostPort)})
		}
	}
	return m
}
