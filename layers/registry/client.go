// Package registry speaks the OCI distribution protocol, version 1.1, and
// Docker's registry API, version 2, as a client: manifests, blobs, tags,
// uploads, and the index's search (version 1).
//
// It moves bytes and keeps none of them: what is wanted is package
// distribution's, and what is kept package repo's. A blob is a reader that
// asks for the rest by byte range when its connection breaks; an upload takes
// a stream of unknown length. Nothing is held in memory but manifests, of at
// most image.MaxJSON bytes.
//
// It is written over net/http. oras.land/oras-go/v2 and
// github.com/google/go-containerregistry were looked at: both give a blob as
// a body that ends with its connection, want to know an upload's digest or
// size before its first byte, and choose the retries themselves.
//
// Credentials are the caller's, one set per session. They are sent to the
// registry that they are for and to the token server that it names (RFC 6750,
// section 3, and the distribution project's token specification), never along
// a redirection to another host, and never without TLS unless the registry is
// one of the insecure ones.
package registry

import (
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"
)

// Config is what a machine's owner says about registries.
type Config struct {
	// Insecure names registries that may be spoken to without TLS or with a
	// certificate that nobody vouches for: host, host:port or an address
	// prefix. 127.0.0.0/8, ::1 and localhost always may, as with Docker.
	Insecure []string
	// Mirrors are URLs of registries that are asked first for images of
	// docker.io, in this order. They get no credentials.
	Mirrors []string
	// CertDirs have a folder per registry, HOST or HOST:PORT, with CA
	// certificates (*.crt) and client certificates (NAME.cert, NAME.key).
	// Nil: /etc/coble/certs.d and /etc/docker/certs.d.
	CertDirs []string
	Agent    string // the User-Agent header; empty: coble
	// Backoff is the first pause between tries, which then doubles. Zero:
	// half a second.
	Backoff time.Duration
}

// Client makes sessions with registries and keeps connections for them. Its
// methods may be called from any goroutine.
type Client struct {
	conf Config

	mu         sync.Mutex
	transports map[string]*http.Transport // by host; guarded by mu
}

// New makes a client; it opens nothing.
func New(c Config) *Client {
	if c.CertDirs == nil {
		c.CertDirs = []string{"/etc/coble/certs.d", "/etc/docker/certs.d"}
	}
	if c.Agent == "" {
		c.Agent = "coble"
	}
	if c.Backoff == 0 {
		c.Backoff = 500 * time.Millisecond
	}
	return &Client{conf: c, transports: map[string]*http.Transport{}}
}

// Credentials of one user at one registry. The zero value is nobody.
type Credentials struct {
	Username, Password string
	IdentityToken      string // for the token server, instead of a password (OAuth 2 refresh token)
	RegistryToken      string // a bearer token, sent as it is
}

// Repository is where images are, split as the protocol needs it.
type Repository struct {
	Host string // as in names: docker.io, 127.0.0.1:5000
	Path string // library/busybox
}

// DefaultHost is the host of names that have none.
const DefaultHost = "docker.io"

// hubHost is where docker.io's registry answers.
const hubHost = "registry-1.docker.io"

// Split takes a normalised repository (image.Name.Repo) apart.
func Split(repo string) Repository {
	host, path, ok := strings.Cut(repo, "/")
	if !ok {
		return Repository{Host: DefaultHost, Path: repo}
	}
	return Repository{Host: host, Path: path}
}

// endpoint is one place to ask.
type endpoint struct {
	scheme, host string // host: as in URLs, perhaps with a port
	prefix       string // path before /v2; only mirrors have one
	insecure     bool
	mirror       bool
}

func (e endpoint) url(path string) string { return e.scheme + "://" + e.host + e.prefix + path }

// endpoints lists where a registry may be found, the best first.
func (c *Client) endpoints(host string, push bool) []endpoint {
	var list []endpoint
	if host == DefaultHost && !push {
		for _, m := range c.conf.Mirrors {
			list = append(list, c.mirror(m))
		}
	}
	at := host
	if host == DefaultHost || host == "index.docker.io" {
		at = hubHost
	}
	insecure := c.insecure(at)
	list = append(list, endpoint{scheme: "https", host: at, insecure: insecure})
	if insecure {
		list = append(list, endpoint{scheme: "http", host: at, insecure: true})
	}
	return list
}

func (c *Client) mirror(url string) endpoint {
	scheme, rest, ok := strings.Cut(url, "://")
	if !ok {
		scheme, rest = "https", url
	}
	host, prefix, _ := strings.Cut(rest, "/")
	if prefix = strings.Trim(prefix, "/"); prefix != "" {
		prefix = "/" + prefix
	}
	return endpoint{scheme: scheme, host: host, prefix: prefix, insecure: scheme == "http" || c.insecure(host), mirror: true}
}

// insecure tells whether a host may be spoken to without TLS.
func (c *Client) insecure(host string) bool {
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	var prefixes []netip.Prefix
	for _, s := range c.conf.Insecure {
		if s == host || s == name {
			return true
		}
		if p, err := netip.ParsePrefix(s); err == nil {
			prefixes = append(prefixes, p)
		}
	}
	if name == "localhost" {
		return true
	}
	if a, err := netip.ParseAddr(strings.Trim(name, "[]")); err == nil {
		return a.Unmap().IsLoopback() || anyHas(prefixes, a)
	}
	if len(prefixes) == 0 {
		return false
	}
	found, _ := net.LookupIP(name) // a name that leads nowhere is not insecure
	for _, ip := range found {
		if a, ok := netip.AddrFromSlice(ip); ok && anyHas(prefixes, a) {
			return true
		}
	}
	return false
}

func anyHas(list []netip.Prefix, a netip.Addr) bool {
	for _, p := range list {
		if p.Contains(a.Unmap()) {
			return true
		}
	}
	return false
}
