// Package images is the verbs that are about images and registries: lists, archives, pulls and pushes, logging in, checks.
// Each is a request to the engine, or a few, and prints what was answered.
package images

import (
	"context"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/pflag"

	"github.com/coble-os/coble/rt/client/command"
	"github.com/coble-os/coble/rt/client/flags"
	"github.com/coble-os/coble/rt/client/render"
)

// ListVerb is `coble images`.
func ListVerb(f *pflag.FlagSet) command.Run {
	quiet := f.BoolP("quiet", "q", false, "ids only")
	long := f.Bool("no-trunc", false, "whole ids")
	filters := f.StringArrayP("filter", "f", nil, "only those with reference=PATTERN, label=NAME[=VALUE], dangling=true, before=IMAGE, since=IMAGE or until=TIME")
	return func(ctx context.Context, a *command.App, args []string) error {
		if err := command.Need(args, 0, 1, "at most a repository"); err != nil {
			return err
		}
		for _, r := range args {
			*filters = append(*filters, "reference="+r)
		}
		q, err := flags.Filters(*filters)
		if err != nil {
			return err
		}
		var list []struct {
			ID            string `json:"Id"`
			RepoTags      []string
			Created, Size int64
		}
		if err := a.Call(ctx, "GET", "/images/json", q, nil, &list); err != nil {
			return err
		}
		rows := [][]string{{"REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"}}
		for _, i := range list {
			id := i.ID
			if !*long {
				id = strings.TrimPrefix(id, "sha256:")[:12]
			}
			if *quiet {
				fmt.Fprintln(a.Out, id)
				continue
			}
			tags := i.RepoTags
			if len(tags) == 0 {
				tags = []string{"<none>:<none>"}
			}
			for _, t := range tags {
				at := strings.LastIndex(t, ":")
				rows = append(rows, []string{t[:at], t[at+1:], id, render.Ago(time.Unix(i.Created, 0)), units.HumanSizeWithPrecision(float64(i.Size), 3)})
			}
		}
		if !*quiet {
			a.Table(rows)
		}
		return nil
	}
}

// HistoryVerb is `coble history`.
func HistoryVerb(f *pflag.FlagSet) command.Run {
	quiet := f.BoolP("quiet", "q", false, "ids only")
	long := f.Bool("no-trunc", false, "whole ids and commands")
	return func(ctx context.Context, a *command.App, args []string) error {
		if err := command.Need(args, 1, 1, "an image"); err != nil {
			return err
		}
		var list []struct {
			ID                 string `json:"Id"`
			CreatedBy, Comment string
			Created, Size      int64
		}
		if err := a.Call(ctx, "GET", "/images/"+args[0]+"/history", nil, nil, &list); err != nil {
			return err
		}
		rows := [][]string{{"IMAGE", "CREATED", "CREATED BY", "SIZE", "COMMENT"}}
		for _, h := range list {
			id, by := strings.TrimPrefix(h.ID, "sha256:"), h.CreatedBy
			if r := []rune(by); !*long {
				id = id[:min(12, len(id))]
				if len(r) > 45 {
					by = string(r[:44]) + "…"
				}
			}
			if *quiet {
				fmt.Fprintln(a.Out, id)
				continue
			}
			made := ""
			if h.Created != 0 {
				made = render.Ago(time.Unix(h.Created, 0))
			}
			rows = append(rows, []string{id, made, by, render.Size(h.Size), h.Comment})
		}
		if !*quiet {
			a.Table(rows)
		}
		return nil
	}
}

// PruneVerb is `coble image prune`.
func PruneVerb(f *pflag.FlagSet) command.Run {
	f.BoolP("force", "f", false, "as with docker; coble asks nothing")
	all := f.BoolP("all", "a", false, "also images that have a name, if no container uses them")
	filters := f.StringArray("filter", nil, "only those with until=TIME, label=NAME[=VALUE] or label!=NAME[=VALUE]")
	return func(ctx context.Context, a *command.App, args []string) error {
		if err := command.Need(args, 0, 0, "nothing"); err != nil {
			return err
		}
		texts := append([]string{"dangling=" + strconv.FormatBool(!*all)}, *filters...)
		q, err := flags.Filters(texts)
		if err != nil {
			return err
		}
		var out struct {
			ImagesDeleted  []struct{ Untagged, Deleted string }
			SpaceReclaimed int64
		}
		if err := a.Call(ctx, "POST", "/images/prune", q, nil, &out); err != nil {
			return err
		}
		for _, d := range out.ImagesDeleted {
			removed(a, d.Untagged, d.Deleted)
		}
		fmt.Fprintln(a.Out, "Total reclaimed space:", render.Size(out.SpaceReclaimed))
		return nil
	}
}

// TagVerb is `coble tag`.
func TagVerb(*pflag.FlagSet) command.Run {
	return func(ctx context.Context, a *command.App, args []string) error {
		if err := command.Need(args, 2, 2, "an image and a name"); err != nil {
			return err
		}
		return a.Call(ctx, "POST", "/images/"+args[0]+"/tag", url.Values{"repo": {args[1]}}, nil, nil)
	}
}

// RemoveVerb is `coble rmi`.
func RemoveVerb(f *pflag.FlagSet) command.Run {
	force := f.BoolP("force", "f", false, "remove it though stopped containers were made from it")
	return func(ctx context.Context, a *command.App, args []string) error {
		if err := command.Need(args, 1, -1, "images"); err != nil {
			return err
		}
		for _, n := range args {
			var out []struct{ Untagged, Deleted string }
			if err := a.Call(ctx, "DELETE", "/images/"+n, url.Values{"force": {strconv.FormatBool(*force)}}, nil, &out); err != nil {
				return err
			}
			for _, r := range out {
				removed(a, r.Untagged, r.Deleted)
			}
		}
		return nil
	}
}

func removed(a *command.App, untagged, deleted string) {
	if untagged != "" {
		fmt.Fprintln(a.Out, "Untagged:", untagged)
		return
	}
	fmt.Fprintln(a.Out, "Deleted:", deleted)
}
