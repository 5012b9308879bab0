package containers

import (
	"bytes"
	"context"
	"encoding/json"
	"net/url"

	"github.com/moby/moby/api/types/container"
	"github.com/spf13/pflag"

	"github.com/coble-os/coble/rt/client/command"
)

// ExecVerb is `coble exec`.
func ExecVerb(f *pflag.FlagSet) command.Run {
	var req container.ExecCreateRequest
	f.StringArrayVarP(&req.Env, "env", "e", nil, "NAME=value")
	f.StringVarP(&req.User, "user", "u", "", "user[:group] to run as")
	f.StringVarP(&req.WorkingDir, "workdir", "w", "", "working directory")
	f.BoolVarP(&req.Tty, "tty", "t", false, "give it a terminal")
	f.BoolVarP(&req.AttachStdin, "interactive", "i", false, "send it the standard input")
	f.BoolVar(&req.Privileged, "privileged", false, "give it all capabilities")
	detach := f.BoolP("detach", "d", false, "do not wait for it")
	return func(ctx context.Context, a *command.App, args []string) error {
		if err := command.Need(args, 2, -1, "a container and a command"); err != nil {
			return err
		}
		req.Cmd, req.AttachStdout, req.AttachStderr = args[1:], !*detach, !*detach
		var created struct {
			ID string `json:"Id"`
		}
		if err := a.Call(ctx, "POST", path(args[0], "exec"), nil, req, &created); err != nil {
			return err
		}
		at := "/exec/" + url.PathEscape(created.ID)
		start := container.ExecStartRequest{Detach: *detach, Tty: req.Tty}
		if *detach {
			return a.Call(ctx, "POST", at+"/start", nil, start, nil)
		}
		if err := execAttached(ctx, a, at, start, req); err != nil {
			return err
		}
		var end container.ExecInspectResponse
		if err := a.Call(ctx, "GET", at+"/json", nil, nil, &end); err != nil {
			return err
		}
		if end.ExitCode != nil && *end.ExitCode != 0 {
			return &command.ExitError{Status: *end.ExitCode}
		}
		return nil
	}
}

// execAttached runs it with its streams connected.
func execAttached(ctx context.Context, a *command.App, at string, start container.ExecStartRequest, req container.ExecCreateRequest) error {
	body, err := json.Marshal(start)
	if err != nil {
		return err
	}
	nc, br, err := a.Hijack(ctx, at+"/start", nil, bytes.NewReader(body))
	if err != nil {
		return err
	}
	defer nc.Close()
	defer rawTerminal(req.Tty)()
	if req.Tty {
		resizeTo(ctx, a, at+"/resize")
	}
	copyStreams(a, nc, br, req.Tty, req.AttachStdin)
	return nil
}
