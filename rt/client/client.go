// Package client is the command line: the table of verbs, their help and exit codes, and the verbs that are about the whole
// system; those about containers, images and networks are in packages of their own. Each verb is one request to the
// engine, or a few. It holds no state and decides nothing that the engine could decide.
package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/pflag"

	"github.com/coble-os/coble/rt/client/command"
	"github.com/coble-os/coble/rt/client/conn"
)

// DefaultHost is where the engine is looked for unless -H, COBLE_HOST or DOCKER_HOST says otherwise.
const DefaultHost = "unix:///run/coble/coble.sock"

// Version is the client's.
var Version = "dev"

// verb is one line of the table.
type verb struct {
	name, usage, help string
	// setup declares flags and returns what runs after they were parsed.
	setup func(f *pflag.FlagSet) command.Run
}

// Names lists the verbs.
func Names() []string {
	var names []string
	for _, c := range commands() {
		names = append(names, c.name)
	}
	return append(names, "image", "container", "system", "network")
}

// Run runs `VERB ARGS…`. The error, if any, is a *command.ExitError.
func Run(ctx context.Context, host string, args []string) error {
	args = oneWord(args)
	cmd := find(args[0])
	if cmd == nil {
		return &command.ExitError{Status: 125, Err: fmt.Errorf("unknown command %q: see `coble help`", args[0])}
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
		return &command.ExitError{Status: 125, Err: fmt.Errorf("%w: see `coble %s --help`", err, cmd.name)}
	}
	c, err := conn.Dial(host)
	if err != nil {
		return &command.ExitError{Status: 125, Err: err}
	}
	return exitStatus(cmd, run(ctx, &command.App{Conn: c, In: os.Stdin, Out: os.Stdout, Err: os.Stderr}, f.Args()))
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
func exitStatus(cmd *verb, err error) error {
	var exit *command.ExitError
	if err == nil || errors.As(err, &exit) {
		return err
	}
	if cmd.name == "run" {
		return &command.ExitError{Status: 125, Err: err}
	}
	return &command.ExitError{Status: 1, Err: err}
}

func find(name string) *verb {
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
