package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"
)

// Get gives what an http or https URL has, whoever's it is, by the proxies and
// certificates that registries are spoken to with. A connection that brings
// nothing for a minute is given up. Other statuses than 200 are *Error, other
// URLs ErrUnsupported. The caller closes it.
func (c *Client) Get(ctx context.Context, from string) (io.ReadCloser, error) {
	u, err := url.Parse(from)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("get %q: %w: want an http or https URL", from, ErrUnsupported)
	}
	ctx, stop := context.WithCancelCause(ctx)
	g := &stream{ctx: ctx, stop: stop, from: u.Redacted()}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return nil, errors.Join(err, g.Close())
	}
	req.Header.Set("User-Agent", c.conf.Agent)
	client := http.Client{Transport: c, CheckRedirect: follow(endpoint{insecure: u.Scheme == "http"})}
	resp, err := client.Do(req)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = readError(resp)
	}
	if err != nil {
		return nil, errors.Join(err, g.Close())
	}
	g.body, g.idle = resp.Body, time.AfterFunc(stall, func() { stop(errStalled) })
	return g, nil
}

var errStalled = fmt.Errorf("nothing came for %s", stall)

// stream is a body that does not stall.
type stream struct {
	ctx  context.Context
	stop context.CancelCauseFunc
	from string
	body io.ReadCloser
	idle *time.Timer // calls stop
}

// Read implements io.Reader.
func (g *stream) Read(p []byte) (int, error) {
	g.idle.Reset(stall)
	n, err := g.body.Read(p)
	if err != nil && err != io.EOF {
		if cause := context.Cause(g.ctx); cause != nil {
			err = cause
		}
		err = fmt.Errorf("get %s: %w", g.from, err)
	}
	return n, err
}

// Close implements io.Closer.
func (g *stream) Close() error {
	g.stop(nil)
	if g.body == nil {
		return nil
	}
	g.idle.Stop()
	return g.body.Close()
}
