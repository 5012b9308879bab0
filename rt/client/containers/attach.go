package containers

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/signal"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/coble-os/coble/rt/client/command"
	"github.com/coble-os/coble/rt/client/conn"
)

// startStatus gives the exit codes that docker and shells give for commands that cannot be started.
func startStatus(err error) error {
	var e *conn.Error
	if !errors.As(err, &e) {
		return &command.ExitError{Status: 125, Err: err}
	}
	switch {
	case strings.Contains(e.Message, "executable file not found"), strings.Contains(e.Message, "no such file or directory"):
		return &command.ExitError{Status: 127, Err: err}
	case strings.Contains(e.Message, "permission denied"), strings.Contains(e.Message, "exec format error"):
		return &command.ExitError{Status: 126, Err: err}
	}
	return &command.ExitError{Status: 125, Err: err}
}

// startAttached connects, starts the container and returns its exit code as an error.
func startAttached(ctx context.Context, a *command.App, id string, tty, stdin, autoRemove bool) error {
	q := url.Values{"stream": {"1"}, "stdout": {"1"}, "stderr": {"1"}}
	if stdin {
		q.Set("stdin", "1")
	}
	nc, br, err := a.Hijack(ctx, path(id, "attach"), q, nil)
	if err != nil {
		return err
	}
	defer nc.Close()
	condition := "next-exit"
	if autoRemove {
		condition = "removed"
	}
	done := waitFor(ctx, a, id, condition)
	restore := rawTerminal(tty)
	defer restore()
	if err := a.Call(ctx, "POST", path(id, "start"), nil, nil, nil); err != nil {
		if autoRemove {
			a.Call(ctx, "DELETE", "/containers/"+id, nil, nil, nil)
		}
		return startStatus(err)
	}
	stop := forwardSignals(ctx, a, id, tty)
	defer stop()
	resizeNow(ctx, a, id, tty)
	copyStreams(a, nc, br, tty, stdin)
	w := <-done
	if w.err != nil {
		return w.err
	}
	if w.code != 0 {
		return &command.ExitError{Status: w.code}
	}
	return nil
}

type waitResult struct {
	code int
	err  error
}

// waitFor begins to wait at once and answers later.
func waitFor(ctx context.Context, a *command.App, id, condition string) chan waitResult {
	done := make(chan waitResult, 1)
	resp, err := a.Do(ctx, "POST", path(id, "wait"), url.Values{"condition": {condition}}, nil)
	if err != nil {
		done <- waitResult{err: err}
		return done
	}
	go func() {
		defer resp.Body.Close()
		var out struct{ StatusCode int }
		err := json.NewDecoder(resp.Body).Decode(&out)
		done <- waitResult{out.StatusCode, err}
	}()
	return done
}

// copyStreams copies output until it ends, and input until that ends.
func copyStreams(a *command.App, nc net.Conn, br *bufio.Reader, tty, stdin bool) {
	if stdin {
		go func() {
			io.Copy(nc, a.In)
			if h, ok := nc.(interface{ CloseWrite() error }); ok {
				h.CloseWrite()
			}
		}()
	}
	if tty {
		io.Copy(a.Out, br)
		return
	}
	conn.Demux(br, a.Out, a.Err)
}

// rawTerminal hands the keys to the container unchanged; the returned function gives the terminal back.
func rawTerminal(tty bool) func() {
	fd := int(os.Stdin.Fd())
	if !tty || !term.IsTerminal(fd) {
		return func() {}
	}
	old, err := term.MakeRaw(fd)
	if err != nil {
		return func() {}
	}
	return func() { term.Restore(fd, old) }
}

func resizeNow(ctx context.Context, a *command.App, id string, tty bool) {
	if tty {
		resizeTo(ctx, a, path(id, "resize"))
	}
}

// resizeTo tells a container or an exec the size of this terminal.
func resizeTo(ctx context.Context, a *command.App, at string) {
	cols, rows, err := term.GetSize(int(os.Stdout.Fd()))
	if err == nil {
		a.Call(ctx, "POST", at, url.Values{"h": {strconv.Itoa(rows)}, "w": {strconv.Itoa(cols)}}, nil, nil)
	}
}

// forwardSignals sends the client's signals to the container, and the terminal's size when it changes.
func forwardSignals(ctx context.Context, a *command.App, id string, tty bool) func() {
	c := make(chan os.Signal, 16)
	signal.Notify(c, unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2, unix.SIGWINCH)
	go func() {
		for s := range c {
			if s == unix.SIGWINCH {
				resizeNow(ctx, a, id, tty)
				continue
			}
			a.Call(ctx, "POST", path(id, "kill"), url.Values{"signal": {fmt.Sprint(int(s.(unix.Signal)))}}, nil, nil)
		}
	}()
	return func() { signal.Stop(c); close(c) }
}

// containerFacts are what attaching needs to know.
type containerFacts struct {
	ID     string `json:"Id"`
	State  struct{ Running bool }
	Config struct {
		Tty, OpenStdin bool
	}
	HostConfig struct{ AutoRemove bool }
}

// AttachVerb is `coble attach`.
func AttachVerb(f *pflag.FlagSet) command.Run {
	noStdin := f.Bool("no-stdin", false, "send it nothing")
	return func(ctx context.Context, a *command.App, args []string) error {
		if err := command.Need(args, 1, 1, "a container"); err != nil {
			return err
		}
		var c containerFacts
		if err := a.Call(ctx, "GET", path(args[0], "json"), nil, nil, &c); err != nil {
			return err
		}
		if !c.State.Running {
			return errors.New("cannot attach to a stopped container: start it first")
		}
		stdin := c.Config.OpenStdin && !*noStdin
		q := url.Values{"stream": {"1"}, "stdout": {"1"}, "stderr": {"1"}}
		if stdin {
			q.Set("stdin", "1")
		}
		nc, br, err := a.Hijack(ctx, path(c.ID, "attach"), q, nil)
		if err != nil {
			return err
		}
		defer nc.Close()
		done := waitFor(ctx, a, c.ID, "not-running")
		defer rawTerminal(c.Config.Tty)()
		defer forwardSignals(ctx, a, c.ID, c.Config.Tty)()
		resizeNow(ctx, a, c.ID, c.Config.Tty)
		copyStreams(a, nc, br, c.Config.Tty, stdin)
		if w := <-done; w.err != nil || w.code != 0 {
			return &command.ExitError{Status: w.code, Err: w.err}
		}
		return nil
	}
}

// StartVerb is `coble start`.
func StartVerb(f *pflag.FlagSet) command.Run {
	attach := f.BoolP("attach", "a", false, "show its output and exit with its code")
	interactive := f.BoolP("interactive", "i", false, "send it the standard input")
	return func(ctx context.Context, a *command.App, args []string) error {
		if err := command.Need(args, 1, -1, "containers"); err != nil {
			return err
		}
		if !*attach && !*interactive {
			return a.EachOf(args, func(n string) error { return a.Call(ctx, "POST", path(n, "start"), nil, nil, nil) })
		}
		if err := command.Need(args, 1, 1, "one container with -a or -i"); err != nil {
			return err
		}
		var c containerFacts
		if err := a.Call(ctx, "GET", path(args[0], "json"), nil, nil, &c); err != nil {
			return err
		}
		return startAttached(ctx, a, c.ID, c.Config.Tty, *interactive && c.Config.OpenStdin, c.HostConfig.AutoRemove)
	}
}

// LogsVerb is `coble logs`.
func LogsVerb(f *pflag.FlagSet) command.Run {
	follow := f.BoolP("follow", "f", false, "go on until the container ends")
	stamps := f.BoolP("timestamps", "t", false, "show when each line was printed")
	tail := f.StringP("tail", "n", "all", "so many lines from the end")
	return func(ctx context.Context, a *command.App, args []string) error {
		if err := command.Need(args, 1, 1, "a container"); err != nil {
			return err
		}
		q := url.Values{"stdout": {"1"}, "stderr": {"1"}, "tail": {*tail}}
		if *follow {
			q.Set("follow", "1")
		}
		if *stamps {
			q.Set("timestamps", "1")
		}
		resp, err := a.Do(ctx, "GET", path(args[0], "logs"), q, nil)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if strings.HasSuffix(resp.Header.Get("Content-Type"), "raw-stream") {
			_, err = io.Copy(a.Out, resp.Body)
			return err
		}
		return conn.Demux(resp.Body, a.Out, a.Err)
	}
}
