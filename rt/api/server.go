// Package api is the Docker API: it turns a method and a path into a job of the engine's and the job's result back into
// HTTP. It decides nothing that a job should decide; the one thing that it owns is which HTTP status an error becomes.
package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"

	"github.com/coble-os/coble/rt/engine"
	"github.com/coble-os/coble/rt/fault"
)

const (
	// Version is the newest API version that is spoken, MinVersion the oldest.
	Version    = "1.51"
	MinVersion = "1.24"
	// maxBody bounds a JSON request, in bytes.
	maxBody = 4 << 20
)

// Server answers requests with an engine's jobs.
type Server struct {
	e   *engine.Engine
	mux *http.ServeMux
	log *slog.Logger
}

// New makes the table of routes.
func New(e *engine.Engine, log *slog.Logger) *Server {
	s := &Server{e: e, mux: http.NewServeMux(), log: log}
	s.systemRoutes()
	s.containerRoutes()
	s.execRoutes()
	s.imageRoutes()
	s.archiveRoutes()
	s.registryRoutes()
	s.networkRoutes()
	s.emptyRoutes()
	return s
}

// handler answers one request; an error that it returns becomes a status and a JSON message.
type handler func(w http.ResponseWriter, r *http.Request) error

func (s *Server) route(pattern string, h handler) {
	s.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		if err := h(w, r); err != nil {
			s.fail(w, r, err)
		}
	})
}

// ServeHTTP takes the version off the path and checks who asks.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Api-Version", Version)
	w.Header().Set("Ostype", "linux")
	w.Header().Set("Docker-Experimental", "false")
	w.Header().Set("Server", "coble/"+s.e.Options().Version+" (linux)")
	if r.Header.Get("Origin") != "" || !hostAllowed(r) {
		reply(w, http.StatusForbidden, map[string]string{"message": "requests from web pages are refused"})
		return
	}
	path, err := cutVersion(r.URL.Path)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	if path != r.URL.Path {
		r2 := *r
		u := *r.URL
		u.Path, u.RawPath = path, ""
		r2.URL = &u
		r = &r2
	}
	if _, pattern := s.mux.Handler(r); pattern == "" {
		s.fail(w, r, &fault.Error{Kind: fault.NotFound, Err: errors.New("page not found")})
		return
	}
	s.mux.ServeHTTP(w, r)
}

// hostAllowed refuses names that a web page's DNS could have been rebound from: over TCP the Host must be an address or
// localhost.
func hostAllowed(r *http.Request) bool {
	local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if !ok || local.Network() != "tcp" {
		return true
	}
	host, _, err := net.SplitHostPort(r.Host)
	if err != nil {
		host = r.Host
	}
	_, err = netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil || host == "localhost" || host == ""
}

// cutVersion takes /v1.43 off a path and refuses versions that are not spoken.
func cutVersion(path string) (string, error) {
	v, rest, ok := strings.Cut(strings.TrimPrefix(path, "/v"), "/")
	if !ok || !strings.HasPrefix(path, "/v") || v == "" || v[0] < '0' || v[0] > '9' {
		return path, nil
	}
	switch {
	case newer(v, Version):
		return "", &fault.Error{Kind: fault.Invalid, Err: fmt.Errorf("client version %s is too new. Maximum supported API version is %s", v, Version)}
	case newer(MinVersion, v):
		return "", &fault.Error{Kind: fault.Invalid, Err: fmt.Errorf("client version %s is too old. Minimum supported API version is %s, please upgrade your client to a newer version", v, MinVersion)}
	}
	return "/" + rest, nil
}

// newer compares "1.43" with "1.5" by numbers.
func newer(a, b string) bool {
	am, an, _ := strings.Cut(a, ".")
	bm, bn, _ := strings.Cut(b, ".")
	num := func(s string) int { n, _ := strconv.Atoi(s); return n }
	if num(am) != num(bm) {
		return num(am) > num(bm)
	}
	return num(an) > num(bn)
}

// status is the one place where errors become HTTP statuses.
func status(err error) int {
	var big *http.MaxBytesError
	if errors.As(err, &big) {
		return http.StatusRequestEntityTooLarge
	}
	switch fault.KindOf(err) {
	case fault.Invalid:
		return http.StatusBadRequest
	case fault.NotFound:
		return http.StatusNotFound
	case fault.Conflict:
		return http.StatusConflict
	case fault.NotModified:
		return http.StatusNotModified
	case fault.Unsupported:
		return http.StatusNotImplemented
	case fault.Unauthorized:
		return http.StatusUnauthorized
	case fault.Forbidden:
		return http.StatusForbidden
	}
	return http.StatusInternalServerError
}

func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	code := status(err)
	if code == http.StatusInternalServerError {
		s.log.Error("request", "method", r.Method, "path", r.URL.Path, "err", err)
	}
	if code == http.StatusNotModified {
		w.WriteHeader(code)
		return
	}
	reply(w, code, map[string]string{"message": err.Error()})
}

func reply(w http.ResponseWriter, code int, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(b)+1))
	w.WriteHeader(code)
	w.Write(append(b, '\n'))
	return nil
}

// decode reads a JSON body of at most maxBody into v, whatever type the client says that it has.
func decode(r *http.Request, v any) error {
	d := json.NewDecoder(http.MaxBytesReader(nil, r.Body, maxBody))
	if err := d.Decode(v); err != nil {
		if errors.Is(err, io.EOF) {
			err = errors.New("invalid JSON: got EOF while reading request body")
		}
		return &fault.Error{Kind: fault.Invalid, Err: fmt.Errorf("decode request: %w", err)}
	}
	if d.More() {
		return &fault.Error{Kind: fault.Invalid, Err: errors.New("unexpected content after JSON")}
	}
	return nil
}

func flag(r *http.Request, name string) bool {
	switch strings.ToLower(strings.TrimSpace(r.FormValue(name))) {
	case "", "0", "no", "false", "none":
		return false
	}
	return true
}

func invalid(format string, args ...any) error {
	return &fault.Error{Kind: fault.Invalid, Err: fmt.Errorf(format, args...)}
}

// Serve answers on a listener until it is closed.
func (s *Server) Serve(l net.Listener) error {
	srv := &http.Server{Handler: s, ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug), ReadHeaderTimeout: readHeader}
	err := srv.Serve(l)
	if errors.Is(err, net.ErrClosed) || errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}
