package images

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strconv"
	"strings"

	"github.com/docker/go-units"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/coble-os/coble/rt/client/command"
)

// SaveVerb is `coble save`.
func SaveVerb(f *pflag.FlagSet) command.Run {
	to := f.StringP("output", "o", "", "file to write (default: standard output)")
	platform := f.String("platform", "", "os/architecture[/variant] that the images must be for")
	return func(ctx context.Context, a *command.App, args []string) error {
		if err := command.Need(args, 1, -1, "images"); err != nil {
			return err
		}
		resp, err := a.Do(ctx, "GET", "/images/get", url.Values{"names": args, "platform": {*platform}}, nil)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		return a.Output(*to, resp.Body)
	}
}

// ImportVerb is `coble import`.
func ImportVerb(f *pflag.FlagSet) command.Run {
	changes := f.StringArrayP("change", "c", nil, "instruction of a Dockerfile to apply, such as 'CMD [\"sh\"]'")
	message := f.StringP("message", "m", "", "comment of the image")
	platform := f.String("platform", "", "what it is for, such as linux/arm/v7 (default: the engine's machine)")
	return func(ctx context.Context, a *command.App, args []string) error {
		if err := command.Need(args, 1, 2, "a file, a URL or - and a name"); err != nil {
			return err
		}
		from, src := a.In, "-"
		if strings.HasPrefix(args[0], "http://") || strings.HasPrefix(args[0], "https://") {
			from, src = nil, args[0]
		} else if args[0] != "-" {
			file, err := os.Open(args[0])
			if err != nil {
				return err
			}
			defer file.Close()
			from = file
		}
		q := url.Values{"fromSrc": {src}, "changes": *changes, "message": {*message}, "platform": {*platform}}
		if len(args) == 2 {
			q.Set("repo", args[1])
		}
		resp, err := a.Do(ctx, "POST", "/images/create", q, from, "Content-Type", "application/x-tar")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		var out struct{ Status string }
		if err := json.NewDecoder(resp.Body).Decode(&out); err != nil {
			return err
		}
		fmt.Fprintln(a.Out, out.Status)
		return nil
	}
}

// LoadVerb is `coble load`.
func LoadVerb(f *pflag.FlagSet) command.Run {
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
