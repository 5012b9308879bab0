// Package client is the command line: each verb is one request to the engine, or a few, over unix://path,
// tcp://host:port or fd://number. It holds no state and decides nothing that the engine could decide.
package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/pflag"

	"github.com/coble-os/coble/rt/client/conn"
)

// DefaultHost is where the engine is looked for unless -H, COBLE_HOST or DOCKER_HOST says otherwise.
const DefaultHost = "unix:///run/coble/coble.sock"

// Version is the client's.
var Version = "dev"

// ExitError ends the command with a status and, if there is one, a message.
type ExitError struct {
	Status int
	Err    error
}

func (e *ExitError) Error() string {
	if e.Err == nil {
		return ""
	}
	return e.Err.Error()
}

// command is one verb.
type command struct {
	name, usage, help string
	// setup declares flags and returns what runs after they were parsed.
	setup func(f *pflag.FlagSet) func(ctx context.Context, a *app, args []string) error
}

// app is one run of the command line.
type app struct {
	*conn.Conn
	in       io.Reader
	out, err io.Writer
}

// Names lists the verbs.
func Names() []string {
	var names []string
	for _, c := range commands() {
		names = append(names, c.name)
	}
	return append(names, "image", "container", "system", "network")
}

// Run runs `VERB ARGS…`. The error, if any, is an *ExitError.
func Run(ctx context.Context, host string, args []string) error {
	args = oneWord(args)
	cmd := find(args[0])
	if cmd == nil {
		return &ExitError{125, fmt.Errorf("unknown command %q: see `coble help`", args[0])}
	}
	f := pflag.NewFlagSet(cmd.name, pflag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.SetInterspersed(cmd.name != "run" && cmd.name != "create" && cmd.name != "exec")
	run := cmd.setup(f)
	err := f.Parse(args[1:])
	if errors.Is(err, pflag.ErrHelp) {
		fmt.Printf("Usage: coble %s\n\n%s\n\n%s", cmd.usage, cmd.help, f.FlagUsages())
		return nil
	}
	if err != nil {
		return &ExitError{125, fmt.Errorf("%w: see `coble %s --help`", err, cmd.name)}
	}
	c, err := conn.Dial(host)
	if err != nil {
		return &ExitError{125, err}
	}
	return exitStatus(cmd, run(ctx, &app{c, os.Stdin, os.Stdout, os.Stderr}, f.Args()))
}

// oneWord turns Docker's verbs of two words into coble's: image ls is images, image save is save, container ps is ps. What
// there is in two words only, such as image prune, becomes one argument.
func oneWord(args []string) []string {
	if len(args) < 2 || args[0] != "image" && args[0] != "container" && args[0] != "system" && args[0] != "network" {
		return args
	}
	both := args[0] + " " + args[1]
	switch both {
	case "image ls", "image list":
		both = "images"
	case "image rm", "image remove":
		both = "rmi"
	case "network list":
		both = "network ls"
	case "network remove":
		both = "network rm"
	case "container ls", "container list":
		both = "ps"
	default:
		if find(both) == nil {
			both = args[1]
		}
	}
	return append([]string{both}, args[2:]...)
}

// exitStatus gives errors that have none the verb's: 125 for run, like docker, else 1.
func exitStatus(cmd *command, err error) error {
	var exit *ExitError
	if err == nil || errors.As(err, &exit) {
		return err
	}
	if cmd.name == "run" {
		return &ExitError{125, err}
	}
	return &ExitError{1, err}
}

func find(name string) *command {
	for _, c := range commands() {
		if c.name == name {
			return &c
		}
	}
	return nil
}

// Help writes a line per verb.
func Help(w io.Writer) {
	for _, c := range commands() {
		fmt.Fprintf(w, "  %-11s %s\n", c.name, c.help)
	}
}

// need checks the number of arguments; most < 0 is no limit.
func need(args []string, least, most int, what string) error {
	if len(args) < least || most >= 0 && len(args) > most {
		return &ExitError{125, fmt.Errorf("want %s, got %d arguments", what, len(args))}
	}
	return nil
}

// eachOf does a thing to each name, says which, and goes on after an error.
func (a *app) eachOf(names []string, do func(name string) error) error {
	var bad error
	for _, n := range names {
		if err := do(n); err != nil {
			fmt.Fprintln(a.err, "Error:", err)
			bad = &ExitError{Status: 1}
			continue
		}
		fmt.Fprintln(a.out, n)
	}
	return bad
}
