package client

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/coble-os/coble/rt/client/command"
	"github.com/coble-os/coble/rt/client/flags"
	"github.com/coble-os/coble/rt/client/render"
)

func historyVerb(f *pflag.FlagSet) command.Run {
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

func imagePruneVerb(f *pflag.FlagSet) command.Run {
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

type dfImage struct {
	ID                                    string `json:"Id"`
	RepoTags                              []string
	Created, Size, SharedSize, Containers int64
}

type dfContainer struct {
	ID, Image, Status, State string
	Names                    []string
	SizeRw                   int64
}

func dfVerb(f *pflag.FlagSet) command.Run {
	verbose := f.BoolP("verbose", "v", false, "each image and container")
	return func(ctx context.Context, a *command.App, args []string) error {
		if err := command.Need(args, 0, 0, "nothing"); err != nil {
			return err
		}
		var df struct {
			LayersSize int64
			Images     []dfImage
			Containers []dfContainer
		}
		if err := a.Call(ctx, "GET", "/system/df", nil, nil, &df); err != nil {
			return err
		}
		if *verbose {
			a.Table(dfImageRows(df.Images))
			fmt.Fprintln(a.Out)
			a.Table(dfContainerRows(df.Containers))
			return nil
		}
		used, running := 0, 0
		free, rw, stopped := df.LayersSize, int64(0), int64(0)
		for _, i := range df.Images {
			if i.Containers > 0 {
				used++
				free -= i.Size - i.SharedSize
			}
		}
		for _, c := range df.Containers {
			rw += c.SizeRw
			if c.State == "running" || c.State == "paused" {
				running++
			} else {
				stopped += c.SizeRw
			}
		}
		a.Table([][]string{
			{"TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"},
			{"Images", strconv.Itoa(len(df.Images)), strconv.Itoa(used), render.Size(df.LayersSize), render.Size(max(free, 0))},
			{"Containers", strconv.Itoa(len(df.Containers)), strconv.Itoa(running), render.Size(rw), render.Size(stopped)},
		})
		return nil
	}
}

func dfImageRows(images []dfImage) [][]string {
	rows := [][]string{{"IMAGE", "IMAGE ID", "CREATED", "SIZE", "SHARED", "UNIQUE", "CONTAINERS"}}
	for _, i := range images {
		name := "<none>"
		if len(i.RepoTags) > 0 {
			name = strings.Join(i.RepoTags, ", ")
		}
		rows = append(rows, []string{
			name, strings.TrimPrefix(i.ID, "sha256:")[:12], render.Ago(time.Unix(i.Created, 0)),
			render.Size(i.Size), render.Size(i.SharedSize), render.Size(i.Size - i.SharedSize), strconv.FormatInt(i.Containers, 10),
		})
	}
	return rows
}

func dfContainerRows(list []dfContainer) [][]string {
	rows := [][]string{{"CONTAINER", "CONTAINER ID", "IMAGE", "STATUS", "SIZE"}}
	for _, c := range list {
		rows = append(rows, []string{strings.TrimPrefix(strings.Join(c.Names, ","), "/"), c.ID[:12], c.Image, c.Status, render.Size(c.SizeRw)})
	}
	return rows
}
