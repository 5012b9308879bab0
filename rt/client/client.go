// Package client is the command line: each verb is one request to the engine, or a few, over unix://path,
// tcp://host:port or fd://number. It holds no state and decides nothing that the engine could decide.
package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
)

// DefaultHost is where the engine is looked for unless -H, COBLE_HOST or DOCKER_HOST says otherwise.
const DefaultHost = "unix:///run/coble/coble.sock"

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

// conn is a connection's recipe.
type conn struct {
	host string
	http *http.Client
}

func dial(host string) (*conn, error) {
	kind, addr, ok := strings.Cut(host, "://")
	if !ok {
		return nil, fmt.Errorf("host %q: want unix://path, tcp://host:port or fd://number", host)
	}
	c := &conn{host: host}
	var open func(context.Context) (net.Conn, error)
	var d net.Dialer
	switch kind {
	case "unix", "tcp":
		open = func(ctx context.Context) (net.Conn, error) { return d.DialContext(ctx, kind, addr) }
	case "fd":
		fd, err := strconv.Atoi(addr)
		if err != nil {
			return nil, fmt.Errorf("host %q: want the number of a connected socket", host)
		}
		open = func(context.Context) (net.Conn, error) { return net.FileConn(os.NewFile(uintptr(fd), addr)) }
	default:
		return nil, fmt.Errorf("host %q: unknown kind; want unix, tcp or fd", host)
	}
	c.http = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return open(ctx) }}}
	return c, nil
}

// apiError is the engine's message.
type apiError struct {
	Status  int
	Message string `json:"message"`
}

func (e *apiError) Error() string { return e.Message }

// do sends a request; the caller closes the body. Statuses from 400 on are errors with the engine's message.
func (c *conn) do(ctx context.Context, method, path string, query url.Values, body io.Reader, header ...string) (*http.Response, error) {
	u := "http://localhost/v1.43" + path
	if len(query) > 0 {
		u += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, u, body)
	if err != nil {
		return nil, err
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.unreachable(err)
	}
	if resp.StatusCode >= 400 {
		defer resp.Body.Close()
		return nil, readError(resp)
	}
	return resp, nil
}

func (c *conn) unreachable(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		return fmt.Errorf("cannot reach the engine at %s: %w; is it running? (coble daemon)", c.host, op.Err)
	}
	return err
}

func readError(resp *http.Response) error {
	e := &apiError{Status: resp.StatusCode}
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if json.Unmarshal(b, e) != nil || e.Message == "" {
		e.Message = resp.Status
	}
	return e
}

// call sends in as JSON, if it is not nil, and decodes the answer into out, if that is not nil.
func (c *conn) call(ctx context.Context, method, path string, query url.Values, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	resp, err := c.do(ctx, method, path, query, body, "Content-Type", "application/json")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil {
		_, err := io.Copy(io.Discard, resp.Body)
		return err
	}
	return json.NewDecoder(resp.Body).Decode(out)
}

// hijack opens a raw stream: what the engine sends is read from the reader, what the container should read is written to
// the connection.
func (c *conn) hijack(ctx context.Context, path string, query url.Values, body io.Reader) (net.Conn, *bufio.Reader, error) {
	t := c.http.Transport.(*http.Transport)
	nc, err := t.DialContext(ctx, "", "")
	if err != nil {
		return nil, nil, c.unreachable(err)
	}
	req, err := http.NewRequest("POST", "http://localhost/v1.43"+path+"?"+query.Encode(), body)
	if err != nil {
		return nil, nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "tcp")
	if err := req.Write(nc); err != nil {
		return nil, nil, err
	}
	br := bufio.NewReader(nc)
	resp, err := http.ReadResponse(br, req)
	if err != nil {
		return nil, nil, err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		defer nc.Close()
		return nil, nil, readError(resp)
	}
	return nc, br, nil
}

// command is one verb.
type command struct {
	name, usage, help string
	// setup declares flags and returns what runs after they were parsed.
	setup func(f *pflag.FlagSet) func(ctx context.Context, a *app, args []string) error
}

// app is one run of the command line.
type app struct {
	*conn
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
	c, err := dial(host)
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
