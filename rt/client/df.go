package client

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/coble-os/coble/rt/client/command"
	"github.com/coble-os/coble/rt/client/render"
)

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
