package repo

import (
	"bytes"
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

	"github.com/coble-os/coble/layers/driver/drivertest"
	"github.com/coble-os/coble/layers/image"
	"github.com/coble-os/coble/layers/registry/registrytest"
	"github.com/coble-os/coble/layers/registry/server"
)

// pullEnv has a child process of a test pull an image, name@folder.
const pullEnv = "COBLE_TEST_PULL"

// pullInChild pulls and prints by how many KiB memory grew beyond what the
// process had before (proc_pid_status(5), VmHWM).
func pullInChild(job string) error {
	name, dir, ok := strings.Cut(job, "@")
	if !ok {
		return errors.New("want name@folder")
	}
	n, err := image.ParseName(name)
	if err != nil {
		return err
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
	if _, err := pullFrom(ctx, r, n, nil); err != nil {
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

// child runs this test binary again, to pull.
func child(dir string, n image.Name) *exec.Cmd {
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), pullEnv+"="+n.String()+"@"+dir)
	return c
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
	c := child(t.TempDir(), image.Name{Repo: reg.Host() + "/large", Tag: "1"})
	var errs bytes.Buffer
	c.Stderr = &errs
	out, err := c.Output()
	require.NoError(t, err, errs.String())
	var grew int
	_, err = fmt.Sscanf(string(out), "grew %d", &grew)
	require.NoError(t, err, string(out))
	t.Logf("memory grew by %d KiB", grew)
	require.Less(t, grew, 32<<10)
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
		c := child(w.dir, n)
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
	require.Empty(t, drivertest.Tree(r.fetches.dir))
	agree(t, r)
	_, err = r.Remove(n.String(), false)
	require.NoError(t, err)
	empty(t, r)
}
