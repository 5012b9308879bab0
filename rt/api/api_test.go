package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/coble-os/coble/netcfg"
	"github.com/coble-os/coble/rt/engine"
	"github.com/coble-os/coble/rt/fault"
	"github.com/coble-os/coble/rt/networkdriver"
)

func TestCutVersion(t *testing.T) {
	for in, want := range map[string]string{
		"/_ping": "/_ping", "/v1.43/_ping": "/_ping", "/v1.24/x/y": "/x/y", "/v1.51/": "/", "/volumes": "/volumes", "/v": "/v", "/": "/", "": "",
		"/version": "/version", "/v1.43": "/v1.43", "/vx/y": "/vx/y",
	} {
		got, err := cutVersion(in)
		require.NoError(t, err, in)
		require.Equal(t, want, got, in)
	}
	for in, text := range map[string]string{
		"/v1.52/_ping": "too new", "/v2.0/_ping": "too new", "/v1.100/x": "too new", "/v1.23/_ping": "too old", "/v0.9/x": "too old", "/v1/x": "too old",
	} {
		_, err := cutVersion(in)
		require.ErrorContains(t, err, text, in)
		require.Equal(t, http.StatusBadRequest, status(err))
	}
}

func TestStatus(t *testing.T) {
	for kind, want := range map[fault.Kind]int{
		fault.Internal: 500, fault.Invalid: 400, fault.NotFound: 404, fault.Conflict: 409, fault.NotModified: 304, fault.Unsupported: 501, fault.Unauthorized: 401, fault.Forbidden: 403,
	} {
		err := fmt.Errorf("around: %w", &fault.Error{Kind: kind, Err: errors.New("x")})
		require.Equal(t, want, status(err))
	}
	require.Equal(t, 500, status(errors.New("anything else")))
	require.Equal(t, 413, status(&fault.Error{Kind: fault.Invalid, Err: &http.MaxBytesError{Limit: 1}}))
}

func TestFilters(t *testing.T) {
	read := func(s string) (filters, error) {
		return readFilters(httptest.NewRequest("GET", "/x?filters="+url.QueryEscape(s), nil), "label", "name")
	}
	for s, want := range map[string]filters{
		"": {}, `{}`: {}, `{"name":["a","b"]}`: {"name": {"a", "b"}}, `{"name":{"a":true}}`: {"name": {"a"}},
	} {
		f, err := read(s)
		require.NoError(t, err, s)
		require.Equal(t, want, f, s)
	}
	for _, s := range []string{`{"other":["a"]}`, `[]`, `{"name":"a"}`, `nonsense`, `{"name":[1]}`} {
		_, err := read(s)
		require.Equal(t, fault.Invalid, fault.KindOf(err), s)
	}
	f := filters{"label": {"a", "b=1"}, "name": {"^we", "(", "exact("}}
	require.True(t, f.labels("label", map[string]string{"a": "x", "b": "1"}))
	require.False(t, f.labels("label", map[string]string{"a": "x", "b": "2"}))
	require.False(t, f.labels("label", map[string]string{"b": "1"}))
	require.True(t, f.match("name", "web"))
	require.True(t, f.match("name", "exact("))
	require.False(t, f.match("name", "other"), "a pattern that is none matches nothing")
	require.True(t, f.match("id", "anything"), "a filter that is not set")
	require.True(t, f.any("id", "anything"))
}

func TestReadTime(t *testing.T) {
	for s, want := range map[string]time.Time{
		"": {}, "0": {}, "1.5": time.Unix(1, 5e8), "12": time.Unix(12, 0), "1.0000000019": time.Unix(1, 1), "1970-01-01T00:00:07Z": time.Unix(7, 0),
	} {
		got, err := readTime(s)
		require.NoError(t, err, s)
		require.True(t, want.Equal(got), "%s: %s", s, got)
	}
	for _, s := range []string{"x", "1.x", "1970-13-01T00:00:00Z"} {
		_, err := readTime(s)
		require.Equal(t, fault.Invalid, fault.KindOf(err), s)
	}
}

// serve starts a server with a real engine, without any image.
func serve(t *testing.T) *httptest.Server {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: run as root or make test-vm")
	}
	dir, err := os.MkdirTemp("/tmp", "cba")
	require.NoError(t, err)
	e, err := engine.Open(engine.Options{Root: dir + "/root", Run: dir + "/run", Version: "test", Network: networkdriver.Config{Subnet: "10.213.78.0/29"}})
	require.NoError(t, err)
	name := engine.InstanceName(dir + "/root")
	srv := httptest.NewServer(New(e, slog.New(slog.DiscardHandler)))
	t.Cleanup(func() {
		srv.Close()
		require.NoError(t, e.Close())
		require.NoError(t, netcfg.CleanUp(networkdriver.BridgeName(name), name))
		require.NoError(t, os.RemoveAll(dir))
	})
	return srv
}

func TestRequests(t *testing.T) {
	srv := serve(t)
	huge := `{"Image":"` + strings.Repeat("x", maxBody) + `"}`
	for _, c := range []struct {
		method, path, body string
		header             [2]string
		status             int
		text               string
	}{
		{"GET", "/_ping", "", [2]string{}, 200, "OK"},
		{"GET", "/v1.43/_ping", "", [2]string{}, 200, "OK"},
		{"GET", "/v9.99/_ping", "", [2]string{}, 400, "too new"},
		{"GET", "/containers/json", "", [2]string{}, 200, "[]"},
		{"GET", "/images/json", "", [2]string{}, 200, "[]"},
		{"GET", "/nonsense", "", [2]string{}, 404, "page not found"},
		{"GET", "/v1.43/containers/a/b/c/d", "", [2]string{}, 404, "page not found"},
		{"GET", "/containers/none/json", "", [2]string{}, 404, "No such container: none"},
		{"POST", "/containers/none/start", "", [2]string{}, 404, "No such container: none"},
		{"GET", "/containers/json?filters=%7B", "", [2]string{}, 400, "invalid filter"},
		{"POST", "/containers/none/wait?condition=never", "", [2]string{}, 400, "never"},
		{"POST", "/containers/none/resize?h=-1&w=9", "", [2]string{}, 400, "terminal size"},
		{"POST", "/containers/create", "", [2]string{}, 400, "EOF"},
		{"POST", "/containers/create", "{", [2]string{}, 400, "decode request"},
		{"POST", "/containers/create", `{"Image":7}`, [2]string{}, 400, "decode request"},
		{"POST", "/containers/create", `{"Image":"a"}{}`, [2]string{}, 400, "unexpected content"},
		{"POST", "/containers/create", `null`, [2]string{}, 400, "config cannot be empty"},
		{"POST", "/containers/create", `{"Image":"missing"}`, [2]string{}, 404, "missing"},
		{"POST", "/containers/create?name=../up", `{"Image":"missing"}`, [2]string{}, 400, "Invalid container name"},
		{"POST", "/containers/create", huge, [2]string{}, 413, "too large"},
		{"POST", "/containers/create", huge, [2]string{"Content-Type", "text/plain"}, 413, "too large"},
		{"POST", "/images/load", "no archive", [2]string{}, 400, ""},
		{"GET", "/_ping", "", [2]string{"Origin", "http://evil.example"}, 403, "web pages"},
		{"POST", "/containers/create", `{"Image":"a"}`, [2]string{"Origin", "null"}, 403, "web pages"},
		{"GET", "/_ping", "", [2]string{"Host", "evil.example"}, 403, "web pages"},
		{"GET", "/_ping", "", [2]string{"Host", "evil.example:80"}, 403, "web pages"},
		{"GET", "/_ping", "", [2]string{"Host", "127.0.0.1.evil.example"}, 403, "web pages"},
		{"GET", "/_ping", "", [2]string{"Host", "localhost:1"}, 200, "OK"},
		{"GET", "/_ping", "", [2]string{"Host", "[::1]:1"}, 200, "OK"},
	} {
		req, err := http.NewRequest(c.method, srv.URL+c.path, strings.NewReader(c.body))
		require.NoError(t, err)
		req.Header.Set("Content-Type", "application/json")
		switch c.header[0] {
		case "":
		case "Host":
			req.Host = c.header[1]
		default:
			req.Header.Set(c.header[0], c.header[1])
		}
		resp, err := http.DefaultTransport.RoundTrip(req)
		require.NoError(t, err, "%s %s", c.method, c.path)
		b, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, c.status, resp.StatusCode, "%s %s %v: %s", c.method, c.path, c.header, string(b))
		require.Contains(t, string(b), c.text, "%s %s", c.method, c.path)
		if c.status >= 400 {
			var message struct{ Message string }
			require.NoError(t, json.Unmarshal(b, &message), "an error is JSON with a message")
			require.NotEmpty(t, message.Message)
		}
	}
}

// Over a unix socket nobody can be rebound: clients put any name there.
func TestHostOverUnixSocket(t *testing.T) {
	r := httptest.NewRequest("GET", "/_ping", nil)
	r.Host = "api.moby.localhost"
	on := func(a net.Addr) *http.Request {
		return r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, a))
	}
	require.True(t, hostAllowed(on(&net.UnixAddr{Net: "unix"})))
	require.False(t, hostAllowed(on(&net.TCPAddr{})))
}

func FuzzCutVersion(f *testing.F) {
	f.Add("/v1.43/_ping")
	f.Add("/v999999999999999999999.1/x")
	f.Fuzz(func(t *testing.T, p string) {
		got, err := cutVersion(p)
		if err == nil {
			require.True(t, got == p || strings.HasSuffix(p, got))
		}
	})
}
