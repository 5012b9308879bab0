package server_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
	"golang.org/x/crypto/bcrypt"

	"github.com/coble-os/coble/layers/registry/server"
)

// place is a store that may be opened again.
type place struct {
	dir string
	db  *bbolt.DB
}

func newPlace(t testing.TB) *place {
	t.Helper()
	p := &place{dir: t.TempDir()}
	db, err := bbolt.Open(filepath.Join(p.dir, "db"), 0o600, &bbolt.Options{NoSync: true})
	require.NoError(t, err)
	t.Cleanup(func() { db.Close() })
	p.db = db
	return p
}

func (p *place) blobs(t testing.TB) []string {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(p.dir, "registry", "*", "*"))
	require.NoError(t, err)
	return list
}

func (p *place) serve(t testing.TB, a server.Access) *client {
	t.Helper()
	s, err := server.Open(server.Options{Root: filepath.Join(p.dir, "registry"), DB: p.db, Log: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	h := httptest.NewServer(s.Handler(a))
	t.Cleanup(h.Close)
	return &client{t: t, url: h.URL}
}

type client struct {
	t              testing.TB
	url            string
	user, password string
}

// answer is what came back.
type answer struct {
	status int
	header http.Header
	body   string
}

func (c *client) do(method, path string, body []byte, header ...string) answer {
	c.t.Helper()
	if !strings.HasPrefix(path, "http") {
		path = c.url + path
	}
	req, err := http.NewRequestWithContext(context.Background(), method, path, bytes.NewReader(body))
	require.NoError(c.t, err)
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	if c.user != "" {
		req.SetBasicAuth(c.user, c.password)
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(c.t, err)
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	require.NoError(c.t, err)
	return answer{resp.StatusCode, resp.Header, string(raw)}
}

func (c *client) push(name string, body []byte) digest.Digest {
	c.t.Helper()
	d := digest.FromBytes(body)
	a := c.do("POST", "/v2/"+name+"/blobs/uploads/?digest="+d.String(), body)
	require.Equal(c.t, http.StatusCreated, a.status, a.body)
	return d
}

// image pushes an image of one layer.
func (c *client) image(name, tag string, layer []byte, subject *ocispec.Descriptor) digest.Digest {
	c.t.Helper()
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Subject: subject}
	m.SchemaVersion = 2
	m.Config = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: c.push(name, []byte("{}")), Size: 2}
	m.Layers = []ocispec.Descriptor{{MediaType: ocispec.MediaTypeImageLayer, Digest: c.push(name, layer), Size: int64(len(layer))}}
	raw, err := json.Marshal(m)
	require.NoError(c.t, err)
	a := c.do("PUT", "/v2/"+name+"/manifests/"+tag, raw, "Content-Type", m.MediaType)
	require.Equal(c.t, http.StatusCreated, a.status, a.body)
	return digest.FromBytes(raw)
}

// What was answered with 201 is there after the process has gone, and only
// that.
func TestContentOutlivesTheServer(t *testing.T) {
	p := newPlace(t)
	c := p.serve(t, server.Access{})
	d := c.image("a/b", "1", []byte("layer"), nil)
	a := c.do("POST", "/v2/a/b/blobs/uploads/", nil)
	require.Equal(t, http.StatusAccepted, a.status)
	require.Equal(t, http.StatusAccepted, c.do("PATCH", a.header.Get("Location"), []byte("half")).status)
	require.NoError(t, os.WriteFile(filepath.Join(p.dir, "registry", "blobs", "sha256-"+strings.Repeat("0", 64)), []byte("an orphan"), 0o600))
	require.Len(t, p.blobs(t), 4)

	c = p.serve(t, server.Access{})
	require.Len(t, p.blobs(t), 2, "configuration and layer")
	require.Equal(t, d.String(), c.do("HEAD", "/v2/a/b/manifests/1", nil).header.Get("Docker-Content-Digest"))
	require.Equal(t, "layer", c.do("GET", "/v2/a/b/blobs/"+digest.FromString("layer").String(), nil).body)
	require.Equal(t, http.StatusNotFound, c.do("GET", a.header.Get("Location"), nil).status, "the upload is gone")
}

// Blobs go a day after they came, if no manifest names them.
func TestBlobsWithoutManifest(t *testing.T) {
	p := newPlace(t)
	c := p.serve(t, server.Access{})
	c.image("a", "1", []byte("layer"), nil)
	fresh, stale := c.push("a", []byte("fresh")), c.push("a", []byte("stale"))
	c.do("POST", "/v2/b/blobs/uploads/?from=a&mount="+digest.FromString("layer").String(), nil)
	old := time.Now().Add(-25 * time.Hour)
	for _, f := range p.blobs(t) {
		if !strings.HasSuffix(f, fresh.Encoded()) {
			require.NoError(t, os.Chtimes(f, old, old))
		}
	}
	c = p.serve(t, server.Access{})
	require.Len(t, p.blobs(t), 3, "layer, configuration, and what has just come")
	for path, want := range map[string]int{
		"/v2/a/blobs/" + fresh.String(): 200, "/v2/a/blobs/" + stale.String(): 404,
		"/v2/a/blobs/" + digest.FromString("layer").String(): 200, "/v2/b/blobs/" + digest.FromString("layer").String(): 404,
	} {
		require.Equal(t, want, c.do("GET", path, nil).status, path)
	}
}

// A blob's file goes with the last repository that has it.
func TestBlobsAreCounted(t *testing.T) {
	p := newPlace(t)
	c := p.serve(t, server.Access{})
	d := c.push("a", []byte("x"))
	require.Equal(t, http.StatusCreated, c.do("POST", "/v2/b/blobs/uploads/?from=a&mount="+d.String(), nil).status)
	require.Equal(t, http.StatusNotFound, c.do("GET", "/v2/c/blobs/"+d.String(), nil).status, "another repository has it not")
	for _, name := range []string{"a", "b"} {
		require.Len(t, p.blobs(t), 1)
		require.Equal(t, http.StatusOK, c.do("GET", "/v2/"+name+"/blobs/"+d.String(), nil).status)
		require.Equal(t, http.StatusAccepted, c.do("DELETE", "/v2/"+name+"/blobs/"+d.String(), nil).status)
		require.Equal(t, http.StatusNotFound, c.do("DELETE", "/v2/"+name+"/blobs/"+d.String(), nil).status)
	}
	require.Empty(t, p.blobs(t))
}

// Pushing and deleting the same blob at once never leaves a name without its
// file.
func TestPushAgainstDelete(t *testing.T) {
	p := newPlace(t)
	c := p.serve(t, server.Access{})
	d := digest.FromString("x")
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			for range 30 {
				if i%2 == 0 {
					c.do("POST", fmt.Sprintf("/v2/r%d/blobs/uploads/?digest=%s", i, d), []byte("x"))
				} else {
					c.do("DELETE", fmt.Sprintf("/v2/r%d/blobs/%s", i-1, d), nil)
				}
				a := c.do("GET", fmt.Sprintf("/v2/r%d/blobs/%s", i/2*2, d), nil)
				if a.status != http.StatusNotFound && a.status != http.StatusOK {
					t.Errorf("status %d: %s", a.status, a.body)
				}
			}
		})
	}
	all.Wait()
	for _, name := range []string{"r0", "r2"} {
		a := c.do("POST", "/v2/"+name+"/blobs/uploads/?digest="+d.String(), []byte("x"))
		require.Equal(t, http.StatusCreated, a.status)
		require.Equal(t, "x", c.do("GET", "/v2/"+name+"/blobs/"+d.String(), nil).body)
	}
}

func TestRefusals(t *testing.T) {
	c := newPlace(t).serve(t, server.Access{})
	c.image("a", "1", []byte("layer"), nil)
	missing := `{"schemaVersion":2,"mediaType":"` + ocispec.MediaTypeImageManifest + `","config":{"digest":"` + digest.FromString("none").String() + `","size":4},"layers":[]}`
	wrong := `{"schemaVersion":2,"mediaType":"` + ocispec.MediaTypeImageManifest + `","config":{"digest":"` + digest.FromString("layer").String() + `","size":4},"layers":[]}`
	for _, x := range []struct {
		method, path, body string
		status             int
		code               string
	}{
		{"GET", "/", "", 404, "NAME_UNKNOWN"},
		{"GET", "/v2/UPPER/tags/list", "", 400, "NAME_INVALID"},
		{"GET", "/v2/a/../../etc/tags/list", "", 0, ""},
		{"GET", "/v2/a/%2e%2e/b/tags/list", "", 0, ""},
		{"GET", "/v2/none/tags/list", "", 404, "NAME_UNKNOWN"},
		{"GET", "/v2/a/tags/list?n=x", "", 400, "PAGINATION_NUMBER_INVALID"},
		{"GET", "/v2/a/manifests/none", "", 404, "MANIFEST_UNKNOWN"},
		{"GET", "/v2/a/manifests/sha256:zz", "", 400, "DIGEST_INVALID"},
		{"GET", "/v2/a/blobs/md5:d41d8cd98f00b204e9800998ecf8427e", "", 400, "DIGEST_INVALID"},
		{"GET", "/v2/a/blobs/" + digest.FromString("none").String(), "", 404, "BLOB_UNKNOWN"},
		{"POST", "/v2/a/blobs/uploads/?digest=sha256:zz", "x", 400, "DIGEST_INVALID"},
		{"POST", "/v2/a/blobs/uploads/?digest=" + digest.FromString("y").String(), "x", 400, "DIGEST_INVALID"},
		{"PATCH", "/v2/a/blobs/uploads/none", "x", 404, "BLOB_UPLOAD_UNKNOWN"},
		{"PUT", "/v2/a/manifests/2", missing, 400, "MANIFEST_BLOB_UNKNOWN"},
		{"PUT", "/v2/a/manifests/2", wrong, 400, "MANIFEST_INVALID"},
		{"PUT", "/v2/a/manifests/2", "nonsense", 400, "MANIFEST_INVALID"},
		{"PUT", "/v2/a/manifests/2", `{"schemaVersion":1,"fsLayers":[]}`, 400, "MANIFEST_INVALID"},
		{"PUT", "/v2/a/manifests/2", strings.Repeat(" ", 5<<20), 413, "SIZE_INVALID"},
		{"PUT", "/v2/a/manifests/" + digest.FromString("y").String(), missing, 400, "DIGEST_INVALID"},
		{"POST", "/v2/a/manifests/1", "", 405, "UNSUPPORTED"},
		{"DELETE", "/v2/a/manifests/none", "", 404, "MANIFEST_UNKNOWN"},
		{"DELETE", "/v2/_catalog", "", 405, "UNSUPPORTED"},
	} {
		a := c.do(x.method, x.path, []byte(x.body), "Content-Type", ocispec.MediaTypeImageManifest)
		if x.status == 0 {
			require.GreaterOrEqual(t, a.status, 400, x.path)
			continue
		}
		require.Equal(t, x.status, a.status, "%s %s: %s", x.method, x.path, a.body)
		require.Contains(t, a.body, `"`+x.code+`"`, x.path)
	}
}

// Chunks have to follow one another, and who sends the wrong one hears where
// to go on.
func TestChunks(t *testing.T) {
	c := newPlace(t).serve(t, server.Access{})
	at := c.do("POST", "/v2/a/blobs/uploads/", nil).header.Get("Location")
	require.Equal(t, http.StatusAccepted, c.do("PATCH", at, []byte("hello "), "Content-Range", "0-5").status)
	for _, r := range []string{"0-5", "12-17", "99-104"} {
		a := c.do("PATCH", at, []byte("hello "), "Content-Range", r)
		require.Equal(t, http.StatusRequestedRangeNotSatisfiable, a.status)
		require.Equal(t, "0-5", a.header.Get("Range"))
	}
	require.Equal(t, http.StatusBadRequest, c.do("PATCH", at, []byte("x"), "Content-Range", "nonsense").status)
	require.Equal(t, http.StatusBadRequest, c.do("PATCH", at, []byte("x"), "Content-Range", "6-9").status, "four bytes are announced, one comes")
	require.Equal(t, http.StatusNotFound, c.do("PATCH", strings.Replace(at, "/v2/a/", "/v2/b/", 1), []byte("x")).status, "it is another repository's")
	a := c.do("PUT", at+"?digest="+digest.FromString("hello world").String(), []byte("world"), "Content-Range", "6-10")
	require.Equal(t, http.StatusCreated, a.status, a.body)
	require.Equal(t, "hello world", c.do("GET", a.header.Get("Location"), nil).body)
	require.Equal(t, http.StatusNotFound, c.do("GET", at, nil).status)
}

func TestTooManyUploads(t *testing.T) {
	c := newPlace(t).serve(t, server.Access{})
	var at string
	for i := range 65 {
		a := c.do("POST", "/v2/a/blobs/uploads/", nil)
		if i == 64 {
			require.Equal(t, http.StatusTooManyRequests, a.status)
			break
		}
		require.Equal(t, http.StatusAccepted, a.status)
		at = a.header.Get("Location")
	}
	require.Equal(t, http.StatusNoContent, c.do("DELETE", at, nil).status)
	require.Equal(t, http.StatusAccepted, c.do("POST", "/v2/a/blobs/uploads/", nil).status)
}

func TestReferrers(t *testing.T) {
	c := newPlace(t).serve(t, server.Access{})
	subject := c.image("a", "1", []byte("layer"), nil)
	by := c.image("a", "2", []byte("signature"), &ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: subject, Size: 1})
	list := func(query string) []ocispec.Descriptor {
		a := c.do("GET", "/v2/a/referrers/"+subject.String()+query, nil)
		require.Equal(t, http.StatusOK, a.status)
		var x ocispec.Index
		require.NoError(t, json.Unmarshal([]byte(a.body), &x))
		require.NotNil(t, x.Manifests)
		return x.Manifests
	}
	require.Equal(t, by, list("")[0].Digest)
	require.Len(t, list("?artifactType="+url.QueryEscape(ocispec.MediaTypeImageConfig)), 1)
	require.Empty(t, list("?artifactType=other"))
	require.Equal(t, http.StatusAccepted, c.do("DELETE", "/v2/a/manifests/"+by.String(), nil).status)
	require.Empty(t, list(""))
	require.Equal(t, http.StatusNotFound, c.do("GET", "/v2/a/manifests/2", nil).status, "its tags go with it")
}

func TestReadOnly(t *testing.T) {
	p := newPlace(t)
	p.serve(t, server.Access{}).image("a", "1", []byte("layer"), nil)
	c := p.serve(t, server.Access{ReadOnly: true})
	require.Equal(t, http.StatusOK, c.do("GET", "/v2/a/manifests/1", nil).status)
	for _, m := range []string{"POST", "PUT", "PATCH", "DELETE"} {
		for _, path := range []string{"/v2/a/manifests/1", "/v2/a/blobs/uploads/", "/v2/a/blobs/" + digest.FromString("layer").String()} {
			require.Equal(t, http.StatusMethodNotAllowed, c.do(m, path, nil).status, m)
		}
	}
}

func TestUsers(t *testing.T) {
	hash, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.MinCost)
	require.NoError(t, err)
	u, err := server.ParseUsers("# who may\n\nme:" + string(hash) + "\n")
	require.NoError(t, err)
	c := newPlace(t).serve(t, server.Access{Users: u})
	for _, path := range []string{"/v2/", "/v2/_catalog", "/v2/a/manifests/1", "/other"} {
		a := c.do("GET", path, nil)
		require.Equal(t, http.StatusUnauthorized, a.status, path)
		require.Contains(t, a.header.Get("WWW-Authenticate"), "Basic realm=")
		require.Contains(t, a.body, "UNAUTHORIZED")
	}
	for _, x := range []struct {
		user, password string
		ok             bool
	}{{"me", "secret", true}, {"me", "secret", true}, {"me", "wrong", false}, {"me", "", false}, {"you", "secret", false}, {"me", "secret", true}} {
		c.user, c.password = x.user, x.password
		require.Equal(t, x.ok, c.do("GET", "/v2/", nil).status == http.StatusOK, x)
		require.Equal(t, x.ok, u.Know(x.user, x.password), x)
	}
	for text, want := range map[string]string{
		"": "no user", "me": "want name:hash", ":x": "want name:hash", "me:{SHA}x": "not bcrypt's", "me:$apr1$x$y": "not bcrypt's", "me:plain": "not bcrypt's",
	} {
		_, err := server.ParseUsers(text)
		require.ErrorContains(t, err, want, text)
	}
}

func TestCatalog(t *testing.T) {
	c := newPlace(t).serve(t, server.Access{})
	for _, n := range []string{"c", "a/b", "a"} {
		c.image(n, "1", []byte(n), nil)
	}
	require.JSONEq(t, `{"repositories":["a","a/b","c"]}`, c.do("GET", "/v2/_catalog", nil).body)
	a := c.do("GET", "/v2/_catalog?n=2", nil)
	require.JSONEq(t, `{"repositories":["a","a/b"]}`, a.body)
	require.Equal(t, `</v2/_catalog?last=a%2Fb&n=2>; rel="next"`, a.header.Get("Link"))
	require.JSONEq(t, `{"repositories":["c"]}`, c.do("GET", "/v2/_catalog?last=a%2Fb&n=2", nil).body)
}
