package client

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/pflag"

	"github.com/coble-os/coble/rt/client/command"
	"github.com/coble-os/coble/rt/client/render"
)

func jobsVerb(*pflag.FlagSet) command.Run {
	return func(ctx context.Context, a *command.App, args []string) error {
		if len(args) == 2 && args[0] == "kill" {
			return a.Call(ctx, "DELETE", "/coble/jobs/"+url.PathEscape(args[1]), nil, nil, nil)
		}
		if err := command.Need(args, 0, 0, "nothing, or `kill ID`"); err != nil {
			return err
		}
		var list []struct {
			ID             int
			Name           string
			Args           []string
			Started, Ended time.Time
			Status         int
			Error, Note    string
			Written        int64
		}
		if err := a.Call(ctx, "GET", "/coble/jobs", nil, nil, &list); err != nil {
			return err
		}
		rows := [][]string{{"JOB", "NAME", "STARTED", "TIME", "WRITTEN", "STATUS", "ARGUMENTS"}}
		for _, j := range list {
			took, status := time.Since(j.Started), "running"
			if !j.Ended.IsZero() {
				took, status = j.Ended.Sub(j.Started), "done"
			}
			if j.Note != "" {
				status += ": " + j.Note
			}
			if j.Error != "" {
				status = "error: " + j.Error
			}
			rows = append(rows, []string{fmt.Sprint(j.ID), j.Name, j.Started.Local().Format("15:04:05.000"), took.Round(10 * time.Microsecond).String(), units.HumanSizeWithPrecision(float64(j.Written), 3), status, strings.Join(j.Args, " ")})
		}
		a.Table(rows)
		return nil
	}
}

func versionVerb(*pflag.FlagSet) command.Run {
	return func(ctx context.Context, a *command.App, args []string) error {
		fmt.Fprintf(a.Out, "Client: coble %s\n", Version)
		var v struct{ Version, ApiVersion, KernelVersion, Os, Arch, GoVersion string }
		if err := a.Call(ctx, "GET", "/version", nil, nil, &v); err != nil {
			return err
		}
		fmt.Fprintf(a.Out, "Engine: coble %s\n API version: %s\n Go version:  %s\n OS/Arch:     %s/%s\n Kernel:      %s\n", v.Version, v.ApiVersion, v.GoVersion, v.Os, v.Arch, v.KernelVersion)
		return nil
	}
}

func infoVerb(*pflag.FlagSet) command.Run {
	return func(ctx context.Context, a *command.App, args []string) error {
		var i struct {
			ID, Name, ServerVersion, Driver, CgroupVersion, KernelVersion, OperatingSystem, Architecture, DockerRootDir string
			DriverStatus                                                                                                [][2]string
			Containers, ContainersRunning, ContainersPaused, ContainersStopped, Images, NCPU                            int
			MemTotal                                                                                                    int64
			Warnings                                                                                                    []string
		}
		if err := a.Call(ctx, "GET", "/info", nil, nil, &i); err != nil {
			return err
		}
		rows := [][]string{
			{"Name:", i.Name},
			{"Version:", i.ServerVersion},
			{"Containers:", fmt.Sprintf("%d (%d running, %d paused, %d stopped)", i.Containers, i.ContainersRunning, i.ContainersPaused, i.ContainersStopped)},
			{"Images:", fmt.Sprint(i.Images)},
			{"Root folder:", i.DockerRootDir},
			{"Graph driver:", i.Driver},
		}
		for _, s := range i.DriverStatus {
			rows = append(rows, []string{" " + s[0] + ":", s[1]})
		}
		a.Table(append(rows, [][]string{
			{"Cgroups:", "v" + i.CgroupVersion},
			{"Kernel:", i.KernelVersion},
			{"System:", i.OperatingSystem + ", " + i.Architecture},
			{"Processors:", fmt.Sprint(i.NCPU)},
			{"Memory:", units.BytesSize(float64(i.MemTotal))},
			{"ID:", i.ID},
		}...))
		for _, w := range i.Warnings {
			fmt.Fprintln(a.Out, "warning:", w)
		}
		return nil
	}
}

func statusVerb(*pflag.FlagSet) command.Run {
	return func(ctx context.Context, a *command.App, args []string) error {
		var s struct {
			Hostname, Version string
			Uptime            float64
			Problems          []string
			Links             []struct {
				Name, State, Problem string
				Since                time.Time
				Addresses            []string
			}
			Containers []struct {
				Name, Image, Section, State, Error string
				ExitCode, Restarts                 int
				Since                              time.Time
				Written                            int64
			}
		}
		if err := a.Call(ctx, "GET", "/coble/status", nil, nil, &s); err != nil {
			return err
		}
		fmt.Fprintf(a.Out, "%s, coble %s, up %s\n", s.Hostname, s.Version, units.HumanDuration(time.Duration(s.Uptime*1e6)))
		for _, p := range s.Problems {
			fmt.Fprintln(a.Out, "problem:", p)
		}
		if len(s.Links) > 0 {
			rows := [][]string{{"LINK", "STATE", "SINCE", "ADDRESSES", "MESSAGE"}}
			for _, l := range s.Links {
				rows = append(rows, []string{l.Name, l.State, render.Ago(l.Since), strings.Join(l.Addresses, ", "), l.Problem})
			}
			a.Table(rows)
			fmt.Fprintln(a.Out)
		}
		rows := [][]string{{"CONTAINER", "STATE", "SINCE", "RESTARTS", "WRITTEN", "IMAGE", "MESSAGE"}}
		for _, c := range s.Containers {
			state := c.State
			if state == "exited" {
				state = fmt.Sprintf("exited (%d)", c.ExitCode)
			}
			since := "never"
			if !c.Since.IsZero() {
				since = render.Ago(c.Since)
			}
			rows = append(rows, []string{c.Name, state, since, fmt.Sprint(c.Restarts), units.HumanSizeWithPrecision(float64(c.Written), 3), c.Image, c.Error})
		}
		a.Table(rows)
		return nil
	}
}
