package daemon_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"

	"github.com/coble-os/coble/layers/repo"
	"github.com/coble-os/coble/rt/job"
)

// mib is a tar stream of one file of 1 MiB, other content for each name.
func mib(t testing.TB, name string) *bytes.Reader {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	body := bytes.Repeat([]byte(name[:1]), 1<<20)
	require.NoError(t, w.WriteHeader(&tar.Header{Name: name, Size: int64(len(body)), Mode: 0o644, Typeflag: tar.TypeReg}))
	_, err := w.Write(body)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return bytes.NewReader(b.Bytes())
}

func (m *machine) importMiB(name string) {
	m.t.Helper()
	m.do("POST", "/images/create?fromSrc=-&repo="+name, mib(m.t, name))
}

func (m *machine) names() (out []string) {
	m.t.Helper()
	var list []struct{ RepoTags []string }
	require.NoError(m.t, json.Unmarshal([]byte(m.do("GET", "/images/json", nil)), &list))
	for _, i := range list {
		out = append(out, strings.TrimSuffix(i.RepoTags[0], ":latest"))
	}
	slices.Sort(out)
	return out
}

// lastUsed makes images look as if they were used some days ago; the machine is down.
func (m *machine) lastUsed(days map[string]int) {
	m.t.Helper()
	db, err := bbolt.Open(filepath.Join(m.root(), "coble.db"), 0o600, nil)
	require.NoError(m.t, err)
	defer db.Close()
	r, err := repo.Open(repo.Options{Root: m.root(), DB: db})
	require.NoError(m.t, err)
	for name, n := range days {
		img, err := r.Get(name)
		require.NoError(m.t, err)
		require.NoError(m.t, r.Use(img.ID, time.Now().AddDate(0, 0, -n)))
	}
}

// collected waits for n collect jobs and gives what they say.
func (m *machine) collected(n int) (notes []string) {
	m.t.Helper()
	var jobs []job.Info
	m.until(fmt.Sprintf("%d collect jobs", n), func() bool {
		jobs = m.jobs("collect")
		return len(jobs) >= n && !slices.ContainsFunc(jobs, func(j job.Info) bool { return j.Ended.IsZero() })
	})
	for _, j := range jobs {
		require.Empty(m.t, j.Error)
		require.Equal(m.t, []string{"images_max=3.5MiB", "images_unused=30d"}, j.Args)
		if j.Note != "" {
			notes = append(notes, j.Note)
		}
	}
	return notes
}

// TestImageLimits: images that nobody uses go by age, then by size, the longest unused first. What a container stands on
// or the file names stays, and so does everything while the file has a mistake.
func TestImageLimits(t *testing.T) {
	m := newMachine(t, "")
	for _, n := range []string{"named", "used", "old", "a", "b"} {
		m.importMiB(n)
	}
	m.do("POST", "/containers/create?name=cc", map[string]any{"Image": "used", "Cmd": []string{"/x"}})
	require.Empty(t, m.jobs("collect"), "without limits nobody looks")
	m.stop()
	m.lastUsed(map[string]int{"named": 40, "used": 40, "old": 40, "a": 3, "b": 2})
	limits := "[storage]\nimages_max = \"3.5MiB\"\nimages_unused = \"30d\"\n[image.named]\nsource = \"/none\"\n"
	m.writeConfig(limits + "[container.x]\nimage = \"a\"\nmemori = 3\n")
	m.boot()
	m.settle(1)
	require.Empty(t, m.jobs("collect"), "the file has a mistake")
	m.stop()
	m.writeConfig(limits)
	m.boot()
	m.settle(1)
	require.Equal(t, []string{"removed old:latest, a:latest"}, m.collected(1))
	require.Equal(t, []string{"b", "named", "used"}, m.names())
	seen := m.do("GET", fmt.Sprintf("/events?since=1&until=%d", time.Now().Unix()+1), nil)
	require.Contains(t, seen, `"name":"old:latest"`)
	require.Contains(t, seen, `"Action":"delete"`)
	log, err := os.ReadFile(m.dir + "/log")
	require.NoError(t, err)
	require.Contains(t, string(log), `msg="image removed" image=old:latest because="not used for too long"`)
	require.Contains(t, string(log), `msg="image removed" image=a:latest because="images take too much room"`)

	m.importMiB("z")
	require.Equal(t, []string{"removed old:latest, a:latest", "removed b:latest"}, m.collected(2))
	require.Equal(t, []string{"named", "used", "z"}, m.names())
	m.importMiB("y") // both have just come: someone is about to use them
	m.collected(3)
	require.Equal(t, []string{"named", "used", "y", "z"}, m.names())
	m.do("DELETE", "/containers/cc", nil)
	m.importMiB("x")
	m.collected(4)
	require.Contains(t, m.names(), "used", "it was used until now")
}
