package containers

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/coble-os/coble/rt/client/command"
	"github.com/coble-os/coble/rt/client/render"
)

type portSummary struct {
	IP                      string
	PrivatePort, PublicPort int
	Type                    string
}

// ListVerb is `coble ps`.
func ListVerb(f *pflag.FlagSet) command.Run {
	all := f.BoolP("all", "a", false, "stopped ones too")
	quiet := f.BoolP("quiet", "q", false, "ids only")
	long := f.Bool("no-trunc", false, "whole ids and commands")
	return func(ctx context.Context, a *command.App, args []string) error {
		var list []struct {
			ID, Image, Command, Status string
			Names                      []string
			Created                    int64
			Ports                      []portSummary
		}
		q := url.Values{}
		if *all {
			q.Set("all", "1")
		}
		if err := a.Call(ctx, "GET", "/containers/json", q, nil, &list); err != nil {
			return err
		}
		rows := [][]string{{"CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"}}
		for _, c := range list {
			id, cmd := c.ID, c.Command
			if !*long {
				id = id[:12]
				if r := []rune(cmd); len(r) > 20 {
					cmd = string(r[:19]) + "…"
				}
			}
			if *quiet {
				fmt.Fprintln(a.Out, id)
				continue
			}
			rows = append(rows, []string{id, c.Image, `"` + cmd + `"`, render.Ago(time.Unix(c.Created, 0)), c.Status, portText(c.Ports), strings.TrimPrefix(strings.Join(c.Names, ","), "/")})
		}
		if !*quiet {
			a.Table(rows)
		}
		return nil
	}
}

func portText(ports []portSummary) string {
	var out []string
	for _, p := range ports {
		if p.PublicPort == 0 {
			out = append(out, fmt.Sprintf("%d/%s", p.PrivatePort, p.Type))
			continue
		}
		out = append(out, fmt.Sprintf("%s:%d->%d/%s", p.IP, p.PublicPort, p.PrivatePort, p.Type))
	}
	return strings.Join(out, ", ")
}
