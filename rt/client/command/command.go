// Package command is what the verbs of the command line share: the connection to the engine, the three streams, checks of
// arguments, and exit statuses. It knows no verb, and never exits.
package command

import (
	"context"
	"fmt"
	"io"

	"github.com/coble-os/coble/rt/client/conn"
	"github.com/coble-os/coble/rt/client/render"
)

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

// Run is what a verb does after its flags were parsed. An error that is no *ExitError gets its status from whoever called.
type Run = func(ctx context.Context, a *App, args []string) error

// App is one run of the command line.
type App struct {
	*conn.Conn
	In       io.Reader
	Out, Err io.Writer
}

// Need checks the number of arguments; most < 0 is no limit.
func Need(args []string, least, most int, what string) error {
	if len(args) < least || most >= 0 && len(args) > most {
		return &ExitError{Status: 125, Err: fmt.Errorf("want %s, got %d arguments", what, len(args))}
	}
	return nil
}

// EachOf does a thing to each name, says which, and goes on after an error.
func (a *App) EachOf(names []string, do func(name string) error) error {
	var bad error
	for _, n := range names {
		if err := do(n); err != nil {
			fmt.Fprintln(a.Err, "Error:", err)
			bad = &ExitError{Status: 1}
			continue
		}
		fmt.Fprintln(a.Out, n)
	}
	return bad
}

// Table writes aligned columns to the standard output.
func (a *App) Table(rows [][]string) { render.Table(a.Out, rows) }
