package daemon_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/image"
	"github.com/stretchr/testify/require"
)

// files reads a tar stream: contents by name.
func files(t *testing.T, raw string) map[string]string {
	t.Helper()
	out := map[string]string{}
	for r := tar.NewReader(strings.NewReader(raw)); ; {
		h, err := r.Next()
		if err == io.EOF {
			return out
		}
		require.NoError(t, err)
		b, err := io.ReadAll(r)
		require.NoError(t, err)
		out[h.Name] = string(b)
		if h.Typeflag == tar.TypeSymlink {
			out[h.Name] = "-> " + h.Linkname
		}
	}
}

func tarOf(t *testing.T, names ...string) *bytes.Reader {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; i < len(names); i += 2 {
		h := tar.Header{Name: names[i], Mode: 0o644, Size: int64(len(names[i+1]))}
		if strings.HasSuffix(names[i], "/") {
			h.Mode = 0o755
		}
		require.NoError(t, w.WriteHeader(&h))
		_, err := io.WriteString(w, names[i+1])
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	return bytes.NewReader(b.Bytes())
}

func (m *machine) image(name string) (out image.InspectResponse) {
	m.t.Helper()
	require.NoError(m.t, json.Unmarshal([]byte(m.do("GET", "/images/"+name+"/json", nil)), &out))
	return out
}

func (m *machine) commit(query string) string {
	m.t.Helper()
	var out struct{ Id string }
	require.NoError(m.t, json.Unmarshal([]byte(m.do("POST", "/commit?"+query, nil)), &out))
	return out.Id
}

// A container's changes become an image, which goes out and comes back as the same.
func TestCommitSaveLoad(t *testing.T) {
	m := newMachine(t, "")
	m.loadBox()
	id := m.start("box1", func(r *request) { r.Env = []string{"OLD=1"} }, "sh", "-c", "echo made > /made; rm /etc/plain; sleep 1000")
	m.until("the file", func() bool { return strings.Contains(m.do("GET", "/containers/box1/changes", nil), "/etc/plain") })
	var cs []container.FilesystemChange
	require.NoError(t, json.Unmarshal([]byte(m.do("GET", "/containers/box1/changes", nil)), &cs))
	require.Contains(t, cs, container.FilesystemChange{Path: "/made", Kind: 1})
	require.Contains(t, cs, container.FilesystemChange{Path: "/etc/plain", Kind: 2})
	require.NotContains(t, fmt.Sprint(cs), "/etc/hosts", "what the engine made to mount on")

	made := m.commit("container=box1&repo=made&tag=1&author=Me&comment=Why&" + url.Values{"changes": {`CMD ["cat","/made"]`, "ENV NEW=$OLD", "LABEL l=2"}}.Encode())
	require.True(t, m.inspect(id).State.Running, "it goes on")
	require.False(t, m.inspect(id).State.Paused)
	img := m.image("made:1")
	require.Equal(t, []any{made, "Me", "Why", 2}, []any{img.ID, img.Author, img.Comment, len(img.RootFS.Layers)})
	require.Equal(t, []string{"cat", "/made"}, img.Config.Cmd)
	require.Subset(t, img.Config.Env, []string{"OLD=1", "NEW=1"})
	var hist []image.HistoryResponseItem
	require.NoError(t, json.Unmarshal([]byte(m.do("GET", "/images/made:1/history", nil)), &hist))
	require.Equal(t, []any{made, "Why"}, []any{hist[0].ID, hist[0].Comment})

	saved := m.do("GET", "/images/get?names=made:1&names=box", nil)
	require.Contains(t, files(t, saved), "manifest.json")
	m.do("DELETE", "/containers/box1?force=1", nil)
	m.do("DELETE", "/images/made:1", nil)
	status, text := m.call("GET", "/images/made:1/json", nil)
	require.Equal(t, 404, status, text)
	m.do("POST", "/images/load?quiet=1", strings.NewReader(saved))
	require.Equal(t, made, m.image("made:1").ID)
	run := m.create("again", func(r *request) { r.Image, r.Cmd = "made:1", nil })
	m.do("POST", "/containers/"+run+"/start", nil)
	require.Equal(t, 0, m.wait(run))
	require.Equal(t, "made\n", m.logs(run))

	for query, want := range map[string]int{
		"container=none": 404, "container=again&repo=BAD": 400, "container=again&changes=RUN+x": 400,
	} {
		status, text := m.call("POST", "/commit?"+query, nil)
		require.Equal(t, want, status, text)
	}
	status, _ = m.call("GET", "/images/none/get", nil)
	require.Equal(t, 404, status)

	for platform, want := range map[string]int{
		`{"os":"linux","architecture":"amd64"}`: 200, "linux/amd64": 200, "": 200, `{"os":"linux","architecture":"s390x"}`: 404, "linux/arm/v7": 404, "{": 400, "a/b/c/d": 400,
	} {
		q := url.Values{"platform": {platform}}.Encode()
		status, text := m.call("POST", "/images/load?quiet=1&"+q, strings.NewReader(saved))
		require.Equal(t, want, status, text)
		status, text = m.call("GET", "/images/made:1/get?"+q, nil)
		require.Equal(t, want, status, text[:min(len(text), 200)])
	}
	status, _ = m.call("GET", "/images/made:1/get?platform=linux/amd64&platform=linux/arm64", nil)
	require.Equal(t, 400, status)
}

// A damaged layer ends the stream in the middle: half an archive never looks whole.
func TestSaveOfDamagedImage(t *testing.T) {
	m := newMachine(t, "")
	m.loadBox()
	found, err := filepath.Glob(m.root() + "/overlay/d/*/etc/plain")
	require.NoError(t, err)
	require.Len(t, found, 1)
	require.NoError(t, os.WriteFile(found[0], []byte("something else"), 0o644))
	_, _, err = m.try("GET", "/images/box/get", nil)
	require.Error(t, err)
	m.do("GET", "/_ping", nil)
}

func TestImportExport(t *testing.T) {
	m := newMachine(t, "")
	m.loadBox()
	id := m.start("box1", func(r *request) { r.HostConfig.Binds = []string{t.TempDir() + ":/gate"} }, "sh", "-c", "echo mine > /mine; echo bound > /gate/bound; sleep 1000")
	m.until("the file", func() bool {
		status, _, err := m.try("HEAD", "/containers/box1/archive?path=/gate/bound", nil)
		return err == nil && status == 200
	})
	for range 2 { // running, then stopped
		out := files(t, m.do("GET", "/containers/box1/export", nil))
		require.Equal(t, "mine\n", out["mine"])
		require.Contains(t, out, "bin/busybox")
		require.Contains(t, out, "gate/")
		require.NotContains(t, out, "gate/bound", "what is mounted is not exported")
		m.do("POST", "/containers/box1/stop", nil)
	}
	raw := m.do("GET", "/containers/"+id+"/export", nil)
	m.do("POST", "/images/create?fromSrc=-&repo=flat&tag=1&message=hello&"+url.Values{"changes": {`CMD ["cat","/mine"]`}}.Encode(), strings.NewReader(raw))
	img := m.image("flat:1")
	require.Len(t, img.RootFS.Layers, 1)
	require.Equal(t, "hello", img.Comment)
	run := m.create("flat", func(r *request) { r.Image, r.Cmd = "flat:1", nil })
	m.do("POST", "/containers/"+run+"/start", nil)
	require.Equal(t, 0, m.wait(run))
	require.Equal(t, "mine\n", m.logs(run))
}

// The engine fetches what a URL has, with the limits of what a client sends.
func TestImportURL(t *testing.T) {
	m := newMachine(t, "")
	raw, err := io.ReadAll(tarOf(t, "d/", "", "d/b", "two"))
	require.NoError(t, err)
	mux := http.NewServeMux()
	mux.HandleFunc("/x.tar.gz", func(w http.ResponseWriter, _ *http.Request) {
		z := gzip.NewWriter(w)
		_, _ = z.Write(raw)
		_ = z.Close()
	})
	mux.HandleFunc("/broken", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(len(raw)))
		_, _ = w.Write(raw[:600])
	})
	mux.HandleFunc("/escape", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.Copy(w, tarOf(t, "../a", "one")) })
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	host := s.Listener.Addr().String()
	for i, src := range []string{"http://" + host + "/x.tar.gz", host + "/x.tar.gz"} {
		name := fmt.Sprint("fetched:", i)
		m.do("POST", "/images/create?fromSrc="+src+"&repo=fetched&tag="+strconv.Itoa(i), nil)
		require.Equal(t, "Imported from http://"+host+"/x.tar.gz", m.image(name).Comment)
		require.Len(t, m.image(name).RootFS.Layers, 1)
	}
	for src, want := range map[string]struct {
		status int
		text   string
	}{
		"http://" + host + "/none":   {404, "404 Not Found"},
		"ftp://" + host + "/none":    {400, "want an http or https URL"},
		"http://" + host + "/broken": {500, "unexpected EOF"},
		"http://" + host + "/escape": {400, "../a"},
		"http://127.0.0.1:1/x":       {500, "connection refused"},
	} {
		status, text := m.call("POST", "/images/create?repo=bad&fromSrc="+src, nil)
		require.Equal(t, want.status, status, text)
		require.Contains(t, text, want.text)
		status, _ = m.call("GET", "/images/bad/json", nil)
		require.Equal(t, 404, status)
	}
}

func TestCopy(t *testing.T) {
	m := newMachine(t, "")
	m.loadBox()
	bound := t.TempDir()
	m.create("box1", func(r *request) { r.HostConfig.Binds = []string{bound + ":/gate:ro"} }, "sh", "-c", "ln -s / /tmp/out; ln -s ../etc/plain /tmp/l; ln -s /tmp/l /tmp/ll; sleep 1000")
	for range 2 { // before it runs, and while
		m.do("PUT", "/containers/box1/archive?path=/tmp", tarOf(t, "a", "one", "d/", "", "d/b", "two"))
		require.Equal(t, map[string]string{"a": "one"}, files(t, m.do("GET", "/containers/box1/archive?path=/tmp/a", nil)))
		require.Equal(t, map[string]string{"d/": "", "d/b": "two"}, files(t, m.do("GET", "/containers/box1/archive?path=/tmp/d/", nil)))
		require.Equal(t, map[string]string{"b": "two"}, files(t, m.do("GET", "/containers/box1/archive?path=/tmp/d/.", nil)))
		for path, want := range map[string]int{"/none": 404, "/tmp/a": 400, "": 400} {
			status, text := m.call("PUT", "/containers/box1/archive?path="+path, tarOf(t, "x", "x"))
			require.Equal(t, want, status, text)
		}
		status, text := m.call("GET", "/containers/box1/archive?path=/none", nil)
		require.Equal(t, 404, status)
		require.Contains(t, text, "Could not find the file /none in container box1")
		if !m.inspect("box1").State.Running {
			status, text := m.call("PUT", "/containers/box1/archive?path=/gate/../gate", tarOf(t, "x", "x"))
			require.Equal(t, 409, status, "it would be covered: %s", text)
			m.do("POST", "/containers/box1/start", nil)
			m.until("the links", func() bool {
				status, _, err := m.try("HEAD", "/containers/box1/archive?path=/tmp/ll", nil)
				return err == nil && status == 200
			})
		}
	}
	// A link leads within the container, and is told to its end.
	m.do("PUT", "/containers/box1/archive?path=/tmp/out/tmp", tarOf(t, "evil", "evil"))
	require.Equal(t, map[string]string{"evil": "evil"}, files(t, m.do("GET", "/containers/box1/archive?path=/tmp/evil", nil)))
	require.NoFileExists(t, "/tmp/evil")
	require.Equal(t, map[string]string{"ll": "-> /tmp/l"}, files(t, m.do("GET", "/containers/box1/archive?path=/tmp/ll", nil)))
	// What is mounted is seen, and keeps its rights.
	require.NoError(t, os.WriteFile(bound+"/host", []byte("host"), 0o644))
	require.Equal(t, map[string]string{"host": "host"}, files(t, m.do("GET", "/containers/box1/archive?path=/gate/host", nil)))
	status, text := m.call("PUT", "/containers/box1/archive?path=/gate", tarOf(t, "x", "x"))
	require.Equal(t, 400, status)
	require.Contains(t, text, "read-only")
	status, text = m.call("PUT", "/containers/box1/archive?path=/tmp&noOverwriteDirNonDir=1", tarOf(t, "d", "no folder"))
	require.Equal(t, 400, status, text)
	status, _ = m.call("PUT", "/containers/box1/archive?path=/tmp", tarOf(t, "../../escaped", "x"))
	require.Equal(t, 400, status)
}

func TestRemoveAndPruneImages(t *testing.T) {
	m := newMachine(t, "")
	m.loadBox()
	m.start("box1", nil, "sleep", "1000")
	id := m.image("box").ID
	m.do("POST", "/images/box/tag?repo=other/box&tag=2", nil)
	conflict := func(path, want string) {
		t.Helper()
		status, text := m.call("DELETE", "/images/"+path, nil)
		require.Equal(t, 409, status)
		require.Contains(t, text, want)
	}
	for about, want := range map[string]string{"box1": id, "box": "container:", "/box1": id} {
		require.Contains(t, m.do("GET", "/coble/graph?name="+about, nil), want)
	}
	status, _ := m.call("GET", "/coble/graph?name=none", nil)
	require.Equal(t, 404, status)
	conflict(id, "being used by running container")
	m.do("DELETE", "/images/other/box:2", nil)
	conflict("box", "is using its referenced image")
	conflict(id+"?force=1", "cannot be forced")
	m.do("DELETE", "/images/box?force=1", nil)
	require.True(t, m.inspect("box1").State.Running)
	require.Empty(t, m.image(id).RepoTags)

	var df struct {
		LayersSize int64
		Images     []image.Summary
		Containers []container.Summary
	}
	require.NoError(t, json.Unmarshal([]byte(m.do("GET", "/system/df", nil)), &df))
	require.Len(t, df.Images, 1)
	require.Equal(t, []int64{df.LayersSize, 0, 1}, []int64{df.Images[0].Size, df.Images[0].SharedSize, df.Images[0].Containers})
	require.Len(t, df.Containers, 1)

	prune := func(filters string) (out image.PruneReport) {
		require.NoError(t, json.Unmarshal([]byte(m.do("POST", "/images/prune?filters="+url.QueryEscape(filters), nil)), &out))
		return out
	}
	require.Empty(t, prune("{}").ImagesDeleted, "it is in use")
	m.do("DELETE", "/containers/box1?force=1", nil)
	require.Empty(t, prune(`{"label":["none"]}`).ImagesDeleted)
	report := prune("{}")
	require.EqualValues(t, df.LayersSize, report.SpaceReclaimed)
	require.NotEmpty(t, report.ImagesDeleted)
	status, _ = m.call("GET", "/images/"+id+"/json", nil)
	require.Equal(t, 404, status)
	require.Contains(t, m.do("GET", "/coble/graph", nil), `"Nodes":null`)
}
