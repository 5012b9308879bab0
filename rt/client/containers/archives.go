package containers

import (
	"context"
	"fmt"
	"net/url"
	"strconv"

	"github.com/spf13/pflag"

	"github.com/coble-os/coble/rt/client/command"
)

// ExportVerb is `coble export`.
func ExportVerb(f *pflag.FlagSet) command.Run {
	to := f.StringP("output", "o", "", "file to write (default: standard output)")
	return func(ctx context.Context, a *command.App, args []string) error {
		if err := command.Need(args, 1, 1, "a container"); err != nil {
			return err
		}
		resp, err := a.Do(ctx, "GET", path(args[0], "export"), nil, nil)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		return a.Output(*to, resp.Body)
	}
}

// CommitVerb is `coble commit`.
func CommitVerb(f *pflag.FlagSet) command.Run {
	author := f.StringP("author", "a", "", "author of the image")
	changes := f.StringArrayP("change", "c", nil, "instruction of a Dockerfile to apply, such as 'CMD [\"sh\"]'")
	message := f.StringP("message", "m", "", "comment of the image")
	pause := f.BoolP("pause", "p", true, "freeze the container meanwhile")
	return func(ctx context.Context, a *command.App, args []string) error {
		if err := command.Need(args, 1, 2, "a container and a name"); err != nil {
			return err
		}
		q := url.Values{"container": {args[0]}, "author": {*author}, "comment": {*message}, "changes": *changes, "pause": {strconv.FormatBool(*pause)}}
		if len(args) == 2 {
			q.Set("repo", args[1])
		}
		var out struct{ ID string }
		if err := a.Call(ctx, "POST", "/commit", q, nil, &out); err != nil {
			return err
		}
		fmt.Fprintln(a.Out, out.ID)
		return nil
	}
}

// DiffVerb is `coble diff`.
func DiffVerb(*pflag.FlagSet) command.Run {
	return func(ctx context.Context, a *command.App, args []string) error {
		if err := command.Need(args, 1, 1, "a container"); err != nil {
			return err
		}
		var out []struct {
			Path string
			Kind int
		}
		if err := a.Call(ctx, "GET", path(args[0], "changes"), nil, nil, &out); err != nil {
			return err
		}
		for _, c := range out {
			fmt.Fprintf(a.Out, "%c %s\n", "CAD"[c.Kind%3], c.Path)
		}
		return nil
	}
}
