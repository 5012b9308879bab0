package client

import (
	"context"
	"io"
	"net/url"

	"github.com/spf13/pflag"

	"github.com/coble-os/coble/rt/client/command"
)

func planVerb(f *pflag.FlagSet) command.Run {
	asJSON := f.Bool("json", false, "as JSON")
	return func(ctx context.Context, a *command.App, args []string) error {
		if err := command.Need(args, 1, 1, "a container"); err != nil {
			return err
		}
		q := url.Values{}
		if *asJSON {
			q.Set("format", "json")
		}
		resp, err := a.Do(ctx, "GET", "/coble/plan/"+url.PathEscape(args[0]), q, nil)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		_, err = io.Copy(a.Out, resp.Body)
		return err
	}
}
