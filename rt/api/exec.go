package api

import (
	"context"
	"fmt"
	"net/http"

	"github.com/moby/moby/api/types/container"

	"github.com/coble-os/coble/rt/execdriver"
	"github.com/coble-os/coble/rt/job"
)

func (s *Server) execRoutes() {
	s.route("POST /containers/{name}/exec", s.createExec)
	s.route("POST /exec/{name}/start", s.startExec)
	s.route("POST /exec/{name}/resize", s.resizeExec)
	s.route("GET /exec/{name}/json", s.inspectExec)
}

func (s *Server) createExec(w http.ResponseWriter, r *http.Request) error {
	var req container.ExecCreateRequest
	if err := decode(r, &req); err != nil {
		return err
	}
	keys, err := detachKeys(req.DetachKeys)
	if err != nil {
		return err
	}
	in := execdriver.ExecIn{
		Ref: r.PathValue("name"), Cmd: req.Cmd, Env: req.Env, User: req.User, WorkingDir: req.WorkingDir, Tty: req.Tty,
		Stdin: req.AttachStdin, Stdout: req.AttachStdout, Stderr: req.AttachStderr, Privileged: req.Privileged, DetachKeys: keys,
	}
	id, err := job.Run[string](r.Context(), s.e.Jobs, "exec-create", in, job.Streams{}, in.Ref)
	if err != nil {
		return err
	}
	return reply(w, http.StatusCreated, container.ExecCreateResponse{ID: id})
}

// startExec takes the connection over, unless the exec is detached.
func (s *Server) startExec(w http.ResponseWriter, r *http.Request) error {
	var req container.ExecStartRequest
	if err := decode(r, &req); err != nil {
		return err
	}
	in := execdriver.ExecStartIn{ID: r.PathValue("name"), Detach: req.Detach}
	if req.ConsoleSize != nil {
		in.ConsoleSize = *req.ConsoleSize
	}
	x, err := job.Run[execdriver.ExecView](r.Context(), s.e.Jobs, "exec-inspect", in.ID, job.Streams{})
	if err != nil {
		return err
	}
	if req.Detach {
		if err := job.Do(r.Context(), s.e.Jobs, "exec", in, in.ID); err != nil {
			return err
		}
		w.WriteHeader(http.StatusOK)
		return nil
	}
	// As Docker: the answer comes before the process, so an error is text in the stream, and a code in `inspect`.
	return hijack(w, r, x.Tty, x.DetachKeys, func(ctx context.Context, streams job.Streams, begin func(bool)) {
		begin(x.Tty)
		if _, err := job.Run[any](ctx, s.e.Jobs, "exec", in, streams, in.ID); err != nil {
			fmt.Fprintf(streams.Stdout, "%v\r\n", err)
		}
	})
}

func (s *Server) resizeExec(w http.ResponseWriter, r *http.Request) error {
	in, err := resizeIn(r)
	if err != nil {
		return err
	}
	if err := job.Do(r.Context(), s.e.Jobs, "exec-resize", in, in.Ref); err != nil {
		return err
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

func (s *Server) inspectExec(w http.ResponseWriter, r *http.Request) error {
	x, err := job.Run[execdriver.ExecView](r.Context(), s.e.Jobs, "exec-inspect", r.PathValue("name"), job.Streams{})
	if err != nil {
		return err
	}
	return reply(w, http.StatusOK, container.ExecInspectResponse{
		ID: x.ID, Running: x.Running, ExitCode: x.ExitCode, OpenStdin: x.Stdin, OpenStdout: x.Stdout, OpenStderr: x.Stderr,
		CanRemove: false, ContainerID: x.Container, Pid: x.Pid,
		ProcessConfig: &container.ExecProcessConfig{Tty: x.Tty, Entrypoint: x.Cmd[0], Arguments: x.Cmd[1:], User: x.User, Privileged: &x.Privileged},
	})
}
