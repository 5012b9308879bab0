// Package containers is the verbs that are about containers: making and running, streams attached to them, copies, what they
// use. Each is a request to the engine, or a few, and prints what was answered.
package containers

import (
	"context"
	"fmt"
	"net/url"
	"strconv"

	"github.com/spf13/pflag"

	"github.com/coble-os/coble/rt/client/command"
)

// path is that of a thing of one container in the API.
func path(name, what string) string { return "/containers/" + url.PathEscape(name) + "/" + what }

// PlainVerb is `coble pause` or `coble unpause`: a POST to each container.
func PlainVerb(what string) func(*pflag.FlagSet) command.Run {
	return func(*pflag.FlagSet) command.Run {
		return func(ctx context.Context, a *command.App, args []string) error {
			if err := command.Need(args, 1, -1, "containers"); err != nil {
				return err
			}
			return a.EachOf(args, func(n string) error { return a.Call(ctx, "POST", path(n, what), nil, nil, nil) })
		}
	}
}

// StopVerb is `coble stop` or `coble restart`.
func StopVerb(what string) func(*pflag.FlagSet) command.Run {
	return func(f *pflag.FlagSet) command.Run {
		seconds := f.IntP("time", "t", 0, "seconds to wait before killing; -1: for ever (default: the container's own, or 10)")
		signal := f.StringP("signal", "s", "", "signal to send (default: the container's own, or TERM)")
		return func(ctx context.Context, a *command.App, args []string) error {
			if err := command.Need(args, 1, -1, "containers"); err != nil {
				return err
			}
			q := url.Values{}
			if f.Changed("time") {
				q.Set("t", strconv.Itoa(*seconds))
			}
			if *signal != "" {
				q.Set("signal", *signal)
			}
			return a.EachOf(args, func(n string) error { return a.Call(ctx, "POST", path(n, what), q, nil, nil) })
		}
	}
}

// KillVerb is `coble kill`.
func KillVerb(f *pflag.FlagSet) command.Run {
	signal := f.StringP("signal", "s", "KILL", "signal to send")
	return func(ctx context.Context, a *command.App, args []string) error {
		if err := command.Need(args, 1, -1, "containers"); err != nil {
			return err
		}
		return a.EachOf(args, func(n string) error {
			return a.Call(ctx, "POST", path(n, "kill"), url.Values{"signal": {*signal}}, nil, nil)
		})
	}
}

// RemoveVerb is `coble rm`.
func RemoveVerb(f *pflag.FlagSet) command.Run {
	force := f.BoolP("force", "f", false, "kill a running container first")
	volumes := f.BoolP("volumes", "v", false, "remove its anonymous volumes too")
	return func(ctx context.Context, a *command.App, args []string) error {
		if err := command.Need(args, 1, -1, "containers"); err != nil {
			return err
		}
		q := url.Values{"force": {strconv.FormatBool(*force)}, "v": {strconv.FormatBool(*volumes)}}
		return a.EachOf(args, func(n string) error { return a.Call(ctx, "DELETE", "/containers/"+url.PathEscape(n), q, nil, nil) })
	}
}

// RenameVerb is `coble rename`.
func RenameVerb(*pflag.FlagSet) command.Run {
	return func(ctx context.Context, a *command.App, args []string) error {
		if err := command.Need(args, 2, 2, "a container and a name"); err != nil {
			return err
		}
		return a.Call(ctx, "POST", path(args[0], "rename"), url.Values{"name": {args[1]}}, nil, nil)
	}
}

// WaitVerb is `coble wait`.
func WaitVerb(*pflag.FlagSet) command.Run {
	return func(ctx context.Context, a *command.App, args []string) error {
		if err := command.Need(args, 1, -1, "containers"); err != nil {
			return err
		}
		for _, n := range args {
			var out struct{ StatusCode int }
			if err := a.Call(ctx, "POST", path(n, "wait"), nil, nil, &out); err != nil {
				return err
			}
			fmt.Fprintln(a.Out, out.StatusCode)
		}
		return nil
	}
}
