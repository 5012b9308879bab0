package client

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"os"
	"sort"
	"strings"

	"github.com/spf13/pflag"

	"github.com/coble-os/coble/rt/client/command"
	"github.com/coble-os/coble/rt/client/render"
	"github.com/coble-os/coble/rt/netview"
)

func graphVerb(f *pflag.FlagSet) command.Run {
	draw := addPictureFlags(f)
	return func(ctx context.Context, a *command.App, args []string) error {
		if err := command.Need(args, 0, 1, "at most one name"); err != nil {
			return err
		}
		q := url.Values{}
		if len(args) == 1 {
			q.Set("name", args[0])
		}
		g := &render.Graph{}
		if err := a.Call(ctx, "GET", "/coble/graph", q, nil, g); err != nil {
			return err
		}
		if drawn, err := draw(a.Out, g); drawn {
			return err
		}
		g.Text(a.Out)
		return nil
	}
}

// addPictureFlags declares what a graph can be shown as beside text. What is returned does so, and tells whether that was wanted.
func addPictureFlags(f *pflag.FlagSet) func(io.Writer, *render.Graph) (bool, error) {
	dot := f.Bool("dot", false, "in Graphviz's language")
	svg := f.String("svg", "", "write a picture to this file")
	return func(w io.Writer, g *render.Graph) (bool, error) {
		if *svg == "" {
			if *dot {
				g.DOT(w)
			}
			return *dot, nil
		}
		var b strings.Builder
		g.SVG(&b)
		return true, os.WriteFile(*svg, []byte(b.String()), 0o644)
	}
}

func netVerb(f *pflag.FlagSet) command.Run {
	draw := addPictureFlags(f)
	format := f.String("format", "table", "table or json")
	return func(ctx context.Context, a *command.App, args []string) error {
		if err := command.Need(args, 0, 0, "nothing"); err != nil {
			return err
		}
		var raw json.RawMessage
		if err := a.Call(ctx, "GET", "/coble/net", nil, nil, &raw); err != nil {
			return err
		}
		v := &netview.View{}
		if err := json.Unmarshal(raw, v); err != nil {
			return fmt.Errorf("read the engine's answer: %w", err)
		}
		if drawn, err := draw(a.Out, render.NetGraph(v)); drawn {
			return err
		}
		switch *format {
		case "json":
			e := json.NewEncoder(a.Out)
			e.SetIndent("", "    ")
			return e.Encode(raw)
		case "table":
			a.Table(render.NetRows(v))
			for _, note := range render.NetNotes(v) {
				fmt.Fprintln(a.Out, note)
			}
			return nil
		}
		return fmt.Errorf("format %q: use table or json", *format)
	}
}

func bootVerb(f *pflag.FlagSet) command.Run {
	svg := f.String("svg", "", "write a picture to this file instead")
	return func(ctx context.Context, a *command.App, args []string) error {
		var marks []render.Mark
		if err := a.Call(ctx, "GET", "/coble/boot", nil, nil, &marks); err != nil {
			return err
		}
		sort.SliceStable(marks, func(i, j int) bool { return int(marks[i].Start*1000) < int(marks[j].Start*1000) })
		if *svg == "" {
			render.Chart(a.Out, marks)
			return nil
		}
		var b strings.Builder
		render.ChartSVG(&b, marks)
		return os.WriteFile(*svg, []byte(b.String()), 0o644)
	}
}
