package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Session is one user's talk about one repository. Its methods may be called
// from any goroutine.
type Session struct {
	c     *Client
	repo  Repository
	creds Credentials
	push  bool
	http  *http.Client
	left  []endpoint // not tried yet
	at    endpoint   // the one that answered
	auth  authorizer
}

// Open finds a place where the repository's registry answers: mirrors, then
// TLS, then plain HTTP where the registry is insecure. The error is the last
// place's. With push, tokens are asked for that allow writing.
func (c *Client) Open(ctx context.Context, repo Repository, creds Credentials, push bool) (*Session, error) {
	s := &Session{c: c, repo: repo, creds: creds, push: push, left: c.endpoints(repo.Host, push)}
	return s, s.connect(ctx)
}

// connect goes to the next place that answers.
func (s *Session) connect(ctx context.Context) error {
	var last error
	for len(s.left) > 0 {
		e := s.left[0]
		s.left = s.left[1:]
		err := s.ping(ctx, e)
		if err == nil {
			return nil
		}
		// Of two errors about one host, the one about TLS says less.
		if last == nil || !e.insecure || e.scheme == "http" {
			last = err
		}
		if ctx.Err() != nil {
			break
		}
	}
	return last
}

// ping asks for the protocol's version and the ways in (distribution
// specification, "Determining Support").
func (s *Session) ping(ctx context.Context, e endpoint) error {
	s.at = e
	s.http = &http.Client{Transport: s.c, CheckRedirect: follow(e)}
	creds := s.creds
	if e.mirror {
		creds = Credentials{}
	}
	s.auth = authorizer{creds: creds, http: s.http, agent: s.c.conf.Agent, insecure: e.insecure}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, e.url("/v2/"), nil)
	if err != nil {
		return fmt.Errorf("ask registry %s: %w", e.host, err)
	}
	req.Header.Set("User-Agent", s.c.conf.Agent)
	resp, err := s.http.Do(req)
	if err != nil {
		return err
	}
	switch {
	case resp.StatusCode == http.StatusOK:
	case resp.StatusCode == http.StatusUnauthorized:
		s.auth.offer(resp.Header.Values("WWW-Authenticate"))
	case resp.StatusCode == http.StatusNotFound:
		resp.Body.Close()
		return fmt.Errorf("ask registry %s: %w", e.host, ErrNotRegistry)
	default:
		return readError(resp)
	}
	io.Copy(io.Discard, io.LimitReader(resp.Body, maxErrorText))
	return resp.Body.Close()
}

// call is a request that can be made again.
type call struct {
	method, url string
	header      http.Header
	body        func() io.Reader // nil: none
	length      int64            // of the body; -1: not known
	scope       string           // empty: the repository's own
	once        bool             // the body can't be sent twice: no retries
	want        []int            // statuses that are no errors
}

const (
	maxTries  = 6
	maxPause  = 30 * time.Second
	maxWished = 2 * time.Minute // longest Retry-After that is waited for
)

// do sends a request, with a token, again after errors that pass. The caller
// closes the body. Statuses that are not wanted are *Error.
func (s *Session) do(ctx context.Context, c call) (*http.Response, error) {
	renewed := false
	for try := 1; ; try++ {
		resp, err := s.once(ctx, c)
		if err == nil && c.accepts(resp.StatusCode) {
			return resp, nil
		}
		if err == nil && resp.StatusCode == http.StatusUnauthorized && !renewed {
			renewed = true
			if s.auth.offer(resp.Header.Values("WWW-Authenticate")); !c.once {
				drop(resp)
				try--
				continue
			}
		}
		pause, again := retry(resp, err, try, s.c.conf.Backoff)
		if !again || c.once || try == maxTries {
			if err != nil {
				return nil, err
			}
			return nil, readError(resp)
		}
		drop(resp)
		if err := sleep(ctx, pause); err != nil {
			return nil, err
		}
	}
}

func drop(resp *http.Response) {
	if resp != nil {
		io.Copy(io.Discard, io.LimitReader(resp.Body, maxErrorText))
		resp.Body.Close()
	}
}

func (c call) accepts(status int) bool {
	for _, w := range c.want {
		if w == status {
			return true
		}
	}
	return false
}

func (s *Session) once(ctx context.Context, c call) (*http.Response, error) {
	var body io.Reader
	if c.body != nil {
		body = c.body()
	}
	req, err := http.NewRequestWithContext(ctx, c.method, c.url, body)
	if err != nil {
		return nil, fmt.Errorf("ask registry %s: %w", s.at.host, err)
	}
	if body != nil {
		req.ContentLength = c.length
	}
	for k, v := range c.header {
		req.Header[k] = v
	}
	req.Header.Set("User-Agent", s.c.conf.Agent)
	// A registry may send uploads elsewhere: only its own host gets to know us.
	if req.URL.Host == s.at.host && req.URL.Scheme == s.at.scheme {
		scope := c.scope
		if scope == "" {
			scope = s.scope(s.repo.Path)
		}
		if err := s.auth.authorize(ctx, req, scope); err != nil {
			return nil, fmt.Errorf("%s %q: %w", method(c.method), req.URL.Redacted(), err)
		}
	}
	return s.http.Do(req)
}

// method is written as net/http writes it in errors.
func method(m string) string { return m[:1] + strings.ToLower(m[1:]) }

func (s *Session) scope(path string) string {
	if s.push {
		return "repository:" + path + ":pull,push"
	}
	return "repository:" + path + ":pull"
}

// retry decides whether an error may pass, and how long to wait: with every
// try twice as long, or as long as the registry says (RFC 9110, 10.2.3).
func retry(resp *http.Response, err error, try int, first time.Duration) (time.Duration, bool) {
	pause := min(first<<(try-1), maxPause)
	pause = pause/2 + rand.N(pause/2+1)
	if err != nil {
		return pause, mayPass(err)
	}
	switch resp.StatusCode {
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		wish, ok := retryAfter(resp.Header.Get("Retry-After"), time.Now())
		if !ok {
			return pause, true
		}
		return wish, wish <= maxWished
	case http.StatusBadGateway, http.StatusGatewayTimeout, http.StatusRequestTimeout, http.StatusInternalServerError:
		return pause, true
	}
	return 0, false
}

// retryAfter reads seconds or a date.
func retryAfter(s string, now time.Time) (time.Duration, bool) {
	if n, err := strconv.Atoi(s); err == nil && n >= 0 && n < 1<<20 {
		return time.Duration(n) * time.Second, true
	}
	if t, err := http.ParseTime(s); err == nil {
		return max(0, t.Sub(now)), true
	}
	return 0, false
}

// mayPass tells errors of a network from those that come again.
func mayPass(err error) bool {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrNoCredentials) {
		return false
	}
	var op *net.OpError
	return errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.As(err, &op)
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Host is the registry's, as in names.
func (s *Session) Host() string { return s.repo.Host }
