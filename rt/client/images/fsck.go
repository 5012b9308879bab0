package images

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/coble-os/coble/rt/client/command"
	"github.com/coble-os/coble/rt/client/dockerconfig"
)

// finding is what the engine says of one damaged path.
type finding struct {
	Images      []string
	Layer, Path string
	What        string
	Repaired    bool
}

func (f finding) String() string {
	var b strings.Builder
	if len(f.Images) > 0 {
		fmt.Fprintf(&b, "%s: ", strings.Join(f.Images, ", "))
	}
	if f.Layer != "" {
		fmt.Fprintf(&b, "layer %.12s: ", strings.TrimPrefix(f.Layer, "sha256:"))
	}
	if f.Path != "" {
		fmt.Fprintf(&b, "/%s: ", strings.TrimPrefix(f.Path, "."))
	}
	b.WriteString(f.What)
	if f.Repaired {
		b.WriteString(" (repaired)")
	}
	return b.String()
}

// FsckVerb is `coble fsck`.
func FsckVerb(f *pflag.FlagSet) command.Run {
	quick := f.Bool("quick", false, "look whether everything is there, not what is in it")
	repair := f.String("repair", "", "bring damaged files back from this archive, OCI layout folder or folder of another store, from `registry` (the images' own), or from registry://HOST:PORT")
	return func(ctx context.Context, a *command.App, args []string) error {
		if err := command.Need(args, 0, -1, "images"); err != nil {
			return err
		}
		q := url.Values{"quick": {strconv.FormatBool(*quick)}}
		if *repair == "registry" || strings.HasPrefix(*repair, "registry://") {
			q.Set("from", *repair)
		} else if *repair != "" {
			from, err := filepath.Abs(*repair)
			if err != nil {
				return err
			}
			q.Set("from", from)
		}
		if len(args) == 0 {
			args = []string{""}
		}
		header, err := repairAuth(ctx, a, q.Get("from"))
		if err != nil {
			return err
		}
		left := 0
		for _, image := range args {
			q.Set("image", image)
			n, err := fsck(ctx, a, q, header)
			if err != nil {
				return err
			}
			left += n
		}
		if left > 0 && *repair == "" {
			return fmt.Errorf("%d damaged: repair with --repair ARCHIVE, --repair STORE, --repair registry or --repair registry://HOST:PORT", left)
		}
		if left > 0 {
			return fmt.Errorf("%d damaged still", left)
		}
		return nil
	}
}

// fsck prints what one check finds, and returns how much of it remains.
func fsck(ctx context.Context, a *command.App, q url.Values, header []string) (left int, err error) {
	resp, err := a.Do(ctx, "POST", "/coble/fsck", q, nil, header...)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	isTerm := term.IsTerminal(int(os.Stderr.Fd()))
	done := false
	for d := json.NewDecoder(resp.Body); ; {
		var m struct {
			Layer   string
			N, Of   int
			Finding *finding
			Done    bool
			Message string // of an error
		}
		if err := d.Decode(&m); errors.Is(err, io.EOF) && done {
			return left, nil
		} else if err != nil {
			return left, fmt.Errorf("the check was cut short: %w", err)
		}
		switch {
		case m.Message != "":
			return left, errors.New(m.Message)
		case m.Finding != nil:
			if !m.Finding.Repaired {
				left++
			}
			fmt.Fprintln(a.Out, m.Finding)
		case m.Layer != "" && isTerm:
			fmt.Fprintf(a.Err, "\r\x1b[Klayer %d of %d", m.N, m.Of)
		}
		if done = m.Done; done && isTerm {
			fmt.Fprint(a.Err, "\r\x1b[K")
		}
	}
}

// repairAuth is the header that lets the engine in where it may repair from: a neighbour, or the registries of all images.
func repairAuth(ctx context.Context, a *command.App, from string) ([]string, error) {
	servers := map[string]bool{}
	if host, neighbour := strings.CutPrefix(from, "registry://"); neighbour {
		servers[dockerconfig.ServerKey(host)] = true
	} else if from == "registry" {
		var list []struct{ RepoTags []string }
		if err := a.Call(ctx, "GET", "/images/json", nil, nil, &list); err != nil {
			return nil, err
		}
		for _, img := range list {
			for _, name := range img.RepoTags {
				server, err := dockerconfig.RegistryOf(name)
				if err != nil {
					return nil, err
				}
				servers[server] = true
			}
		}
	}
	return dockerconfig.HeaderOfAll(ctx, servers)
}
