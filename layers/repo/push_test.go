package repo

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"

	"github.com/coble-os/coble/layers/blob"
	"github.com/coble-os/coble/layers/distribution"
	"github.com/coble-os/coble/layers/driver/drivertest"
	"github.com/coble-os/coble/layers/image"
	"github.com/coble-os/coble/layers/registry"
	"github.com/coble-os/coble/layers/registry/registrytest"
	"github.com/coble-os/coble/layers/registry/server"
)

func pushTo(r *Repo, n image.Name, told *[]distribution.Event) (distribution.Pushed, error) {
	s, err := registrytest.Client().Open(ctx, registry.Split(n.Repo), registry.Credentials{}, true)
	if err != nil {
		return distribution.Pushed{}, err
	}
	return r.Distribution().Push(ctx, s, n, func(e distribution.Event) {
		if told != nil {
			*told = append(*told, e)
		}
	})
}

// loadAs loads an image and names it for a registry.
func loadAs(t testing.TB, r *Repo, m made, n image.Name) {
	t.Helper()
	require.NoError(t, r.Tag(loadMade(t, r, m).String(), n.String()))
}

func statuses(told []distribution.Event) map[string]int {
	out := map[string]int{}
	for _, e := range told {
		if e.Current == 0 {
			out[e.Status]++
		}
	}
	return out
}

// The same image is the same bytes in every registry, from every machine.
func TestPushIsReproducible(t *testing.T) {
	m := simple(t, "pushed", "x:1")
	var first distribution.Pushed
	for range 2 {
		r, reg := newRepo(t), registrytest.New(t, server.Access{}, nil)
		n := image.Name{Repo: reg.Host() + "/a", Tag: "1"}
		loadAs(t, r, m, n)
		var told []distribution.Event
		got, err := pushTo(r, n, &told)
		require.NoError(t, err)
		require.Equal(t, map[string]int{"Preparing": 2, "Pushed": 2}, statuses(told))
		if first.Size != 0 {
			require.Equal(t, first, got)
		}
		first = got
		img, err := r.Get(n.String())
		require.NoError(t, err)
		require.Equal(t, []string{n.Repo + "@" + got.Digest.String()}, img.RepoDigests)

		other := newRepo(t)
		pulled, err := pullFrom(ctx, other, n, nil)
		require.NoError(t, err)
		require.Equal(t, distribution.Pulled{ID: m.id(t), Digest: got.Digest, Changed: true}, pulled)
		for i, c := range m.chains(t) {
			raw, err := readLayer(other, c)
			require.NoError(t, err)
			require.True(t, bytes.Equal(m.layers[i], raw))
		}
	}
}

func TestPushSendsWhatIsMissing(t *testing.T) {
	r, reg := newRepo(t), registrytest.New(t, server.Access{}, nil)
	m := simple(t, "again")
	n := image.Name{Repo: reg.Host() + "/a", Tag: "1"}
	loadAs(t, r, m, n)
	_, err := pushTo(r, n, nil)
	require.NoError(t, err)

	reg.Mend()
	n.Tag = "2"
	require.NoError(t, r.Tag(m.id(t).String(), n.String()))
	var told []distribution.Event
	_, err = pushTo(r, n, &told)
	require.NoError(t, err)
	require.Equal(t, map[string]int{"Preparing": 2, "Layer already exists": 2}, statuses(told))
	require.Empty(t, reg.Requests("PATCH"), "nothing is sent")

	n.Repo = reg.Host() + "/b"
	require.NoError(t, r.Tag(m.id(t).String(), n.String()))
	told = nil
	_, err = pushTo(r, n, &told)
	require.NoError(t, err)
	require.Equal(t, map[string]int{"Preparing": 2, "Mounted from a": 2}, statuses(told))
	require.Len(t, reg.Requests("PATCH /v2/b/"), 1, "the configuration alone")
}

// A manifest that an image came with is sent again, where its blobs are.
func TestPushKeepsTheManifest(t *testing.T) {
	r := newRepo(t)
	reg, n, mf := offered(t, blob.Zstd, simple(t, "kept"))
	_, err := pullFrom(ctx, r, n, nil)
	require.NoError(t, err)
	to := image.Name{Repo: reg.Host() + "/other", Tag: "2"}
	require.NoError(t, r.Tag(n.String(), to.String()))
	got, err := pushTo(r, to, nil)
	require.NoError(t, err)
	require.Equal(t, mf.Digest, got.Digest)

	elsewhere := registrytest.New(t, server.Access{}, nil)
	to.Repo = elsewhere.Host() + "/other"
	require.NoError(t, r.Tag(n.String(), to.String()))
	got, err = pushTo(r, to, nil)
	require.NoError(t, err)
	require.NotEqual(t, mf.Digest, got.Digest, "zstd is not what layers are packed with")
}

func TestPushTriesAgain(t *testing.T) {
	r, reg := newRepo(t), registrytest.New(t, server.Access{}, nil)
	m := big(t, "again", 2<<20)
	n := image.Name{Repo: reg.Host() + "/a", Tag: "1"}
	loadAs(t, r, m, n)
	reg.Spoil("PATCH", 1, func(w http.ResponseWriter, q *http.Request, _ http.Handler) {
		io.CopyN(io.Discard, q.Body, 1<<20)
		panic(http.ErrAbortHandler)
	})
	reg.Spoil("PATCH", 1, registrytest.Status(http.StatusServiceUnavailable))
	_, err := pushTo(r, n, nil)
	require.NoError(t, err)
	_, err = pullFrom(ctx, newRepo(t), n, nil)
	require.NoError(t, err)
}

func TestPushRefused(t *testing.T) {
	r, reg := newRepo(t), registrytest.New(t, server.Access{ReadOnly: true}, nil)
	n := image.Name{Repo: reg.Host() + "/a", Tag: "1"}
	loadAs(t, r, simple(t, "x"), n)
	_, err := pushTo(r, n, nil)
	require.ErrorContains(t, err, "read-only")
	n.Tag = "never"
	_, err = pushTo(r, n, nil)
	require.ErrorIs(t, err, image.ErrNotFound)
}

// A damaged layer is never sent as if it were whole.
func TestPushOfDamage(t *testing.T) {
	r, reg := newRepo(t), registrytest.New(t, server.Access{}, nil)
	n := image.Name{Repo: reg.Host() + "/a", Tag: "1"}
	m := simple(t, "x")
	loadAs(t, r, m, n)
	found, err := filepath.Glob(filepath.Join(r.o.Root, r.drv.Name(), "*", "*", "bin", "sh"))
	require.NoError(t, err)
	require.NotEmpty(t, found)
	require.NoError(t, os.WriteFile(found[0], []byte("SHELL"), 0o644))
	_, err = pushTo(r, n, nil)
	require.ErrorIs(t, err, image.ErrDamaged)
	require.Empty(t, reg.Requests("PUT /v2/a/manifests"))
}

// A server shows the images of the machine, and they come back as they were.
func TestOffer(t *testing.T) {
	r := newRepo(t)
	m := simple(t, "offered", "thing:1", "ghcr.io/some/where:2", "10.0.0.1:5000/x:3")
	loadMade(t, r, m)
	reg := registrytest.New(t, server.Access{}, r.Distribution().Offer())
	var cat struct{ Repositories []string }
	getJSONFrom(t, reg.URL+"/v2/_catalog", &cat)
	require.Equal(t, []string{"10.0.0.1_5000/x", "ghcr.io/some/where", "library/thing"}, cat.Repositories)
	var tags struct{ Tags []string }
	getJSONFrom(t, reg.URL+"/v2/library/thing/tags/list", &tags)
	require.Equal(t, []string{"1"}, tags.Tags)

	var digests []digest.Digest
	for range 2 {
		other := newRepo(t)
		n := image.Name{Repo: reg.Host() + "/library/thing", Tag: "1"}
		got, err := pullFrom(ctx, other, n, nil)
		require.NoError(t, err)
		require.Equal(t, m.id(t), got.ID)
		digests = append(digests, got.Digest)
		n.Tag, n.Digest = "", got.Digest
		_, err = pullFrom(ctx, other, n, nil)
		require.NoError(t, err)
	}
	require.Equal(t, digests[0], digests[1])
	for _, other := range []string{"library/other/manifests/1", "library/thing/manifests/2", "library/other/blobs/" + m.id(t).String()} {
		resp, err := http.Get(reg.URL + "/v2/" + other)
		require.NoError(t, err)
		resp.Body.Close()
		require.Equal(t, http.StatusNotFound, resp.StatusCode, other)
	}
}

// Parts of a blob that is made while it is read are those of the whole.
func TestOfferRanges(t *testing.T) {
	r := newRepo(t)
	m := big(t, "ranges", 400_000)
	m.tags = []string{"thing:1"}
	loadMade(t, r, m)
	reg := registrytest.New(t, server.Access{}, r.Distribution().Offer())
	mf, err := reg.Open(t, "library/thing").Manifest(ctx, "1")
	require.NoError(t, err)
	parsed, err := image.ParseManifest(mf.Raw)
	require.NoError(t, err)
	at := reg.URL + "/v2/library/thing/blobs/" + parsed.Layers[0].Digest.String()
	whole, status := get(t, at, "")
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, parsed.Layers[0].Digest, digest.FromBytes(whole))
	for header, want := range map[string][]byte{
		"bytes=1000-1999": whole[1000:2000], "bytes=399000-": whole[399000:], "bytes=-10": whole[len(whole)-10:], "bytes=0-0": whole[:1],
	} {
		part, status := get(t, at, header)
		require.Equal(t, http.StatusPartialContent, status)
		require.True(t, bytes.Equal(want, part), header)
	}
}

func get(t testing.TB, url, ranges string) ([]byte, int) {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	require.NoError(t, err)
	if ranges != "" {
		req.Header.Set("Range", ranges)
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return raw, resp.StatusCode
}

func getJSONFrom(t testing.TB, url string, v any) {
	t.Helper()
	raw, status := get(t, url, "")
	require.Equal(t, http.StatusOK, status, string(raw))
	require.NoError(t, json.Unmarshal(raw, v))
}

// What is remembered of blobs goes with the layers.
func TestKnownBlobsAreForgotten(t *testing.T) {
	drivertest.NeedRoot(t)
	w := where{dir: t.TempDir()}
	r, db := w.open(t)
	m := simple(t, "x")
	_, n, _ := offered(t, blob.Gzip, m)
	_, err := pullFrom(ctx, r, n, nil)
	require.NoError(t, err)
	known, err := r.blobs.Blobs(digest.FromBytes(m.layers[0]))
	require.NoError(t, err)
	require.Len(t, known, 1)
	_, err = r.Remove(n.String(), false)
	require.NoError(t, err)
	require.NoError(t, db.Close())
	r, _ = w.open(t)
	known, err = r.blobs.Blobs(digest.FromBytes(m.layers[0]))
	require.NoError(t, err)
	require.Empty(t, known)
	mf, err := r.blobs.Manifest(m.id(t))
	require.NoError(t, err)
	require.Empty(t, mf)
}

// With Debian's registry and skopeo: what they write is read, and the reverse.
func TestForeignRegistry(t *testing.T) {
	drivertest.NeedRoot(t)
	for _, p := range []string{"docker-registry", "skopeo"} {
		_, err := exec.LookPath(p)
		require.NoError(t, err, "install it: make deps")
	}
	host := startRegistry(t)
	r := newRepo(t)
	m := simple(t, "foreign", "x:1")
	n := image.Name{Repo: host + "/some/thing", Tag: "1"}
	loadAs(t, r, m, n)
	pushed, err := pushTo(r, n, nil)
	require.NoError(t, err)
	var seen struct{ Digest string }
	out := skopeo(t, "inspect", "--tls-verify=false", "docker://"+n.String())
	require.NoError(t, json.Unmarshal(out, &seen))
	require.Equal(t, pushed.Digest.String(), seen.Digest)

	for _, format := range []string{"oci", "v2s2"} {
		to := image.Name{Repo: host + "/copy", Tag: format}
		skopeo(t, "copy", "--format", format, "--src-tls-verify=false", "--dest-tls-verify=false", "docker://"+n.String(), "docker://"+to.String())
		other := newRepo(t)
		_, err := pullFrom(ctx, other, to, nil)
		require.NoError(t, err)
		for i, c := range m.chains(t) {
			raw, err := readLayer(other, c)
			require.NoError(t, err)
			require.True(t, bytes.Equal(m.layers[i], raw))
		}
	}

	reg := registrytest.New(t, server.Access{}, r.Distribution().Offer())
	dir := t.TempDir()
	skopeo(t, "copy", "--src-tls-verify=false", "docker://"+reg.Host()+"/library/x:1", "oci:"+dir+":x:1")
	l, err := newRepo(t).LoadPath(ctx, dir, "", nil)
	require.NoError(t, err)
	require.Len(t, l, 1)
	skopeo(t, "copy", "--dest-tls-verify=false", "oci:"+dir+":x:1", "docker://"+reg.Host()+"/from/skopeo:1")
	_, err = pullFrom(ctx, newRepo(t), image.Name{Repo: reg.Host() + "/from/skopeo", Tag: "1"}, nil)
	require.NoError(t, err)
}

func skopeo(t testing.TB, args ...string) []byte {
	t.Helper()
	var errs bytes.Buffer
	c := exec.Command("skopeo", append([]string{"--insecure-policy"}, args...)...)
	c.Stderr = &errs
	out, err := c.Output()
	require.NoError(t, err, errs.String())
	return out
}

// startRegistry runs Debian's docker-registry until the test ends.
func startRegistry(t testing.TB) (host string) {
	t.Helper()
	dir := t.TempDir()
	conf := "version: 0.1\nlog: {level: info}\nstorage: {filesystem: {rootdirectory: " + dir + "/data}, delete: {enabled: true}}\nhttp: {addr: \"127.0.0.1:0\"}\n"
	require.NoError(t, os.WriteFile(dir+"/conf.yml", []byte(conf), 0o644))
	c := exec.Command("docker-registry", "serve", dir+"/conf.yml")
	log, err := c.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, c.Start())
	t.Cleanup(func() {
		c.Process.Kill()
		c.Wait()
	})
	found := make(chan string, 1)
	go func() {
		buf, all := make([]byte, 4096), ""
		for {
			n, err := log.Read(buf)
			if all += string(buf[:n]); strings.Contains(all, "listening on ") {
				_, rest, _ := strings.Cut(all, "listening on ")
				if at := strings.IndexAny(rest, "\" \n,"); at > 0 {
					select {
					case found <- rest[:at]:
					default:
					}
					all = ""
				}
			}
			if err != nil {
				return
			}
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, 20e9)
	defer cancel()
	select {
	case host = <-found:
		return host
	case <-ctx.Done():
		t.Fatal("docker-registry does not listen")
		return ""
	}
}
