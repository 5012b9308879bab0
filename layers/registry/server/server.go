// Package server offers images over the OCI distribution protocol, version
// 1.1: those of the machine's own repository, to be pulled, and beside them
// whatever others push.
//
// What is pushed is kept as it came: blobs as files ROOT/registry/blobs/…,
// manifests, tags and which repository has which blob in the engine's bbolt
// store. A blob is synced, renamed and its folder synced, and then named in a
// transaction, before it is answered with 201; Open removes the files that no
// transaction names. Images of the machine's repository have their layers
// packed again for each pull, the same bytes every time.
//
// It never unpacks anything that came over the network, and knows nothing of
// containers. Who may write is decided here, by htpasswd and Options alone.
package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"

	"go.etcd.io/bbolt"
)

// Options of Open.
type Options struct {
	Root string    // folder for blobs and uploads; made if missing
	DB   *bbolt.DB // the engine's store; stays the caller's
	// Images is the machine's own repository; nil offers what was pushed only.
	Images Images
	Log    *slog.Logger
}

// Access is who may do what. One Store may be served with several.
type Access struct {
	Users    *Users // nil: anybody may read
	ReadOnly bool   // nobody may push or delete
}

// Store is what the server offers. Its methods may be called from any
// goroutine; there is one for a folder.
type Store struct {
	o       Options
	uploads uploads
}

// Handler answers requests with the store's content.
func (s *Store) Handler(a Access) http.Handler { return &handler{s, a} }

type handler struct {
	*Store
	access Access
}

// failure is an error with its place in the protocol ("Error Codes").
type failure struct {
	status  int
	code    string // MANIFEST_UNKNOWN
	message string
}

func (f *failure) Error() string { return f.message }

func fail(status int, code, format string, args ...any) error {
	return &failure{status, code, fmt.Sprintf(format, args...)}
}

// ServeHTTP implements http.Handler.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	err := h.authorize(w, r)
	if err == nil {
		err = h.route(w, r)
	}
	if err == nil {
		return
	}
	var f *failure
	if !errors.As(err, &f) {
		h.o.Log.Error("registry request", "method", r.Method, "path", r.URL.Path, "err", err)
		f = &failure{http.StatusInternalServerError, "UNKNOWN", "the registry failed; its log says why"}
	}
	body := map[string]any{"errors": []map[string]string{{"code": f.code, "message": f.message}}}
	reply(w, f.status, "application/json", body)
}

func reply(w http.ResponseWriter, status int, mediaType string, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("Content-Length", fmt.Sprint(len(raw)))
	w.WriteHeader(status)
	w.Write(raw) // whoever asked has gone if this fails
	return nil
}

// authorize lets through or answers.
func (h *handler) authorize(w http.ResponseWriter, r *http.Request) error {
	if h.access.Users != nil {
		name, password, ok := r.BasicAuth()
		if !ok || !h.access.Users.Know(name, password) {
			w.Header().Set("WWW-Authenticate", `Basic realm="coble registry", charset="UTF-8"`)
			return fail(http.StatusUnauthorized, "UNAUTHORIZED", "authentication required")
		}
	}
	if h.access.ReadOnly && r.Method != http.MethodGet && r.Method != http.MethodHead {
		return fail(http.StatusMethodNotAllowed, "UNSUPPORTED", "this registry is read-only")
	}
	return nil
}

// route finds what a path is about. Names have slashes, so the path is read
// from its end.
func (h *handler) route(w http.ResponseWriter, r *http.Request) error {
	path, ok := strings.CutPrefix(r.URL.Path, "/v2/")
	switch {
	case r.URL.Path == "/v2", ok && path == "":
		return h.only(r, "GET", "HEAD").do(func() error { return reply(w, http.StatusOK, "application/json", struct{}{}) })
	case !ok:
		return fail(http.StatusNotFound, "NAME_UNKNOWN", "there is nothing but /v2/")
	case path == "_catalog":
		return h.only(r, "GET").do(func() error { return h.catalog(w, r) })
	}
	for _, kind := range []string{"/blobs/uploads/", "/blobs/", "/manifests/", "/tags/", "/referrers/"} {
		i := strings.LastIndex(path, kind)
		if i < 0 {
			if kind != "/blobs/uploads/" || !strings.HasSuffix(path, "/blobs/uploads") {
				continue
			}
			i, path = len(path)-len("/blobs/uploads"), path+"/"
		}
		name, rest := path[:i], path[i+len(kind):]
		if !validName(name) {
			return fail(http.StatusBadRequest, "NAME_INVALID", "repository name %q is not one", name)
		}
		return h.about(w, r, kind, name, rest)
	}
	return fail(http.StatusNotFound, "NAME_UNKNOWN", "there is no such page")
}

func (h *handler) about(w http.ResponseWriter, r *http.Request, kind, name, rest string) error {
	switch kind {
	case "/blobs/uploads/":
		return h.upload(w, r, name, rest)
	case "/blobs/":
		return h.blob(w, r, name, rest)
	case "/manifests/":
		return h.manifest(w, r, name, rest)
	case "/referrers/":
		return h.only(r, "GET").do(func() error { return h.referrers(w, r, name, rest) })
	}
	if rest != "list" {
		return fail(http.StatusNotFound, "NAME_UNKNOWN", "there is no such page")
	}
	return h.only(r, "GET").do(func() error { return h.tags(w, r, name) })
}

// allowed tells whether a method may be used.
type allowed bool

func (h *handler) only(r *http.Request, methods ...string) allowed {
	for _, m := range methods {
		if r.Method == m {
			return true
		}
	}
	return false
}

func (a allowed) do(f func() error) error {
	if !a {
		return fail(http.StatusMethodNotAllowed, "UNSUPPORTED", "the method is not supported here")
	}
	return f()
}

const maxName = 255 // bytes of a repository's name

// validName holds names to the specification ("Pulling manifests"): words of
// lower-case letters and digits with single separators between, and slashes.
func validName(s string) bool {
	if len(s) > maxName {
		return false
	}
	for part := range strings.SplitSeq(s, "/") {
		if part == "" || !isWord(part[0]) || !isWord(part[len(part)-1]) {
			return false
		}
		for i := 0; i < len(part); i++ {
			if !isWord(part[i]) && !strings.ContainsRune("._-", rune(part[i])) {
				return false
			}
		}
		if strings.Contains(part, "..") || strings.Contains(part, "___") {
			return false
		}
	}
	return true
}

func isWord(c byte) bool { return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' }

// validTag holds tags to the specification.
func validTag(s string) bool {
	if s == "" || len(s) > 128 || s[0] == '.' || s[0] == '-' {
		return false
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		if !isWord(c) && (c < 'A' || c > 'Z') && c != '_' && c != '.' && c != '-' {
			return false
		}
	}
	return true
}
