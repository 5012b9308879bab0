package registry

import (
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"

	"github.com/coble-os/coble/layers/image"
)

func TestParseChallenges(t *testing.T) {
	for header, want := range map[string][]challenge{
		`Basic realm="x"`: {{"basic", map[string]string{"realm": "x"}}},
		`Bearer realm="https://auth.example/token",service="reg",scope="repository:a/b:pull,push"`: {{"bearer", map[string]string{"realm": "https://auth.example/token", "service": "reg", "scope": "repository:a/b:pull,push"}}},
		`bearer  REALM = "a\"b\\c" , service=x`:                                                    {{"bearer", map[string]string{"realm": `a"b\c`, "service": "x"}}},
		`Negotiate, Basic realm="a, b=c"`:                                                          {{"negotiate", map[string]string{}}, {"basic", map[string]string{"realm": "a, b=c"}}},
		`Basic realm="open`:                                                                        {{"basic", map[string]string{}}},
		`Basic realm="x\`:                                                                          {{"basic", map[string]string{}}},
		`realm="x"`:                                                                                {{"realm", map[string]string{}}},
		``:                                                                                         nil,
		`, ,`:                                                                                      nil,
		`"`:                                                                                        nil,
	} {
		require.Equal(t, want, parseChallenges([]string{header}), header)
	}
	require.Empty(t, parseChallenges([]string{"Basic realm=" + strings.Repeat("x", maxChallenge)}))
}

func FuzzChallenge(f *testing.F) {
	for _, s := range []string{`Basic realm="x"`, `Bearer realm="https://a/t",service="s"`, `A b="\\"`, `,,=`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, c := range parseChallenges([]string{s}) {
			if c.scheme == "" || c.params == nil {
				t.Fatalf("%q gives a challenge without a scheme", s)
			}
		}
	})
}

func FuzzIdentify(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`), "application/vnd.oci.image.index.v1+json")
	f.Add([]byte(`{"config":{},"layers":[],"manifests":[]}`), "text/html")
	f.Add([]byte(`[]`), "")
	f.Fuzz(func(t *testing.T, raw []byte, contentType string) {
		m, err := Identify(raw, contentType)
		if err != nil {
			return
		}
		if m.Type == "" || m.Digest != digest.FromBytes(raw) {
			t.Fatalf("%q has type %q and digest %s", raw, m.Type, m.Digest)
		}
		if m.IsIndex() {
			_, _ = image.ParseIndex(raw)
		} else {
			_, _ = image.ParseManifest(raw)
		}
	})
}

func FuzzName(f *testing.F) {
	for _, s := range []string{"busybox", "127.0.0.1:5000/a/b:1", "a@sha256:" + strings.Repeat("0", 64), "::", "[::1]:5000/x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := image.ParseName(s)
		if err != nil {
			return
		}
		at := Split(n.Repo)
		if at.Host == "" || at.Path == "" || strings.ContainsAny(at.Path+Reference(n), "?#% \x00") || strings.Contains("/"+at.Path+"/", "/../") {
			t.Fatalf("%q is %q at %q with %q", s, at.Path, at.Host, Reference(n))
		}
		again, err := image.ParseName(n.String())
		if err != nil || again != n {
			t.Fatalf("%q is %v, then %v: %v", s, n, again, err)
		}
	})
}

func TestIdentify(t *testing.T) {
	const (
		oci   = "application/vnd.oci.image.manifest.v1+json"
		index = "application/vnd.oci.image.index.v1+json"
		list  = "application/vnd.docker.distribution.manifest.list.v2+json"
	)
	for _, c := range []struct{ body, header, want, fault string }{
		{`{"mediaType":"` + oci + `","config":{},"layers":[]}`, oci, oci, ""},
		{`{"config":{},"layers":[]}`, oci + "; charset=utf-8", oci, ""},
		{`{"config":{},"layers":[]}`, "text/plain", oci, ""},
		{`{"config":{},"layers":[]}`, "", oci, ""},
		{`{"manifests":[]}`, "", index, ""},
		{`{"manifests":[]}`, list, list, ""},
		{`{"mediaType":"` + list + `","manifests":[]}`, index, "", "says that it is"},
		{`{"mediaType":"` + oci + `","manifests":[]}`, "", "", "and is not"},
		{`{"manifests":[],"layers":[]}`, index, "", "at once"},
		{`{"schemaVersion":1,"fsLayers":[]}`, "", "", "schema 1"},
		{`{}`, "application/vnd.docker.distribution.manifest.v1+prettyjws", "", "schema 1"},
		{`nonsense`, oci, "", "parse manifest"},
	} {
		m, err := Identify([]byte(c.body), c.header)
		if c.fault != "" {
			require.ErrorContains(t, err, c.fault, c.body)
			continue
		}
		require.NoError(t, err, c.body)
		require.Equal(t, c.want, m.Type, c.body)
	}
}

func TestRetryDecides(t *testing.T) {
	answer := func(code int, after string) *http.Response {
		return &http.Response{StatusCode: code, Header: http.Header{"Retry-After": {after}}}
	}
	for _, c := range []struct {
		resp  *http.Response
		least time.Duration
		again bool
	}{
		{answer(429, "7"), 7 * time.Second, true},
		{answer(503, "7"), 7 * time.Second, true},
		{answer(429, "100000"), 0, false},
		{answer(429, "Fri, 01 Jan 2100 00:00:00 GMT"), 0, false},
		{answer(429, "Mon, 01 Jan 2001 00:00:00 GMT"), 0, true},
		{answer(429, "soon"), time.Second, true},
		{answer(502, "7"), time.Second, true},
		{answer(404, "7"), 0, false},
		{answer(403, ""), 0, false},
	} {
		pause, again := retry(c.resp, nil, 1, 2*time.Second)
		require.Equal(t, c.again, again, c.resp)
		if again {
			require.GreaterOrEqual(t, pause, c.least)
		}
	}
	for try := 1; try < 20; try++ {
		pause, _ := retry(answer(502, ""), nil, try, time.Second)
		require.LessOrEqual(t, pause, maxPause)
	}
}

func TestEndpoints(t *testing.T) {
	c := New(Config{Insecure: []string{"plain.example", "10.0.0.0/8"}, Mirrors: []string{"https://mirror.example/hub/", "http://box:5000"}})
	urls := func(host string, push bool) (out []string) {
		for _, e := range c.endpoints(host, push) {
			out = append(out, e.url("/v2/"))
		}
		return out
	}
	require.Equal(t, []string{"https://mirror.example/hub/v2/", "http://box:5000/v2/", "https://registry-1.docker.io/v2/"}, urls("docker.io", false))
	require.Equal(t, []string{"https://registry-1.docker.io/v2/"}, urls("docker.io", true))
	require.Equal(t, []string{"https://10.1.2.3:5000/v2/", "http://10.1.2.3:5000/v2/"}, urls("10.1.2.3:5000", false))
	for host, want := range map[string]bool{
		"127.0.0.1:5000": true, "127.9.9.9": true, "localhost:5000": true, "[::1]:5000": true, "plain.example": true, "plain.example:5000": true,
		"10.255.0.1": true, "11.0.0.1": false, "other.example.invalid": false, "localhost.example.invalid": false,
	} {
		require.Equal(t, want, c.insecure(host), host)
	}
}

func TestNextPage(t *testing.T) {
	for link, want := range map[string]string{
		`</v2/_catalog?last=a&n=1>; rel="next"`: "https://reg.example/v2/_catalog?last=a&n=1",
		`<https://other.example/x>; rel="next"`: "", `<http://reg.example/x>; rel="next"`: "", `</x>; rel="prev"`: "", ``: "", `<`: "",
	} {
		got, ok := nextPage("https://reg.example/v2/_catalog", link)
		require.Equal(t, want != "", ok, link)
		if ok {
			require.Equal(t, want, got)
		}
	}
}

func TestServerHost(t *testing.T) {
	for addr, want := range map[string]string{
		"": "docker.io", "https://index.docker.io/v1/": "docker.io", "docker.io": "docker.io", "registry-1.docker.io": "docker.io",
		"https://reg.example:5000/v2/": "reg.example:5000", "127.0.0.1:5000": "127.0.0.1:5000",
	} {
		require.Equal(t, want, ServerHost(addr), addr)
	}
}

func TestCertificatesThatAreWrong(t *testing.T) {
	dir := t.TempDir()
	c := New(Config{CertDirs: []string{dir}})
	require.NoError(t, os.Mkdir(dir+"/reg.example", 0o700))
	require.NoError(t, os.WriteFile(dir+"/reg.example/ca.crt", []byte("no PEM"), 0o600))
	_, err := c.tlsConfig("reg.example")
	require.ErrorContains(t, err, "ca.crt")
	require.NoError(t, os.Remove(dir+"/reg.example/ca.crt"))
	require.NoError(t, os.WriteFile(dir+"/reg.example/me.cert", []byte("no PEM"), 0o600))
	_, err = c.tlsConfig("reg.example")
	require.ErrorContains(t, err, "me.key")
	_, err = c.tlsConfig("other.example")
	require.NoError(t, err)
}
