package containers

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/spf13/pflag"

	"github.com/coble-os/coble/layers/reference"
	"github.com/coble-os/coble/rt/client/command"
	"github.com/coble-os/coble/rt/client/conn"
	"github.com/coble-os/coble/rt/client/flags"
	"github.com/coble-os/coble/rt/client/images"
)

func create(ctx context.Context, a *command.App, c *flags.Create, req flags.CreateRequest) (string, error) {
	if c.CIDFile != "" {
		if _, err := os.Stat(c.CIDFile); err == nil {
			return "", fmt.Errorf("container ID file found, make sure the other container isn't running or delete %s", c.CIDFile)
		}
	}
	out, err := createPulling(ctx, a, c, req)
	if err != nil {
		return "", err
	}
	for _, w := range out.Warnings {
		fmt.Fprintln(a.Err, "Warning:", w)
	}
	if c.CIDFile != "" {
		return out.ID, os.WriteFile(c.CIDFile, []byte(out.ID), 0o644)
	}
	return out.ID, nil
}

// createPulling pulls the image first, if it is missing or that is asked for.
func createPulling(ctx context.Context, a *command.App, c *flags.Create, req flags.CreateRequest) (out container.CreateResponse, err error) {
	q := url.Values{"name": {c.Name}}
	if c.Platform != "" {
		q.Set("platform", c.Platform)
	}
	create := func() error { return a.Call(ctx, "POST", "/containers/create", q, req, &out) }
	switch c.Pull {
	case "never":
		return out, create()
	case "always":
	case "missing":
		if err = create(); !isNoImage(err) {
			return out, err
		}
	default:
		return out, fmt.Errorf("--pull %q: want always, missing or never", c.Pull)
	}
	named, nerr := reference.Parse(req.Image)
	if nerr != nil {
		if err == nil {
			err = fmt.Errorf("image name %q: %w", req.Image, nerr)
		}
		return out, err
	}
	named = named.Latest()
	if c.Pull == "missing" {
		fmt.Fprintf(a.Err, "Unable to find image '%s' locally\n", named.Familiar())
	}
	if err := images.Pull(ctx, a, named.String(), c.Platform, a.Err); err != nil {
		return out, err
	}
	return out, create()
}

// attached is for a container that somebody starts in front of: its input, if it has one, ends with theirs.
func attached(c *flags.Create, req *flags.CreateRequest) {
	req.AttachStdout, req.AttachStderr, req.AttachStdin, req.StdinOnce = true, true, c.Interactive, c.Interactive
}

// CreateVerb is `coble create`.
func CreateVerb(f *pflag.FlagSet) command.Run {
	c := flags.AddCreate(f)
	return func(ctx context.Context, a *command.App, args []string) error {
		if err := command.Need(args, 1, -1, "an image"); err != nil {
			return err
		}
		req, err := c.Request(args)
		if err != nil {
			return err
		}
		attached(c, &req)
		id, err := create(ctx, a, c, req)
		if err == nil {
			fmt.Fprintln(a.Out, id)
		}
		return err
	}
}

// RunVerb is `coble run`.
func RunVerb(f *pflag.FlagSet) command.Run {
	c := flags.AddCreate(f)
	detach := f.BoolP("detach", "d", false, "do not wait: print the id")
	return func(ctx context.Context, a *command.App, args []string) error {
		if err := command.Need(args, 1, -1, "an image"); err != nil {
			return err
		}
		req, err := c.Request(args)
		if err != nil {
			return err
		}
		if !*detach {
			attached(c, &req)
		}
		id, err := create(ctx, a, c, req)
		if err != nil {
			return err
		}
		if *detach {
			if err := a.Call(ctx, "POST", path(id, "start"), nil, nil, nil); err != nil {
				return startStatus(err)
			}
			fmt.Fprintln(a.Out, id)
			return nil
		}
		return startAttached(ctx, a, id, c.TTY, c.Interactive, c.AutoRemove)
	}
}

// isNoImage tells whether a create failed for want of the image alone, or of one for the platform.
func isNoImage(err error) bool {
	var api *conn.Error
	return errors.As(err, &api) && api.Status == http.StatusNotFound &&
		(strings.Contains(api.Message, "No such image") || strings.Contains(api.Message, "does not match the specified platform"))
}
