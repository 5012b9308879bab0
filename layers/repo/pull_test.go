package repo

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/layers/blob"
	"github.com/coble-os/coble/layers/catalog"
	"github.com/coble-os/coble/layers/distribution"
	"github.com/coble-os/coble/layers/driver/drivertest"
	"github.com/coble-os/coble/layers/graph"
	"github.com/coble-os/coble/layers/image"
	"github.com/coble-os/coble/layers/registry"
	"github.com/coble-os/coble/layers/registry/registrytest"
	"github.com/coble-os/coble/layers/registry/server"
)

var amd64 = image.Platform{OS: "linux", Architecture: "amd64"}

func packedLayers(t testing.TB, c blob.Compression, m made) [][]byte {
	t.Helper()
	var out [][]byte
	for _, l := range m.layers {
		out = append(out, pack(t, c, l))
	}
	return out
}

// offered is a registry with one image, and its name there.
func offered(t testing.TB, c blob.Compression, m made) (*registrytest.Registry, image.Name, registry.Manifest) {
	t.Helper()
	reg := registrytest.New(t, server.Access{}, nil)
	mf := reg.Put(t, "some/thing", "1", ocispec.MediaTypeImageLayerGzip, m.config(t), packedLayers(t, c, m)...)
	return reg, image.Name{Repo: reg.Host() + "/some/thing", Tag: "1"}, mf
}

func pullFrom(ctx context.Context, r *Repo, n image.Name, told *[]distribution.Event) (distribution.Pulled, error) {
	s, err := registrytest.Client().Open(ctx, registry.Split(n.Repo), registry.Credentials{}, false)
	if err != nil {
		return distribution.Pulled{}, err
	}
	return r.Distribution().Pull(ctx, s, distribution.PullOptions{Name: n, Platform: amd64, Tell: func(e distribution.Event) {
		if told != nil {
			*told = append(*told, e)
		}
	}})
}

// big is an image whose layers are large enough to go through files.
func big(t testing.TB, label string, sizes ...int) made {
	t.Helper()
	m := made{label: label}
	for i, n := range sizes {
		body := make([]byte, n)
		rand.Read(body)
		m.layers = append(m.layers, drivertest.Layer(t, drivertest.Entry{Name: fmt.Sprint("f", i), Body: string(body)}))
	}
	return m
}

func TestPull(t *testing.T) {
	for _, c := range []blob.Compression{blob.Plain, blob.Gzip, blob.Zstd} {
		t.Run(string(c), func(t *testing.T) {
			m := simple(t, "pulled")
			r := newRepo(t)
			_, n, mf := offered(t, c, m)
			var told []distribution.Event
			got, err := pullFrom(ctx, r, n, &told)
			require.NoError(t, err)
			require.Equal(t, distribution.Pulled{ID: m.id(t), Digest: mf.Digest, Changed: true}, got)
			img, err := r.Get(n.String())
			require.NoError(t, err)
			require.Equal(t, []string{n.Familiar()}, img.RepoTags)
			require.Equal(t, []string{n.Repo + "@" + mf.Digest.String()}, img.RepoDigests)
			require.Equal(t, []string{"bin/", "bin/sh:shell", "label:pulled"}, shown(t, r, m.id(t)))
			first := short(digest.FromBytes(pack(t, c, m.layers[0])))
			var of []string
			for _, e := range told {
				if e.ID == first && e.Total == 0 && e.Status != "Waiting" {
					of = append(of, e.Status)
				}
			}
			require.Equal(t, []string{"Pulling fs layer", "Download complete", "Pull complete"}, of)
			require.Equal(t, distribution.Event{ID: "1", Status: "Pulling from some/thing"}, told[0])

			told = nil
			got, err = pullFrom(ctx, r, n, &told)
			require.NoError(t, err)
			require.False(t, got.Changed)
			require.Contains(t, told, distribution.Event{ID: first, Status: "Already exists"})

			_, err = r.Remove(n.String(), false)
			require.NoError(t, err)
			empty(t, r)
			require.Empty(t, drivertest.Tree(r.downloads.Dir()))
		})
	}
}

func TestPullByDigest(t *testing.T) {
	m := simple(t, "x")
	r := newRepo(t)
	_, n, mf := offered(t, blob.Gzip, m)
	n.Tag, n.Digest = "", mf.Digest
	_, err := pullFrom(ctx, r, n, nil)
	require.NoError(t, err)
	img, err := r.Get(n.String())
	require.NoError(t, err)
	require.Empty(t, img.RepoTags)
	n.Digest = digest.FromString("other")
	_, err = pullFrom(ctx, r, n, nil)
	require.ErrorIs(t, err, registry.ErrNotFound)
	require.ErrorContains(t, err, "manifest unknown")
}

func TestPullChoosesThePlatform(t *testing.T) {
	r := newRepo(t)
	reg := registrytest.New(t, server.Access{}, nil)
	list := map[string]registry.Manifest{}
	for _, p := range []string{"linux/amd64", "linux/arm/v6", "linux/arm/v7"} {
		m := simple(t, p)
		list[p] = reg.Put(t, "multi", "x", ocispec.MediaTypeImageLayer, m.config(t), m.layers...)
	}
	x := reg.PutJSON(t, "multi", "1", ocispec.MediaTypeImageIndex, registrytest.Index(list))
	n := image.Name{Repo: reg.Host() + "/multi", Tag: "1"}
	for want, p := range map[string]image.Platform{"linux/amd64": amd64, "linux/arm/v7": {OS: "linux", Architecture: "arm", Variant: "v8"}, "linux/arm/v6": {OS: "linux", Architecture: "arm", Variant: "v6"}} {
		s, err := registrytest.Client().Open(ctx, registry.Split(n.Repo), registry.Credentials{}, false)
		require.NoError(t, err)
		got, err := r.Distribution().Pull(ctx, s, distribution.PullOptions{Name: n, Platform: p})
		require.NoError(t, err)
		require.Equal(t, simple(t, want).id(t), got.ID, p)
		require.Equal(t, x.Digest, got.Digest)
	}
	s := reg.Open(t, "multi")
	_, err := r.Distribution().Pull(ctx, s, distribution.PullOptions{Name: n, Platform: image.Platform{OS: "linux", Architecture: "s390x"}})
	require.ErrorIs(t, err, image.ErrPlatform)
	n.Tag = "x" // one image, for amd64 as its configuration says
	_, err = r.Distribution().Pull(ctx, s, distribution.PullOptions{Name: n, Platform: image.Platform{OS: "linux", Architecture: "s390x"}, Asked: true})
	require.ErrorIs(t, err, image.ErrPlatform)
}

// What a registry may do wrong leaves an error that says what, and nothing
// else.
func TestPullRefuses(t *testing.T) {
	m := simple(t, "x")
	layer := pack(t, blob.Gzip, m.layers[0])
	at := "blobs/" + digest.FromBytes(layer).String()
	for _, c := range []struct {
		name  string
		spoil func(*registrytest.Registry)
		want  string
	}{
		{"another layer", func(r *registrytest.Registry) {
			r.Spoil(at, -1, registrytest.Body("x", bytes.Repeat([]byte("x"), len(layer))))
		}, "does not match its digest"},
		{"a longer layer", func(r *registrytest.Registry) {
			r.Spoil(at, -1, registrytest.Body("x", append(bytes.Clone(layer), 1)))
		}, "does not match its size"},
		{"a layer without an end", func(r *registrytest.Registry) {
			r.Spoil(at, -1, func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
				for _, err := w.Write(layer); err == nil; {
					_, err = w.Write(layer)
				}
			})
		}, "does not match its size"},
		{"a shorter layer", func(r *registrytest.Registry) {
			r.Spoil(at, -1, registrytest.Body("x", layer[:len(layer)-1]))
		}, "does not match its size"},
		{"another configuration", func(r *registrytest.Registry) {
			r.Spoil("blobs/"+m.id(t).String(), -1, registrytest.Body("x", bytes.Repeat([]byte("{"), len(m.config(t)))))
		}, "configuration"},
		{"schema 1", func(r *registrytest.Registry) {
			r.Spoil("manifests/1", -1, registrytest.Body("application/vnd.docker.distribution.manifest.v1+prettyjws", []byte(`{"schemaVersion":1,"fsLayers":[]}`)))
		}, "schema 1"},
		{"a manifest without an end", func(r *registrytest.Registry) {
			r.Spoil("manifests/1", -1, func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
				for _, err := w.Write(layer); err == nil; {
					_, err = w.Write(layer)
				}
			})
		}, "too large"},
		{"a wrong digest in the header", func(r *registrytest.Registry) {
			r.Spoil("manifests/1", -1, func(w http.ResponseWriter, q *http.Request, next http.Handler) {
				next.ServeHTTP(liar{w}, q)
			})
		}, "does not match its digest"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRepo(t)
			reg, n, _ := offered(t, blob.Gzip, m)
			c.spoil(reg)
			_, err := pullFrom(ctx, r, n, nil)
			require.ErrorContains(t, err, c.want)
			require.Empty(t, drivertest.Tree(r.downloads.Dir()))
			require.NoError(t, r.dropLeases(0))
			_, err = r.collect()
			require.NoError(t, err)
			empty(t, r)
			reg.Mend()
			_, err = pullFrom(ctx, r, n, nil)
			require.NoError(t, err)
		})
	}
}

type liar struct{ http.ResponseWriter }

func (l liar) WriteHeader(code int) {
	l.Header().Set("Docker-Content-Digest", digest.FromString("a lie").String())
	l.ResponseWriter.WriteHeader(code)
}

func TestPullRefusesManifests(t *testing.T) {
	m := simple(t, "x")
	good := func(reg *registrytest.Registry) ocispec.Manifest {
		var out ocispec.Manifest
		require.NoError(t, json.Unmarshal(reg.Put(t, "bad", "good", ocispec.MediaTypeImageLayer, m.config(t), m.layers...).Raw, &out))
		return out
	}
	for name, c := range map[string]struct {
		change func(*ocispec.Manifest)
		want   string
	}{
		"foreign layers": {func(m *ocispec.Manifest) {
			m.Layers[0].MediaType = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
		}, "a foreign layer"},
		"their OCI form": {func(m *ocispec.Manifest) {
			m.Layers[0].MediaType = "application/vnd.oci.image.layer.nondistributable.v1.tar"
		}, "a foreign layer"},
		"no image":          {func(m *ocispec.Manifest) { m.Layers[0].MediaType = "application/vnd.cncf.helm.chart" }, "no layer of an image"},
		"too few layers":    {func(m *ocispec.Manifest) { m.Layers = m.Layers[:1] }, "manifest has 1 layers"},
		"layers turned":     {func(m *ocispec.Manifest) { m.Layers[0], m.Layers[1] = m.Layers[1], m.Layers[0] }, "does not match its digest"},
		"a size below zero": {func(m *ocispec.Manifest) { m.Layers[0].Size = -1 }, "size of -1"},
		"a huge layer":      {func(m *ocispec.Manifest) { m.Layers[1].Size = 1 << 60 }, "no space left"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRepo(t)
			reg := registrytest.New(t, server.Access{}, nil)
			mf := good(reg)
			c.change(&mf)
			raw, err := json.Marshal(mf)
			require.NoError(t, err)
			reg.Spoil("manifests/1", -1, registrytest.Body(mf.MediaType, raw))
			_, err = pullFrom(ctx, r, image.Name{Repo: reg.Host() + "/bad", Tag: "1"}, nil)
			require.ErrorContains(t, err, c.want)
			if name == "a huge layer" {
				require.Empty(t, reg.Requests("GET /v2/bad/blobs/"+digest.FromBytes(m.layers[0]).String()), "nothing is fetched of what cannot fit")
			}
		})
	}
}

// A connection that breaks again and again costs no byte twice.
func TestPullGoesOnByRange(t *testing.T) {
	m := big(t, "broken", 3<<20)
	r := newRepo(t)
	reg, n, _ := offered(t, blob.Plain, m)
	at := "GET /v2/some/thing/blobs/" + digest.FromBytes(m.layers[0]).String()
	reg.Spoil(at, 3, registrytest.Cut(700_000))
	_, err := pullFrom(ctx, r, n, nil)
	require.NoError(t, err)
	var ranges []string
	for _, q := range reg.Requests(at) {
		ranges = append(ranges, q.Range)
	}
	require.Len(t, ranges, 4)
	require.Equal(t, []string{"", "bytes=700000-", "bytes=1400000-", "bytes=2100000-"}, ranges)
}

func TestPullFromServersWithoutRanges(t *testing.T) {
	m := big(t, "broken", 2<<20)
	r := newRepo(t)
	reg, n, _ := offered(t, blob.Plain, m)
	at := "GET /v2/some/thing/blobs/" + digest.FromBytes(m.layers[0]).String()
	reg.Spoil(at, 1, registrytest.Cut(700_000))
	reg.Spoil(at, -1, registrytest.Whole)
	_, err := pullFrom(ctx, r, n, nil)
	require.NoError(t, err)
}

// A pull that was cut off goes on in another process where it stopped: with
// the layers that are missing, and of a large one with the bytes that are.
func TestPullGoesOnAfterARestart(t *testing.T) {
	drivertest.NeedRoot(t)
	m := big(t, "cut", 1<<20, 4<<20)
	w := where{dir: t.TempDir()}
	r, db := w.open(t)
	reg, n, _ := offered(t, blob.Plain, m)
	path := func(i int) string {
		return "GET /v2/some/thing/blobs/" + digest.FromBytes(m.layers[i]).String()
	}
	short, stop := context.WithCancel(ctx)
	reg.Spoil(path(1), 1, func(w http.ResponseWriter, q *http.Request, next http.Handler) {
		defer func() {
			waitFor(t, func() bool {
				ok, _ := r.haveLayer(catalog.LayerPrefix + m.chains(t)[0].String())
				st, err := os.Stat(filepath.Join(r.downloads.Dir(), digest.FromBytes(m.layers[1]).Encoded()))
				return ok && err == nil && st.Size() == 3<<20
			})
			stop()
		}()
		registrytest.Cut(3<<20)(w, q, next)
	})
	reg.Spoil(path(1), -1, func(_ http.ResponseWriter, q *http.Request, _ http.Handler) { <-q.Context().Done() })
	_, err := pullFrom(short, r, n, nil)
	require.ErrorIs(t, err, context.Canceled)
	require.NoError(t, db.Close())

	r, _ = w.open(t)
	reg.Mend()
	var told []distribution.Event
	_, err = pullFrom(ctx, r, n, &told)
	require.NoError(t, err)
	require.Empty(t, reg.Requests(path(0)), "the first layer is here")
	again := reg.Requests(path(1))
	require.Len(t, again, 1)
	var from int
	_, err = fmt.Sscanf(again[0].Range, "bytes=%d-", &from)
	require.NoError(t, err, "it asks for a range")
	require.Equal(t, 3<<20, from)
	require.Len(t, shown(t, r, m.id(t)), 2)
	require.Empty(t, drivertest.Tree(r.downloads.Dir()), "nothing is left of the download")
	_, err = r.Remove(n.String(), false)
	require.NoError(t, err)
	empty(t, r)
}

func waitFor(t testing.TB, ok func() bool) {
	t.Helper()
	for range 2000 {
		if ok() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Error("it did not come to pass")
}

// What a power cut spoiled of a download is thrown away, not believed.
func TestPullDistrustsWhatIsLeft(t *testing.T) {
	m := big(t, "spoiled", 2<<20)
	for name, left := range map[string][]byte{
		"zeros": make([]byte, 1<<20), "too long": make([]byte, 9<<20), "all, but wrong": make([]byte, len(m.layers[0])), "nothing": {},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRepo(t)
			_, n, _ := offered(t, blob.Plain, m)
			require.NoError(t, os.WriteFile(filepath.Join(r.downloads.Dir(), digest.FromBytes(m.layers[0]).Encoded()), left, 0o600))
			_, err := pullFrom(ctx, r, n, nil)
			require.NoError(t, err)
			require.Len(t, shown(t, r, m.id(t)), 1)
			require.Empty(t, drivertest.Tree(r.downloads.Dir()))
		})
	}
}

// A kill between a layer's end and its blob's leaves a file; the next pull
// that finds the layer takes it away.
func TestPullForgetsWhatIsUnpacked(t *testing.T) {
	m := big(t, "unpacked", 2<<20)
	r := newRepo(t)
	_, n, _ := offered(t, blob.Plain, m)
	_, err := pullFrom(ctx, r, n, nil)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(r.downloads.Dir(), digest.FromBytes(m.layers[0]).Encoded()), m.layers[0], 0o600))
	_, err = pullFrom(ctx, r, n, nil)
	require.NoError(t, err)
	require.Empty(t, drivertest.Tree(r.downloads.Dir()))
}

func TestOldDownloadsAreSwept(t *testing.T) {
	drivertest.NeedRoot(t)
	w := where{dir: t.TempDir()}
	r, db := w.open(t)
	keep, gone := filepath.Join(r.downloads.Dir(), strings.Repeat("a", 64)), filepath.Join(r.downloads.Dir(), strings.Repeat("b", 64))
	for _, p := range []string{keep, gone} {
		require.NoError(t, os.WriteFile(p, []byte("x"), 0o600))
	}
	old := time.Now().Add(-leftAge - time.Hour)
	require.NoError(t, os.Chtimes(gone, old, old))
	require.NoError(t, db.Close())
	w.open(t)
	require.FileExists(t, keep)
	require.NoFileExists(t, gone)
}

// Pulls of the same image at once ask for each blob once.
func TestPullsShareTheWork(t *testing.T) {
	m := big(t, "shared", 1<<20, 1<<20, 1<<20, 1<<20)
	r := newRepo(t)
	reg, n, _ := offered(t, blob.Plain, m)
	reg.Spoil("GET /v2/some/thing/blobs/", -1, func(w http.ResponseWriter, q *http.Request, next http.Handler) {
		time.Sleep(50 * time.Millisecond)
		next.ServeHTTP(w, q)
	})
	var all sync.WaitGroup
	errs := make([]error, 4)
	for i := range errs {
		all.Go(func() { _, errs[i] = pullFrom(ctx, r, n, nil) })
	}
	all.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
	for i, l := range m.layers {
		require.Len(t, reg.Requests("GET /v2/some/thing/blobs/"+digest.FromBytes(l).String()), 1, "layer %d", i)
	}
}

// The one who began a download may leave; the other still gets it.
func TestPullOutlivesTheFirst(t *testing.T) {
	m := big(t, "left", 2<<20)
	r := newRepo(t)
	reg, n, _ := offered(t, blob.Plain, m)
	at := "GET /v2/some/thing/blobs/" + digest.FromBytes(m.layers[0]).String()
	held := make(chan struct{})
	reg.Spoil(at, 1, func(w http.ResponseWriter, q *http.Request, next http.Handler) {
		<-held
		next.ServeHTTP(w, q)
	})
	first, stop := context.WithCancel(ctx)
	ended := make(chan error, 2)
	go func() { _, err := pullFrom(first, r, n, nil); ended <- err }()
	waitFor(t, func() bool { return len(reg.Requests(at)) == 1 })
	go func() { _, err := pullFrom(ctx, r, n, nil); ended <- err }()
	waitFor(t, func() bool { return r.downloads.Users(digest.FromBytes(m.layers[0])) == 2 })
	stop()
	require.ErrorIs(t, <-ended, context.Canceled)
	close(held)
	require.NoError(t, <-ended)
	require.Len(t, reg.Requests(at), 1)
}

func TestPullWaitsAsItIsTold(t *testing.T) {
	m := simple(t, "x")
	r := newRepo(t)
	reg, n, _ := offered(t, blob.Gzip, m)
	reg.Spoil("GET /v2/some/thing/manifests/", 1, registrytest.Status(http.StatusTooManyRequests, "Retry-After", "1"))
	reg.Spoil("GET /v2/some/thing/blobs/", 2, registrytest.Status(http.StatusBadGateway))
	begun := time.Now()
	_, err := pullFrom(ctx, r, n, nil)
	require.NoError(t, err)
	require.GreaterOrEqual(t, time.Since(begun), time.Second)
	require.Len(t, reg.Requests("GET /v2/some/thing/manifests/"), 2)
}

// Blobs may come from elsewhere.
func TestPullFollowsRedirections(t *testing.T) {
	m := simple(t, "x")
	r := newRepo(t)
	reg, n, _ := offered(t, blob.Gzip, m)
	other := registrytest.New(t, server.Access{}, nil)
	other.Put(t, "some/thing", "1", ocispec.MediaTypeImageLayerGzip, m.config(t), packedLayers(t, blob.Gzip, m)...)
	reg.Spoil("GET /v2/some/thing/blobs/", -1, func(w http.ResponseWriter, q *http.Request, _ http.Handler) {
		http.Redirect(w, q, other.URL+q.URL.Path, http.StatusTemporaryRedirect)
	})
	other.Mend()
	_, err := pullFrom(ctx, r, n, nil)
	require.NoError(t, err)
	require.Len(t, other.Requests("GET /v2/some/thing/blobs/"), 3)
}

func TestLeaseKeepsFinishedLayers(t *testing.T) {
	drivertest.NeedRoot(t)
	m := simple(t, "leased")
	w := where{dir: t.TempDir()}
	r, db := w.open(t)
	reg, n, _ := offered(t, blob.Gzip, m)
	reg.Spoil("blobs/"+digest.FromBytes(pack(t, blob.Gzip, m.layers[1])).String(), -1, registrytest.Status(http.StatusForbidden))
	_, err := pullFrom(ctx, r, n, nil)
	require.ErrorIs(t, err, registry.ErrUnauthorized)
	require.NoError(t, db.Close())
	r, _ = w.open(t)
	have, err := r.haveLayer(catalog.LayerPrefix + m.chains(t)[0].String())
	require.NoError(t, err)
	require.True(t, have)
	require.NoError(t, r.view(func(g graph.Graph) error { require.Len(t, g.Names(leasePrefix), 1); return nil }))
	reg.Mend()
	_, err = pullFrom(ctx, r, n, nil)
	require.NoError(t, err)
	require.NoError(t, r.view(func(g graph.Graph) error { require.Empty(t, g.Names(leasePrefix)); return nil }))
}

// What a pull has left goes when that is asked for, and not before; of one that
// is under way, nothing.
func TestForgetPulls(t *testing.T) {
	drivertest.NeedRoot(t)
	m := big(t, "leased", 40_000, 20<<20)
	w := where{dir: t.TempDir()}
	r, db := w.open(t)
	reg, n, _ := offered(t, blob.Gzip, m)
	first := catalog.LayerPrefix + m.chains(t)[0].String()
	holds := func(want bool) {
		t.Helper()
		have, err := r.haveLayer(first)
		require.NoError(t, err)
		require.Equal(t, want, have)
		require.NoError(t, r.view(func(g graph.Graph) error {
			require.Equal(t, want, len(g.Names(leasePrefix)) == 1)
			return nil
		}))
	}
	parts := func() int {
		es, err := os.ReadDir(filepath.Join(w.dir, "r", "partial"))
		require.NoError(t, err)
		return len(es)
	}
	second := digest.FromBytes(pack(t, blob.Gzip, m.layers[1])).String()
	reg.Spoil("blobs/"+second, -1, registrytest.Status(http.StatusForbidden))
	_, err := pullFrom(ctx, r, n, nil)
	require.ErrorIs(t, err, registry.ErrUnauthorized)
	holds(true)
	// The next one's second layer stalls halfway until it is given up.
	reg.Mend()
	reached := make(chan struct{})
	reg.Spoil("blobs/"+second, -1, func(w http.ResponseWriter, q *http.Request, next http.Handler) {
		next.ServeHTTP(&stalling{ResponseWriter: w, left: 10 << 20, reached: reached, end: q.Context().Done()}, q)
	})
	pulling, stop := context.WithCancel(ctx)
	ended := make(chan error)
	go func() { _, err := pullFrom(pulling, r, n, nil); ended <- err }()
	<-reached
	require.NoError(t, r.ForgetPulls(0))
	holds(true)
	stop()
	require.Error(t, <-ended)
	require.Equal(t, 1, parts())
	require.NoError(t, r.ForgetPulls(time.Hour))
	holds(true)
	require.Equal(t, 1, parts())
	require.NoError(t, db.Close())
	r, _ = w.open(t)
	holds(true) // for the next pull to go on with
	require.NoError(t, r.ForgetPulls(0))
	holds(false)
	require.Zero(t, parts())
	empty(t, r)
}

// stalling lets so many bytes through, and then nothing until the end.
type stalling struct {
	http.ResponseWriter
	left    int
	reached chan struct{}
	end     <-chan struct{}
}

func (s *stalling) Write(p []byte) (int, error) {
	if s.left -= len(p); s.left < 0 {
		s.ResponseWriter.(http.Flusher).Flush()
		close(s.reached)
		<-s.end
		panic(http.ErrAbortHandler)
	}
	return s.ResponseWriter.Write(p)
}

// A full disk puts off what can wait, and nothing else.
func TestFullDiskPutsOff(t *testing.T) {
	require.NoError(t, orFull(nil))
	require.NoError(t, orFull(fmt.Errorf("write: %w", unix.ENOSPC)))
	require.NoError(t, orFull(fmt.Errorf("write: %w", unix.EDQUOT)))
	require.ErrorIs(t, orFull(fmt.Errorf("write: %w", unix.EIO)), unix.EIO)
}
