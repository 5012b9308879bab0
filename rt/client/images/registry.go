package images

import (
	"bytes"
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

	"github.com/coble-os/coble/layers/reference"
	"github.com/coble-os/coble/rt/client/command"
	"github.com/coble-os/coble/rt/client/dockerconfig"
	"github.com/coble-os/coble/rt/client/flags"
)

// PullVerb is `coble pull`.
func PullVerb(f *pflag.FlagSet) command.Run {
	all := f.BoolP("all-tags", "a", false, "every tag of the repository")
	quiet := f.BoolP("quiet", "q", false, "print the image's name only")
	platform := f.String("platform", "", "os/architecture[/variant] instead of this machine's")
	return func(ctx context.Context, a *command.App, args []string) error {
		if err := command.Need(args, 1, 1, "an image"); err != nil {
			return err
		}
		name, err := reference.Parse(args[0])
		if err != nil {
			return fmt.Errorf("image name %q: %w", args[0], err)
		}
		if *all && !name.NameOnly() {
			return fmt.Errorf("image name %q: all tags are wanted, and one is given", args[0])
		}
		if !*all {
			name = name.Latest()
		}
		out := a.Out
		if *quiet {
			out = io.Discard
		}
		if err := Pull(ctx, a, name.String(), *platform, out); err != nil {
			return err
		}
		fmt.Fprintln(a.Out, name)
		return nil
	}
}

// Pull takes a normalised name; one without tag and digest is all tags.
func Pull(ctx context.Context, a *command.App, name, platform string, out io.Writer) error {
	header, err := dockerconfig.Header(ctx, name)
	if err != nil {
		return err
	}
	q := url.Values{"fromImage": {name}}
	if platform != "" {
		q.Set("platform", platform)
	}
	resp, err := a.Do(ctx, "POST", "/images/create", q, nil, header...)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return showTransfer(resp.Body, out)
}

// PushVerb is `coble push`.
func PushVerb(f *pflag.FlagSet) command.Run {
	all := f.BoolP("all-tags", "a", false, "every tag of the repository that is here")
	quiet := f.BoolP("quiet", "q", false, "print the image's name only")
	return func(ctx context.Context, a *command.App, args []string) error {
		if err := command.Need(args, 1, 1, "an image"); err != nil {
			return err
		}
		name, err := reference.Parse(args[0])
		if err != nil {
			return fmt.Errorf("image name %q: %w", args[0], err)
		}
		q := url.Values{}
		if tag := name.Latest().Tag; !*all && tag != "" {
			q.Set("tag", tag)
		} else if !name.NameOnly() {
			return fmt.Errorf("image name %q: want a tag, or with --all-tags none", args[0])
		}
		header, err := dockerconfig.Header(ctx, args[0])
		if err != nil {
			return err
		}
		resp, err := a.Do(ctx, "POST", "/images/"+name.Name()+"/push", q, nil, header...)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		out := a.Out
		if *quiet {
			out = io.Discard
		}
		if err := showTransfer(resp.Body, out); err != nil {
			return err
		}
		if *quiet {
			fmt.Fprintln(a.Out, args[0])
		}
		return nil
	}
}

// showTransfer prints a pull's or push's JSON lines: what was reached as lines, and on a terminal what goes on below.
func showTransfer(r io.Reader, out io.Writer) error {
	file, ok := out.(*os.File)
	isTerm := ok && term.IsTerminal(int(file.Fd()))
	for d := json.NewDecoder(r); ; {
		var m struct {
			Status, ID, Error string
			ProgressDetail    struct{ Current, Total int64 }
		}
		if err := d.Decode(&m); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read the engine's progress: %w", err)
		}
		wipe := ""
		if isTerm {
			wipe = "\r\x1b[K"
		}
		switch {
		case m.Error != "":
			fmt.Fprint(out, wipe)
			return errors.New(m.Error)
		case m.ProgressDetail.Current > 0 && isTerm:
			fmt.Fprintf(out, "%s%s: %s %s", wipe, m.ID, m.Status, amount(m.ProgressDetail.Current, m.ProgressDetail.Total))
		case m.ProgressDetail.Current > 0:
		case m.ID != "":
			fmt.Fprintf(out, "%s%s: %s\n", wipe, m.ID, m.Status)
		case m.Status != "":
			fmt.Fprintf(out, "%s%s\n", wipe, m.Status)
		}
	}
}

func amount(current, total int64) string {
	if total == 0 {
		return units.HumanSize(float64(current))
	}
	return units.HumanSize(float64(current)) + "/" + units.HumanSize(float64(total))
}

// SearchVerb is `coble search`.
func SearchVerb(f *pflag.FlagSet) command.Run {
	limit := f.Int("limit", 25, "how many results, at most 100")
	filter := f.StringArrayP("filter", "f", nil, "stars=N or is-official=true")
	long := f.Bool("no-trunc", false, "whole descriptions")
	return func(ctx context.Context, a *command.App, args []string) error {
		if err := command.Need(args, 1, 1, "a term"); err != nil {
			return err
		}
		q, err := flags.Filters(*filter)
		if err != nil {
			return err
		}
		q.Set("term", args[0])
		q.Set("limit", strconv.Itoa(*limit))
		return search(ctx, a, q, *long)
	}
}

func search(ctx context.Context, a *command.App, q url.Values, long bool) error {
	server := dockerconfig.HubServer
	if first, _, ok := strings.Cut(q.Get("term"), "/"); ok && strings.ContainsAny(first, ".:") {
		server = first
	}
	var header []string
	if server != dockerconfig.HubServer {
		var err error
		if header, err = dockerconfig.Header(ctx, server+"/x"); err != nil {
			return err
		}
	}
	resp, err := a.Do(ctx, "GET", "/images/search", q, nil, header...)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var list []struct {
		Name, Description string
		Stars             int  `json:"star_count"`
		Official          bool `json:"is_official"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&list); err != nil {
		return fmt.Errorf("read results: %w", err)
	}
	rows := [][]string{{"NAME", "DESCRIPTION", "STARS", "OFFICIAL"}}
	for _, r := range list {
		official := ""
		if r.Official {
			official = "[OK]"
		}
		text := strings.Join(strings.Fields(r.Description), " ")
		if runes := []rune(text); !long && len(runes) > 45 {
			text = string(runes[:44]) + "…"
		}
		rows = append(rows, []string{r.Name, text, strconv.Itoa(r.Stars), official})
	}
	a.Table(rows)
	return nil
}

// ServeVerb is `coble registry serve`.
func ServeVerb(f *pflag.FlagSet) command.Run {
	listen := f.String("listen", "127.0.0.1:5000", "address and port to serve on")
	cert := f.String("tls-cert", "", "file with the server's certificates (PEM); without one plain HTTP is served")
	key := f.String("tls-key", "", "file with the certificate's key (PEM)")
	users := f.String("htpasswd", "", "file with the users that may read and write, made with htpasswd -B; without one anybody may")
	readOnly := f.Bool("read-only", false, "nobody may push or delete")
	anyone := f.Bool("anyone-may-push", false, "allow writing without users on other addresses than this machine's own")
	return func(ctx context.Context, a *command.App, args []string) error {
		if len(args) != 1 || args[0] != "serve" {
			return &command.ExitError{Status: 125, Err: errors.New("want: registry serve")}
		}
		in := map[string]any{"Listen": *listen, "ReadOnly": *readOnly, "AnyoneMayPush": *anyone}
		for field, file := range map[string]string{"TLSCert": *cert, "TLSKey": *key, "Htpasswd": *users} {
			if file == "" {
				continue
			}
			text, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			if len(text) == 0 {
				return fmt.Errorf("%s is empty", file)
			}
			in[field] = string(text)
		}
		body, err := json.Marshal(in)
		if err != nil {
			return err
		}
		resp, err := a.Do(ctx, "POST", "/coble/registry/serve", nil, bytes.NewReader(body), "Content-Type", "application/json")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		return showTransfer(resp.Body, a.Out)
	}
}
