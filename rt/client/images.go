package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strconv"

	"github.com/docker/go-units"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/coble-os/coble/rt/client/command"
)

func loadVerb(f *pflag.FlagSet) command.Run {
	input := f.StringP("input", "i", "", "archive to read (default: standard input)")
	quiet := f.BoolP("quiet", "q", false, "no progress")
	platform := f.String("platform", "", "os/architecture[/variant] of the images to take, and of no others")
	return func(ctx context.Context, a *command.App, args []string) error {
		from := a.In
		if *input != "" {
			file, err := os.Open(*input)
			if err != nil {
				return err
			}
			defer file.Close()
			from = file
		} else if term.IsTerminal(int(os.Stdin.Fd())) {
			return errors.New("requested load from stdin, but stdin is a terminal: give a file with -i")
		}
		resp, err := a.Do(ctx, "POST", "/images/load", url.Values{"quiet": {strconv.FormatBool(*quiet)}, "platform": {*platform}}, from, "Content-Type", "application/x-tar")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		return showProgress(a, resp.Body)
	}
}

// showProgress prints the engine's JSON lines: results as they come, progress on one line of a terminal.
func showProgress(a *command.App, r io.Reader) error {
	isTerm := term.IsTerminal(int(os.Stderr.Fd()))
	for d := json.NewDecoder(r); ; {
		var m struct {
			Stream, Status, ID, Error string
			ProgressDetail            struct{ Current, Total int64 }
		}
		if err := d.Decode(&m); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		switch {
		case m.Error != "":
			return errors.New(m.Error)
		case m.Stream != "":
			fmt.Fprint(a.Out, m.Stream)
		case isTerm:
			fmt.Fprintf(a.Err, "\r\x1b[K%s %s %s", m.Status, m.ID, units.HumanSize(float64(m.ProgressDetail.Current)))
		}
	}
}

func rmiVerb(f *pflag.FlagSet) command.Run {
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
