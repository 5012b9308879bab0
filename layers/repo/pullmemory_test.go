package repo

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/coble-os/coble/layers/blob"
	"github.com/coble-os/coble/layers/driver/drivertest"
	"github.com/coble-os/coble/layers/fsck"
	"github.com/coble-os/coble/layers/image"
	"github.com/coble-os/coble/layers/registry/registrytest"
	"github.com/coble-os/coble/layers/registry/server"
)

// pullEnv has a child process of a test pull an image, name@folder, or load
// one, /path@folder.
const pullEnv = "COBLE_TEST_PULL"

// pullInChild pulls and prints by how many KiB memory grew beyond what the
// process had before (proc_pid_status(5), VmHWM).
func pullInChild(job string) error {
	name, dir, ok := strings.Cut(job, "@")
	if !ok {
		return errors.New("want name@folder")
	}
	debug.SetGCPercent(50) // as the engine does
	r, db, err := openAt(dir, filepath.Join(dir, "r"), "")
	if err != nil {
		return err
	}
	defer db.Close()
	before, err := status("VmRSS:")
	if err != nil {
		return err
	}
	if strings.HasPrefix(name, "/") {
		_, err = r.LoadPath(ctx, name, "", nil)
	} else {
		err = suffer(r, "pull", []string{name})
	}
	if err != nil {
		return err
	}
	peak, err := status("VmHWM:")
	fmt.Println("grew", peak-before)
	return err
}

func status(field string) (int, error) {
	raw, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(raw)) {
		if f := strings.Fields(line); f[0] == field {
			return strconv.Atoi(f[1])
		}
	}
	return 0, errors.New("no " + field)
}

// child runs this test binary again, to pull or load.
func child(dir, name string) *exec.Cmd {
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), pullEnv+"="+name+"@"+dir)
	return c
}

// grew runs a child to its end, and gives by how many KiB its memory grew.
func grew(t *testing.T, c *exec.Cmd) (kib int) {
	t.Helper()
	var errs bytes.Buffer
	c.Stderr = &errs
	out, err := c.Output()
	require.NoError(t, err, errs.String())
	_, err = fmt.Sscanf(string(out), "grew %d", &kib)
	require.NoError(t, err, string(out))
	return kib
}

// Memory does not grow with the number of files either, and a removal leaves
// nothing: $COBLE_FILES empty ones in one layer.
func TestManyFiles(t *testing.T) {
	drivertest.NeedRoot(t)
	n, err := strconv.Atoi(cmp.Or(os.Getenv("COBLE_FILES"), "100000"))
	require.NoError(t, err)
	m := made{label: "many", tags: []string{"many:1"}, layers: [][]byte{manyFiles(t, n, 0)}}
	archive := write(t, tarOf(t, docker(t, blob.Gzip, m)...))
	w := where{dir: t.TempDir()}
	start := time.Now()
	kib := grew(t, child(w.dir, archive))
	t.Logf("%d files loaded in %v; memory grew by %d KiB", n, time.Since(start).Round(time.Millisecond), kib)
	require.Less(t, kib, 32<<10)
	r, db := w.open(t)
	start = time.Now()
	found, err := r.Check(ctx, fsck.Options{})
	require.NoError(t, err)
	require.Empty(t, found)
	t.Logf("checked in %v", time.Since(start).Round(time.Millisecond))
	start = time.Now()
	_, err = r.Remove("many:1", false)
	require.NoError(t, err)
	t.Logf("removed in %v", time.Since(start).Round(time.Millisecond))
	empty(t, r)
	require.NoError(t, db.Close())
}

// Memory does not grow with the image: 200 MB in three layers at once.
func TestPullInLittleMemory(t *testing.T) {
	drivertest.NeedRoot(t)
	reg := registrytest.New(t, server.Access{}, nil)
	m := made{label: "large"}
	block := big(t, "block", 1<<20).layers[0][512:][:1<<20]
	for i, mib := range []int{140, 30, 30} {
		body := string(bytes.Repeat(block, mib)) + fmt.Sprint(i)
		m.layers = append(m.layers, drivertest.Layer(t, drivertest.Entry{Name: "f" + fmt.Sprint(i), Body: body}))
	}
	reg.Put(t, "large", "1", ocispec.MediaTypeImageLayer, m.config(t), m.layers...)
	kib := grew(t, child(t.TempDir(), reg.Host()+"/large:1"))
	t.Logf("memory grew by %d KiB", kib)
	require.Less(t, kib, 32<<10)
}

// A SIGKILL at any moment of a pull: the next goes on, asks for no byte of a
// finished layer again, and in the end nothing is left over.
func TestKilledWhilePulling(t *testing.T) {
	drivertest.NeedRoot(t)
	m := big(t, "killed", 6<<20, 6<<20, 100_000, 6<<20)
	reg := registrytest.New(t, server.Access{}, nil)
	reg.Put(t, "some", "1", ocispec.MediaTypeImageLayer, m.config(t), m.layers...)
	n := image.Name{Repo: reg.Host() + "/some", Tag: "1"}
	w := where{dir: t.TempDir()}
	for i := range 12 {
		reg.Mend()
		reg.Spoil("GET /v2/some/blobs/", -1, registrytest.Slow(64<<10, time.Millisecond))
		c := child(w.dir, n.String())
		require.NoError(t, c.Start())
		ended := make(chan struct{})
		go func() {
			_ = c.Wait() // killed, most times
			close(ended)
		}()
		waitFor(t, func() bool {
			select {
			case <-ended:
				return true
			default:
				return len(reg.Requests("GET /v2/some/blobs/")) > 0
			}
		})
		time.Sleep(time.Duration(i*12) * time.Millisecond)
		_ = c.Process.Kill() // it may have ended
		<-ended
		r, db := w.open(t)
		agree(t, r)
		_, err := r.Get(n.String())
		done := err == nil
		require.NoError(t, db.Close())
		if done {
			break
		}
	}
	reg.Mend()
	r, _ := w.open(t)
	_, err := pullFrom(ctx, r, n, nil)
	require.NoError(t, err)
	require.Len(t, shown(t, r, m.id(t)), 4)
	require.Empty(t, drivertest.Tree(r.downloads.Dir()))
	agree(t, r)
	_, err = r.Remove(n.String(), false)
	require.NoError(t, err)
	empty(t, r)
}
