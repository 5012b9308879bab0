package api

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"strconv"
	"strings"

	"github.com/coble-os/coble/layers/distribution"
	"github.com/coble-os/coble/layers/registry"
	"github.com/coble-os/coble/rt/fault"
	"github.com/coble-os/coble/rt/images"
	"github.com/coble-os/coble/rt/job"
)

func (s *Server) registryRoutes() {
	s.route("GET /images/search", s.searchImages)
	s.route("POST /auth", s.checkAuth)
	s.route("GET /distribution/{name...}", s.inspectDistribution)
	s.route("POST /coble/registry/serve", s.serveRegistry)
}

// authConfig is credentials on the wire, in X-Registry-Auth, X-Registry-Config and the body of /auth.
type authConfig struct {
	Username      string `json:"username"`
	Password      string `json:"password"`
	Auth          string `json:"auth"` // base64 of username:password
	ServerAddress string `json:"serveraddress"`
	IdentityToken string `json:"identitytoken"`
	RegistryToken string `json:"registrytoken"`
}

func (a authConfig) credentials() registry.Credentials {
	c := registry.Credentials{Username: a.Username, Password: a.Password, IdentityToken: a.IdentityToken, RegistryToken: a.RegistryToken}
	if raw, err := base64.StdEncoding.DecodeString(a.Auth); c.Username == "" && a.Auth != "" && err == nil {
		c.Username, c.Password, _ = strings.Cut(string(raw), ":")
	}
	return c
}

// credentials reads X-Registry-Auth, or what X-Registry-Config has for the registry of a name. Both are JSON in base64,
// of either alphabet.
func credentials(r *http.Request, name string) (registry.Credentials, error) {
	var one authConfig
	if err := readHeader64(r, "X-Registry-Auth", &one); err != nil {
		return registry.Credentials{}, err
	}
	if c := one.credentials(); c != (registry.Credentials{}) {
		return c, nil
	}
	var all map[string]authConfig
	if err := readHeader64(r, "X-Registry-Config", &all); err != nil {
		return registry.Credentials{}, err
	}
	want, _ := registry.SplitTerm(name)
	for server, a := range all {
		if registry.ServerHost(server) == want {
			return a.credentials(), nil
		}
	}
	return registry.Credentials{}, nil
}

// credentialsByHost reads both headers for a request that may go to several registries: X-Registry-Auth is for the one that
// it names, or for host.
func credentialsByHost(r *http.Request, host string) (map[string]registry.Credentials, error) {
	var one authConfig
	all := map[string]authConfig{}
	if err := errors.Join(readHeader64(r, "X-Registry-Auth", &one), readHeader64(r, "X-Registry-Config", &all)); err != nil {
		return nil, err
	}
	out := map[string]registry.Credentials{}
	for server, a := range all {
		out[registry.ServerHost(server)] = a.credentials()
	}
	if c := one.credentials(); c != (registry.Credentials{}) {
		if one.ServerAddress != "" {
			host = registry.ServerHost(one.ServerAddress)
		}
		out[host] = c
	}
	return out, nil
}

func readHeader64(r *http.Request, header string, v any) error {
	text := strings.TrimRight(strings.NewReplacer("+", "-", "/", "_").Replace(r.Header.Get(header)), "=")
	if text == "" {
		return nil
	}
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err == nil {
		err = json.Unmarshal(raw, v)
	}
	if err != nil {
		return invalid("read header %s: %w", header, err)
	}
	return nil
}

// progressLine is a line of Docker's JSON stream.
type progressLine struct {
	Stream   string          `json:"stream,omitempty"`
	Status   string          `json:"status,omitempty"`
	Detail   *progressDetail `json:"progressDetail,omitempty"`
	ID       string          `json:"id,omitempty"`
	Aux      any             `json:"aux,omitempty"`
	Error    string          `json:"error,omitempty"`
	ErrorObj *errorDetail    `json:"errorDetail,omitempty"`
}

type progressDetail struct {
	Current int64 `json:"current,omitempty"`
	Total   int64 `json:"total,omitempty"`
}

type errorDetail struct {
	Message string `json:"message"`
}

// lines writes the stream; nothing is sent before the first line, so that an error that comes before has a status.
type lines struct {
	w     http.ResponseWriter
	begun bool
}

func (l *lines) write(p progressLine) {
	if !l.begun {
		l.w.Header().Set("Content-Type", "application/json")
		l.begun = true
	}
	json.NewEncoder(l.w).Encode(p)
	flush(l.w)
}

func (l *lines) event(ev distribution.Event) {
	p := progressLine{Status: ev.Status, ID: ev.ID}
	if ev.ID != "" {
		p.Detail = &progressDetail{ev.Current, ev.Total}
	}
	l.write(p)
}

// end tells an error in the stream, once that has begun.
func (l *lines) end(err error) error {
	if err == nil || !l.begun {
		return err
	}
	l.write(progressLine{Error: err.Error(), ErrorObj: &errorDetail{err.Error()}})
	return nil
}

// pullImage takes a name without tag and digest for all of the repository's tags, as Docker does.
func (s *Server) pullImage(w http.ResponseWriter, r *http.Request) error {
	if r.FormValue("fromSrc") != "" {
		return s.importImage(w, r)
	}
	in := images.PullIn{Ref: r.FormValue("fromImage"), Platform: r.FormValue("platform")}
	if in.Ref == "" {
		return invalid("pull: fromImage is missing")
	}
	base := in.Ref[strings.LastIndex(in.Ref, "/")+1:]
	switch tag := r.FormValue("tag"); {
	case strings.HasPrefix(tag, "sha256:"):
		in.Ref += "@" + tag
	case tag != "":
		in.Ref += ":" + tag
	default:
		in.All = !strings.ContainsAny(base, ":@")
	}
	var err error
	if in.Creds, err = credentials(r, in.Ref); err != nil {
		return err
	}
	l := &lines{w: w}
	in.Tell = l.event
	_, err = job.Run[any](r.Context(), s.e.Jobs, "pull", in, job.Streams{}, in.Ref)
	return l.end(err)
}

func (s *Server) pushImage(w http.ResponseWriter, r *http.Request, name string) error {
	in := images.PushIn{Repo: name, Tag: r.FormValue("tag")}
	if in.Tag == "" && strings.Contains(name[strings.LastIndex(name, "/")+1:], ":") {
		at := strings.LastIndex(name, ":")
		in.Repo, in.Tag = name[:at], name[at+1:]
	}
	var err error
	if in.Creds, err = credentials(r, name); err != nil {
		return err
	}
	l := &lines{w: w}
	in.Tell = l.event
	in.Sent = func(o images.PushOut) { l.write(progressLine{Aux: o}) }
	_, err = job.Run[any](r.Context(), s.e.Jobs, "push", in, job.Streams{}, name)
	return l.end(err)
}

func (s *Server) searchImages(w http.ResponseWriter, r *http.Request) error {
	f, err := readFilters(r, "stars", "is-official", "is-automated")
	if err != nil {
		return err
	}
	in := images.SearchIn{Term: r.FormValue("term")}
	if v := r.FormValue("limit"); v != "" {
		if in.Limit, err = strconv.Atoi(v); err != nil {
			return invalid("limit %q is not a number", v)
		}
	}
	if v := f["stars"]; len(v) > 0 {
		if in.Stars, err = strconv.Atoi(v[0]); err != nil {
			return invalid("filter stars=%s is not a number", v[0])
		}
	}
	if v := f["is-official"]; len(v) > 0 {
		yes, err := strconv.ParseBool(v[0])
		if err != nil {
			return invalid("filter is-official=%s is neither true nor false", v[0])
		}
		in.Official = &yes
	}
	if v := f["is-automated"]; len(v) > 0 && v[0] != "false" && v[0] != "0" {
		return reply(w, http.StatusOK, []registry.Found{}) // no index has automated builds any more
	}
	if in.Creds, err = credentials(r, in.Term); err != nil {
		return err
	}
	found, err := job.Run[[]registry.Found](r.Context(), s.e.Jobs, "search", in, job.Streams{}, in.Term)
	if err != nil {
		return err
	}
	return reply(w, http.StatusOK, orEmptyFound(found))
}

func orEmptyFound(l []registry.Found) []registry.Found {
	if l == nil {
		return []registry.Found{}
	}
	return l
}

func (s *Server) checkAuth(w http.ResponseWriter, r *http.Request) error {
	var a authConfig
	if err := decode(r, &a); err != nil {
		return err
	}
	in := images.AuthIn{Server: a.ServerAddress, Creds: a.credentials()}
	if _, err := job.Run[any](r.Context(), s.e.Jobs, "auth", in, job.Streams{}, a.ServerAddress); err != nil {
		return err
	}
	return reply(w, http.StatusOK, map[string]string{"Status": "Login Succeeded", "IdentityToken": ""})
}

func (s *Server) inspectDistribution(w http.ResponseWriter, r *http.Request) error {
	name, ok := strings.CutSuffix(r.PathValue("name"), "/json")
	if !ok {
		return &fault.Error{Kind: fault.NotFound, Err: errors.New("page not found")}
	}
	in := images.DistributionIn{Ref: name}
	var err error
	if in.Creds, err = credentials(r, name); err != nil {
		return err
	}
	out, err := job.Run[images.DistributionOut](r.Context(), s.e.Jobs, "distribution-inspect", in, job.Streams{}, name)
	if err != nil {
		return err
	}
	return reply(w, http.StatusOK, out)
}

// serveRegistry serves as long as the client stays; it hears the address.
func (s *Server) serveRegistry(w http.ResponseWriter, r *http.Request) error {
	var req struct {
		Listen, TLSCert, TLSKey, Htpasswd string
		ReadOnly, AnyoneMayPush           bool
	}
	if err := decode(r, &req); err != nil {
		return err
	}
	l := &lines{w: w}
	in := images.RegistryServeIn{
		Listen: req.Listen, TLSCert: req.TLSCert, TLSKey: req.TLSKey, Htpasswd: req.Htpasswd, ReadOnly: req.ReadOnly, AnyoneMayPush: req.AnyoneMayPush,
		Began: func(addr net.Addr) { l.write(progressLine{Status: "Serving images on " + addr.String()}) },
	}
	_, err := job.Run[any](r.Context(), s.e.Jobs, "registry-serve", in, job.Streams{}, req.Listen)
	return l.end(err)
}
