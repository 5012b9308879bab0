package registry_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/bcrypt"

	"github.com/coble-os/coble/layers/image"
	"github.com/coble-os/coble/layers/registry"
	"github.com/coble-os/coble/layers/registry/registrytest"
	"github.com/coble-os/coble/layers/registry/server"
)

var ctx = context.Background()

func users(t testing.TB) *server.Users {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.MinCost)
	require.NoError(t, err)
	u, err := server.ParseUsers("me:" + string(hash) + "\n")
	require.NoError(t, err)
	return u
}

func TestBasicAuthentication(t *testing.T) {
	reg := registrytest.New(t, server.Access{Users: users(t)}, nil)
	c := registrytest.Client()
	at := registry.Repository{Host: reg.Host(), Path: "a"}
	for _, x := range []struct {
		creds registry.Credentials
		want  error
	}{
		{registry.Credentials{}, registry.ErrNoCredentials},
		{registry.Credentials{Username: "me", Password: "wrong"}, registry.ErrUnauthorized},
		{registry.Credentials{Username: "other", Password: "secret"}, registry.ErrUnauthorized},
		{registry.Credentials{Username: "me", Password: "secret"}, nil},
	} {
		require.ErrorIs(t, c.Login(ctx, reg.Host(), x.creds), x.want)
		s, err := c.Open(ctx, at, x.creds, true)
		require.NoError(t, err, "asking for the version needs nobody")
		require.ErrorIs(t, s.UploadSmall(ctx, []byte("x")), x.want)
	}
	require.ErrorContains(t, c.Login(ctx, reg.Host(), registry.Credentials{}), "no basic auth credentials")
}

// tokens is a registry that wants a token, and the server that gives it.
type tokens struct {
	reg    *registrytest.Registry
	asked  []*http.Request
	forms  []string
	lasts  int // seconds
	reject int // answer so many requests with 401 although they have a token
}

func newTokens(t *testing.T) *tokens {
	k := &tokens{reg: registrytest.New(t, server.Access{}, nil), lasts: 300}
	auth := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.ParseForm()
		k.asked, k.forms = append(k.asked, r), append(k.forms, r.Form.Encode())
		user, pass, _ := r.BasicAuth()
		if user != "" && pass != "secret" {
			w.WriteHeader(http.StatusUnauthorized)
			io.WriteString(w, `{"details":"incorrect username or password"}`)
			return
		}
		json.NewEncoder(w).Encode(map[string]any{"token": "good", "expires_in": k.lasts})
	}))
	t.Cleanup(auth.Close)
	k.reg.Spoil("", -1, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.Header.Get("Authorization") != "Bearer good" || r.URL.Path != "/v2/" && k.reject > 0 {
			k.reject--
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+auth.URL+`/token?x=y",service="some reg"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
	return k
}

func TestTokens(t *testing.T) {
	k := newTokens(t)
	at := registry.Repository{Host: k.reg.Host(), Path: "a/b"}
	s, err := registrytest.Client().Open(ctx, at, registry.Credentials{Username: "me", Password: "secret"}, true)
	require.NoError(t, err)
	require.NoError(t, s.UploadSmall(ctx, []byte("x")))
	require.Len(t, k.asked, 1, "one token serves all")
	require.Equal(t, "account=me&scope=repository%3Aa%2Fb%3Apull%2Cpush&service=some+reg&x=y", k.forms[0])

	k.reject = 1
	_, ok, err := s.HasBlob(ctx, digest.FromString("x"))
	require.NoError(t, err)
	require.True(t, ok)
	require.Len(t, k.asked, 2, "a token that is refused is fetched anew, once")

	_, err = s.Mount(ctx, digest.FromString("x"), "other")
	require.NoError(t, err)
	require.Contains(t, k.forms[2], "scope=repository%3Aa%2Fb%3Apull%2Cpush&scope=repository%3Aother%3Apull")

	err = registrytest.Client().Login(ctx, k.reg.Host(), registry.Credentials{Username: "me", Password: "wrong"})
	require.ErrorIs(t, err, registry.ErrUnauthorized)
	require.ErrorContains(t, err, "incorrect username or password")
	require.NoError(t, registrytest.Client().Login(ctx, k.reg.Host(), registry.Credentials{Username: "me", Password: "secret"}))
	require.NoError(t, registrytest.Client().Login(ctx, k.reg.Host(), registry.Credentials{RegistryToken: "good"}))
}

func TestIdentityToken(t *testing.T) {
	k := newTokens(t)
	s, err := registrytest.Client().Open(ctx, registry.Repository{Host: k.reg.Host(), Path: "a"}, registry.Credentials{IdentityToken: "refresh"}, false)
	require.NoError(t, err)
	_, _, err = s.HasBlob(ctx, digest.FromString("x"))
	require.NoError(t, err)
	require.Equal(t, http.MethodPost, k.asked[0].Method)
	require.Contains(t, k.forms[0], "grant_type=refresh_token&refresh_token=refresh&scope=repository%3Aa%3Apull")
}

// A token that is refused again and again is an error, not a loop.
func TestTokensThatNeverServe(t *testing.T) {
	k := newTokens(t)
	k.reject = 1 << 20
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	s, err := registrytest.Client().Open(ctx, registry.Repository{Host: k.reg.Host(), Path: "a"}, registry.Credentials{}, false)
	require.NoError(t, err)
	_, _, err = s.HasBlob(ctx, digest.FromString("x"))
	require.ErrorIs(t, err, registry.ErrUnauthorized)
	require.LessOrEqual(t, len(k.asked), 2)
}

// A registry that never stops is not listened to for longer than the blob.
func TestBlobIsBounded(t *testing.T) {
	reg := registrytest.New(t, server.Access{}, nil)
	reg.Spoil("GET /v2/a/blobs/", -1, func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		for range 1 << 12 {
			if _, err := w.Write(make([]byte, 16<<10)); err != nil {
				return
			}
		}
	})
	body := reg.Open(t, "a").Blob(ctx, ocispec.Descriptor{Digest: digest.FromString("x"), Size: 100_000}, 0)
	n, err := io.Copy(io.Discard, body)
	require.NoError(t, body.Close())
	require.NoError(t, err)
	require.EqualValues(t, 100_001, n, "one byte more tells that it is wrong")
}

// Nobody else than the registry gets to see the credentials.
func TestCredentialsStayAtHome(t *testing.T) {
	reg := registrytest.New(t, server.Access{Users: users(t)}, nil)
	seen := make(chan http.Header, 8)
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen <- r.Header
		w.WriteHeader(http.StatusCreated)
	}))
	defer other.Close()
	// By name: 127.0.0.1 and localhost are two hosts.
	elsewhere := strings.Replace(other.URL, "127.0.0.1", "localhost", 1)
	s, err := registrytest.Client().Open(ctx, registry.Repository{Host: reg.Host(), Path: "a"}, registry.Credentials{Username: "me", Password: "secret"}, true)
	require.NoError(t, err)
	reg.Spoil("GET /v2/a/blobs/", 1, func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		http.Redirect(w, r, elsewhere+"/x", http.StatusTemporaryRedirect)
	})
	io.Copy(io.Discard, s.Blob(ctx, ocispec.Descriptor{Digest: digest.FromString("x"), Size: 0}, 0))
	require.Empty(t, (<-seen).Get("Authorization"))
	reg.Spoil("POST /v2/a/blobs/uploads", 1, registrytest.Status(http.StatusAccepted, "Location", elsewhere+"/x"))
	require.Error(t, s.UploadSmall(ctx, []byte("x")))
	require.Empty(t, (<-seen).Get("Authorization"))
}

// TLS is not left by a redirection.
func TestRedirectionsKeepTLS(t *testing.T) {
	plain := registrytest.New(t, server.Access{}, nil)
	secure := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v2/" {
			http.Redirect(w, r, plain.URL+r.URL.Path, http.StatusTemporaryRedirect)
		}
	}))
	defer secure.Close()
	// A registry that is not insecure, reached by a name of its certificate.
	_, port, err := net.SplitHostPort(strings.TrimPrefix(secure.URL, "https://"))
	require.NoError(t, err)
	host := "example.com:" + port
	dir := t.TempDir()
	require.NoError(t, os.MkdirAll(dir+"/"+host, 0o700))
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw})
	require.NoError(t, os.WriteFile(dir+"/"+host+"/ca.crt", ca, 0o600))
	tunnelTo.Store(strings.TrimPrefix(secure.URL, "https://"))
	c := registry.New(registry.Config{CertDirs: []string{dir}, Backoff: time.Millisecond})
	s, err := c.Open(ctx, registry.Repository{Host: host, Path: "a"}, registry.Credentials{}, false)
	require.NoError(t, err, "through the proxy, trusting the certificate of certs.d")
	_, err = s.Manifest(ctx, "1")
	require.ErrorContains(t, err, "redirected from TLS")
	require.Empty(t, plain.Requests(""))
	rc, err := c.Get(ctx, "https://"+host+"/v2/")
	require.NoError(t, err, "so comes what is imported")
	require.NoError(t, rc.Close())

	c = registry.New(registry.Config{CertDirs: []string{}, Backoff: time.Millisecond})
	_, err = c.Open(ctx, registry.Repository{Host: host, Path: "a"}, registry.Credentials{}, false)
	require.ErrorContains(t, err, "certificate")
}

// tunnelTo is where the proxy leads, whatever it is asked for.
var tunnelTo atomic.Value

// TestMain starts an HTTP proxy for all that is not loopback: net/http looks
// at the environment once.
func TestMain(m *testing.M) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	os.Setenv("HTTPS_PROXY", "http://"+l.Addr().String())
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go tunnel(c)
		}
	}()
	os.Exit(m.Run())
}

func tunnel(c net.Conn) {
	defer c.Close()
	buf := make([]byte, 4096)
	n, err := c.Read(buf)
	to, ok := tunnelTo.Load().(string)
	if err != nil || !ok || !strings.HasPrefix(string(buf[:n]), "CONNECT ") {
		return
	}
	d, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer d.Close()
	io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
	go io.Copy(d, c)
	io.Copy(c, d)
}

// A registry may want a certificate of its clients.
func TestClientCertificate(t *testing.T) {
	cert, key := selfSigned(t)
	pool := x509.NewCertPool()
	require.True(t, pool.AppendCertsFromPEM(cert))
	secure := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {}))
	secure.TLS = &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool}
	secure.StartTLS()
	defer secure.Close()
	host := strings.TrimPrefix(secure.URL, "https://")
	dir := t.TempDir()
	_, err := registry.New(registry.Config{CertDirs: []string{dir}}).Open(ctx, registry.Repository{Host: host, Path: "a"}, registry.Credentials{}, false)
	require.Error(t, err)
	require.NoError(t, os.MkdirAll(dir+"/"+host, 0o700))
	require.NoError(t, os.WriteFile(dir+"/"+host+"/me.cert", cert, 0o600))
	require.NoError(t, os.WriteFile(dir+"/"+host+"/me.key", key, 0o600))
	_, err = registry.New(registry.Config{CertDirs: []string{dir}}).Open(ctx, registry.Repository{Host: host, Path: "a"}, registry.Credentials{}, false)
	require.NoError(t, err)
}

func selfSigned(t testing.TB) (cert, key []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "me"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &k.PublicKey, k)
	require.NoError(t, err)
	raw, err := x509.MarshalECPrivateKey(k)
	require.NoError(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: raw})
}

func TestErrorsReadLikeDockers(t *testing.T) {
	reg := registrytest.New(t, server.Access{}, nil)
	s := reg.Open(t, "a")
	_, err := s.Manifest(ctx, "none")
	require.ErrorIs(t, err, registry.ErrNotFound)
	require.EqualError(t, err, "manifest unknown: manifest unknown: none")
	reg.Spoil("GET /v2/a/manifests/", -1, func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		w.WriteHeader(http.StatusForbidden)
		io.WriteString(w, strings.Repeat("<html>", 100000))
	})
	_, err = s.Manifest(ctx, "none")
	require.ErrorIs(t, err, registry.ErrUnauthorized)
	require.Less(t, len(err.Error()), 400, "no more than the beginning of what came")

	_, err = registrytest.Client().Open(ctx, registry.Repository{Host: "127.0.0.1:9", Path: "a"}, registry.Credentials{}, false)
	require.ErrorContains(t, err, "connection refused")
	empty := httptest.NewServer(http.NotFoundHandler())
	defer empty.Close()
	_, err = registrytest.Client().Open(ctx, registry.Repository{Host: strings.TrimPrefix(empty.URL, "http://"), Path: "a"}, registry.Credentials{}, false)
	require.ErrorIs(t, err, registry.ErrNotRegistry)
}

func TestTagsComeInPages(t *testing.T) {
	reg := registrytest.New(t, server.Access{}, nil)
	reg.Spoil("GET /v2/a/tags/list", -1, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		q := r.URL.Query()
		q.Set("n", "2")
		r.URL.RawQuery = q.Encode()
		next.ServeHTTP(w, r)
	})
	want := []string{"a", "b", "c", "d", "e"}
	for _, tag := range want {
		reg.Put(t, "a", tag, ocispec.MediaTypeImageLayer, []byte("{}"))
	}
	got, err := reg.Open(t, "a").Tags(ctx)
	require.NoError(t, err)
	require.Equal(t, want, got)
	require.Len(t, reg.Requests("GET /v2/a/tags/list"), 3)
	_, err = reg.Open(t, "none").Tags(ctx)
	require.ErrorIs(t, err, registry.ErrNotFound)
}

func TestSearch(t *testing.T) {
	index := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/search" || r.FormValue("q") != "foo" || r.FormValue("n") != "2" {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		io.WriteString(w, `{"results":[{"name":"a/foo","description":"x","star_count":3,"is_official":true},{"name":"b/foo"},{"name":"c/foo"}]}`)
	}))
	defer index.Close()
	got, err := registrytest.Client().Search(ctx, strings.TrimPrefix(index.URL, "http://")+"/foo", 2, registry.Credentials{})
	require.NoError(t, err)
	require.Equal(t, []registry.Found{{Name: "a/foo", Description: "x", Stars: 3, Official: true}, {Name: "b/foo"}}, got)

	reg := registrytest.New(t, server.Access{}, nil)
	for _, n := range []string{"x/foo", "x/bar", "foo"} {
		reg.Put(t, n, "1", ocispec.MediaTypeImageLayer, []byte("{}"))
	}
	got, err = registrytest.Client().Search(ctx, reg.Host()+"/foo", 25, registry.Credentials{})
	require.NoError(t, err)
	require.Equal(t, []registry.Found{{Name: reg.Host() + "/foo"}, {Name: reg.Host() + "/x/foo"}}, got)
}

func TestMirrors(t *testing.T) {
	with, without := registrytest.New(t, server.Access{}, nil), registrytest.New(t, server.Access{}, nil)
	want := with.Put(t, "library/x", "1", ocispec.MediaTypeImageLayer, []byte("{}"))
	c := registry.New(registry.Config{CertDirs: []string{}, Backoff: time.Millisecond, Mirrors: []string{"http://127.0.0.1:9", without.URL, with.URL + "/"}})
	s, err := c.Open(ctx, registry.Split("docker.io/library/x"), registry.Credentials{Username: "me", Password: "secret"}, false)
	require.NoError(t, err)
	m, err := s.Manifest(ctx, "1")
	require.NoError(t, err)
	require.Equal(t, want.Digest, m.Digest)
	require.Len(t, without.Requests("GET /v2/library/x/manifests/1"), 1)
}

func TestDescribe(t *testing.T) {
	reg := registrytest.New(t, server.Access{}, nil)
	m := reg.Put(t, "a", "1", ocispec.MediaTypeImageLayer, []byte(`{"os":"linux","architecture":"arm","variant":"v7"}`))
	x := reg.PutJSON(t, "a", "2", ocispec.MediaTypeImageIndex, registrytest.Index(map[string]registry.Manifest{"linux/arm/v7": m}))
	arm := []ocispec.Platform{{OS: "linux", Architecture: "arm", Variant: "v7"}}
	for tag, want := range map[string]registry.Manifest{"1": m, "2": x} {
		d, platforms, err := reg.Open(t, "a").Describe(ctx, image.Name{Tag: tag})
		require.NoError(t, err)
		require.Equal(t, want.Descriptor(), d)
		require.Equal(t, arm, platforms)
	}
}
