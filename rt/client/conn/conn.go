// Package conn is the connection to an engine: the Docker API over unix://path, tcp://host:port or fd://number, as requests
// with JSON and as raw streams. It knows no verb, prints nothing and never tries again.
package conn

import (
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
)

// Conn is a connection's recipe: each request dials as net/http sees fit. It may be used by many goroutines.
type Conn struct {
	host string
	http *http.Client
}

// Dial reads a host such as unix:///run/coble/coble.sock, and connects to nothing yet: an engine that cannot be reached is
// the first request's error.
func Dial(host string) (*Conn, error) {
	kind, addr, ok := strings.Cut(host, "://")
	if !ok {
		return nil, fmt.Errorf("host %q: want unix://path, tcp://host:port or fd://number", host)
	}
	c := &Conn{host: host}
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

// Error is the engine's message. Status is that of HTTP.
type Error struct {
	Status  int
	Message string `json:"message"`
}

func (e *Error) Error() string { return e.Message }

// Do sends a request; the caller closes the body. Statuses from 400 on are errors with the engine's message.
func (c *Conn) Do(ctx context.Context, method, path string, query url.Values, body io.Reader, header ...string) (*http.Response, error) {
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

func (c *Conn) unreachable(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		return fmt.Errorf("cannot reach the engine at %s: %w; is it running? (coble daemon)", c.host, op.Err)
	}
	return err
}

func readError(resp *http.Response) error {
	e := &Error{Status: resp.StatusCode}
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if json.Unmarshal(b, e) != nil || e.Message == "" {
		e.Message = resp.Status
	}
	return e
}

// Call sends in as JSON, if it is not nil, and decodes the answer into out, if that is not nil.
func (c *Conn) Call(ctx context.Context, method, path string, query url.Values, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	resp, err := c.Do(ctx, method, path, query, body, "Content-Type", "application/json")
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
