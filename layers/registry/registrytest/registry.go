// Package registrytest is a registry for tests: package server over HTTP on
// a loopback address, whose answers can be spoiled.
package registrytest

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"

	"github.com/coble-os/coble/layers/image"
	"github.com/coble-os/coble/layers/registry"
	"github.com/coble-os/coble/layers/registry/server"
)

// Registry listens until the test ends.
type Registry struct {
	*httptest.Server
	Store *server.Store

	mu    sync.Mutex
	rules []*rule
	log   []Request
}

// Request is one that came.
type Request struct{ Method, Path, Range string }

// Spoil answers in the registry's place, or asks next, which is the registry.
type Spoil func(w http.ResponseWriter, r *http.Request, next http.Handler)

type rule struct {
	part  string
	times int
	spoil Spoil
}

// New starts a registry. images may be nil.
func New(t testing.TB, access server.Access, images server.Images) *Registry {
	t.Helper()
	dir := t.TempDir()
	db, err := bbolt.Open(filepath.Join(dir, "db"), 0o600, &bbolt.Options{NoSync: true})
	require.NoError(t, err)
	t.Cleanup(func() { db.Close() })
	s, err := server.Open(server.Options{Root: filepath.Join(dir, "registry"), DB: db, Images: images, Log: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	r := &Registry{Store: s}
	r.Server = httptest.NewServer(r.watch(s.Handler(access)))
	t.Cleanup(r.Server.Close)
	return r
}

// Host is the registry's as names have it.
func (r *Registry) Host() string { return strings.TrimPrefix(r.URL, "http://") }

// Spoil has the next requests whose method and path (GET /v2/…) have the part
// in them answered by fn; a negative number of times is all.
func (r *Registry) Spoil(part string, times int, fn Spoil) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rules = append(r.rules, &rule{part, times, fn})
}

// Mend takes all of that back, and forgets the requests.
func (r *Registry) Mend() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rules, r.log = nil, nil
}

// Requests lists those that came whose method and path have the part in them.
func (r *Registry) Requests(part string) []Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []Request
	for _, q := range r.log {
		if strings.Contains(q.Method+" "+q.Path, part) {
			out = append(out, q)
		}
	}
	return out
}

func (r *Registry) watch(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if fn := r.note(q); fn != nil {
			fn(w, q, next)
			return
		}
		next.ServeHTTP(w, q)
	})
}

func (r *Registry) note(q *http.Request) Spoil {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.log = append(r.log, Request{q.Method, q.URL.Path, q.Header.Get("Range")})
	for _, u := range r.rules {
		if u.times != 0 && strings.Contains(q.Method+" "+q.URL.Path, u.part) {
			u.times--
			return u.spoil
		}
	}
	return nil
}

// Cut breaks the connection after n bytes of the answer's body.
func Cut(n int64) Spoil {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		next.ServeHTTP(&cutter{w, n}, r)
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
}

type cutter struct {
	http.ResponseWriter
	left int64
}

func (c *cutter) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p[:min(int64(len(p)), c.left)])
	if c.left -= int64(n); c.left == 0 && err == nil {
		err = io.ErrShortWrite
	}
	return n, err
}

// Status answers with a status and headers, given in pairs.
func Status(code int, header ...string) Spoil {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		for i := 0; i+1 < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(code)
	}
}

// Body answers with other bytes.
func Body(mediaType string, body []byte) Spoil {
	return func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		w.Header().Set("Content-Type", mediaType)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(body))
	}
}

// Slow sends a body in pieces of n bytes, with a pause after each.
func Slow(n int, pause time.Duration) Spoil {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		next.ServeHTTP(&slower{w, n, pause}, r)
	}
}

type slower struct {
	http.ResponseWriter
	n     int
	pause time.Duration
}

func (s *slower) Write(p []byte) (written int, err error) {
	for len(p) > 0 && err == nil {
		var n int
		n, err = s.ResponseWriter.Write(p[:min(len(p), s.n)])
		written, p = written+n, p[n:]
		time.Sleep(s.pause)
	}
	return written, err
}

// Whole has the registry not see that a range is asked for.
func Whole(w http.ResponseWriter, r *http.Request, next http.Handler) {
	r.Header.Del("Range")
	next.ServeHTTP(w, r)
}

// Client is one whose pauses are short.
func Client() *registry.Client {
	return registry.New(registry.Config{CertDirs: []string{}, Backoff: time.Millisecond})
}

// Open is a session that may push.
func (r *Registry) Open(t testing.TB, name string) *registry.Session {
	t.Helper()
	s, err := Client().Open(context.Background(), registry.Repository{Host: r.Host(), Path: name}, registry.Credentials{}, true)
	require.NoError(t, err)
	return s
}

// Put pushes an image of these blobs under name:tag, and gives its manifest.
func (r *Registry) Put(t testing.TB, name, tag, layerType string, config []byte, layers ...[]byte) registry.Manifest {
	t.Helper()
	s := r.Open(t, name)
	part := func(kind string, raw []byte) ocispec.Descriptor {
		require.NoError(t, s.UploadSmall(context.Background(), raw))
		return ocispec.Descriptor{MediaType: kind, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	}
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: part(ocispec.MediaTypeImageConfig, config)}
	m.SchemaVersion = 2
	for _, l := range layers {
		m.Layers = append(m.Layers, part(layerType, l))
	}
	return r.PutJSON(t, name, tag, m.MediaType, m)
}

// PutJSON pushes a manifest or index.
func (r *Registry) PutJSON(t testing.TB, name, tag, mediaType string, v any) registry.Manifest {
	t.Helper()
	raw, err := json.Marshal(v)
	require.NoError(t, err)
	m := registry.Manifest{Type: mediaType, Digest: digest.FromBytes(raw), Raw: raw}
	require.NoError(t, r.Open(t, name).PutManifest(context.Background(), tag, m))
	return m
}

// Index is a list of manifests with their platforms, os/architecture/variant.
func Index(list map[string]registry.Manifest) ocispec.Index {
	x := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex}
	x.SchemaVersion = 2
	for p, m := range list {
		d := m.Descriptor()
		at, _ := image.ParsePlatform(p, image.Platform{})
		d.Platform = &ocispec.Platform{OS: at.OS, Architecture: at.Architecture, Variant: at.Variant}
		x.Manifests = append(x.Manifests, d)
	}
	return x
}
