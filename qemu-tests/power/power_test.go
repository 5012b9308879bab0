// Package power cuts the power of appliances: at many points of one boot by rebuilding the disk from the log of every
// request that it received (package cut), and at random moments by killing QEMU.
package power

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/layers/catalog"
	"github.com/coble-os/coble/layers/image"
	"github.com/coble-os/coble/layers/repo"
	"github.com/coble-os/coble/qemu-tests/box"
	"github.com/coble-os/coble/qemu-tests/cut"
	"github.com/coble-os/coble/qemu-tests/vm"
	"github.com/coble-os/coble/rt/store"
)

const config = `
hostname = "gateway"
[storage]
device = "LABEL=data"
[uplink.eth0]
dhcp = true
[image.box]
source = "/data/box.tar"
[container.web]
image   = "box"
command = ["httpd", "-f", "-p", "80", "-h", "/www"]
ports   = ["80:80"]
`

const dataMiB = 64

// newAppliance makes an appliance whose disk holds box.tar and has never been booted.
func newAppliance(t *testing.T, log string) (*vm.Appliance, int) {
	data := t.TempDir()
	require.NoError(t, box.Write(t.Context(), "amd64", data+"/box.tar", "box:latest"))
	port := vm.FreePort(t)
	return vm.NewAppliance(t, vm.ApplianceOptions{
		Kernel: vm.FetchKernelT(t, "amd64", "6.1"), TOML: config, DataDir: data, DataMiB: dataMiB, WriteLog: log, Shell: true,
		Forwards: []vm.Forward{{Host: port, Guest: 80}},
	}), port
}

// TestCutsOfFirstUnpack cuts a first boot at fifty points, clean and torn, from the first request to the answer of the
// container and on to the end. Each disk must mount; its store must open; an image that is there must be whole, byte by
// byte; what had been acknowledged must be there; and one that is not must load.
func TestCutsOfFirstUnpack(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: run as root (it mounts disk images)")
	}
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(dir+"/log", nil, 0o600))
	a, port := newAppliance(t, dir+"/log")
	base := dir + "/base"
	require.NoError(t, copyFile(a.Data, base))
	want, err := box.Files(t.Context(), "amd64")
	require.NoError(t, err)

	ctx, v := a.Boot(t, 20*time.Second)
	serves(ctx, t, port)
	// The container answers: its image and its record were acknowledged before.
	acknowledged := entries(t, dir+"/log")
	require.NoError(t, v.Send("coble poweroff"))
	require.NoError(t, v.Wait(ctx))
	l, err := cut.Open(dir + "/log")
	require.NoError(t, err)
	defer l.Close()
	require.Greater(t, len(l.Entries), acknowledged)
	t.Logf("%d requests, %d of them before the answer", len(l.Entries), acknowledged)

	missing := 0
	for i := range 25 {
		n := len(l.Entries) * (i + 1) / 25
		for _, torn := range []bool{false, true} {
			out, what := dir+"/out", fmt.Sprintf("clean cut behind request %d", n)
			if torn {
				what = "torn " + what[len("clean "):]
				require.NoError(t, l.Torn(base, out, n, rand.New(rand.NewPCG(uint64(n), 2))))
			} else {
				require.NoError(t, l.Clean(base, out, n))
			}
			if !checkDisk(t, out, what, want, n >= acknowledged) {
				missing++
			}
		}
	}
	require.Positive(t, missing, "no cut came before the image was there: the test cuts too late")
	require.Less(t, missing, 50)
}

// entries counts the requests that are in the log by now.
func entries(t *testing.T, path string) int {
	l, err := cut.Open(path)
	require.NoError(t, err)
	defer l.Close()
	return len(l.Entries)
}

// checkDisk mounts a rebuilt disk and looks at what coble made of it. It returns whether the image is there.
func checkDisk(t *testing.T, disk, what string, want map[string][]byte, acknowledged bool) (there bool) {
	t.Helper()
	mnt, err := os.MkdirTemp("", "coble-cut-")
	require.NoError(t, err)
	defer os.Remove(mnt)
	out, err := exec.Command("mount", "-o", "loop", disk, mnt).CombinedOutput()
	require.NoError(t, err, "%s: mount: %s", what, out)
	defer func() { require.NoError(t, unix.Unmount(mnt, 0)) }()
	root := mnt + "/coble"
	if _, err := os.Stat(root); err != nil {
		require.False(t, acknowledged, "%s: the store is gone", what)
		return false
	}
	st, err := store.Open(root, t.TempDir(), catalog.Containers{})
	require.NoError(t, err, "%s: the store does not open", what)
	defer st.Close()
	r, err := repo.Open(repo.Options{Root: root, DB: st.Durable})
	require.NoError(t, err, what)
	problems, err := r.Problems()
	require.NoError(t, err, what)
	require.Empty(t, problems, what)
	if _, err := r.Get("box"); err != nil {
		require.ErrorIs(t, err, image.ErrNotFound, what)
		require.False(t, acknowledged, "%s: the image is gone", what)
		_, err := r.LoadPath(t.Context(), mnt+"/box.tar", "box", func(repo.Progress) {})
		require.NoError(t, err, "%s: load again", what)
		checkFiles(t, r, what+", loaded again", want)
		return false
	}
	checkFiles(t, r, what, want)
	if acknowledged {
		specs, err := st.Containers()
		require.NoError(t, err, what)
		require.Len(t, specs, 1, "%s: the container's record is gone", what)
	}
	return true
}

// checkFiles compares every file of the image.
func checkFiles(t *testing.T, r *repo.Repo, what string, want map[string][]byte) {
	t.Helper()
	img, err := r.Get("box")
	require.NoError(t, err, what)
	require.NoError(t, r.CreateLayer("check", img.ID, 0), what)
	mounts, err := r.Mounts("check", "/")
	require.NoError(t, err, what)
	lower := lowerOf(mounts[len(mounts)-1].Data)
	require.NotEmpty(t, lower, what)
	for name, data := range want {
		got, err := os.ReadFile(filepath.Join(lower, name))
		require.NoError(t, err, what)
		require.True(t, string(got) == string(data), "%s: %s is damaged: %d bytes of %d", what, name, len(got), len(data))
	}
	require.NoError(t, r.RemoveLayer("check"), what)
}

// lowerOf is the one lower folder of an overlay's options.
func lowerOf(data string) string {
	for o := range strings.SplitSeq(data, ",") {
		if dir, ok := strings.CutPrefix(o, "lowerdir="); ok {
			return dir
		}
	}
	return ""
}

// TestKills kills QEMU ten times at random moments of a boot; each time the next boot serves.
func TestKills(t *testing.T) {
	a, port := newAppliance(t, "")
	random := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
	span := 8 * time.Second // of a boot, from QEMU's start to the answer, without KVM
	for i := range 10 {
		at := time.Duration(random.Int64N(int64(span)))
		func() {
			_, v := a.Boot(t, 20*time.Second)
			time.Sleep(at)
			v.Kill()
		}()
		start := time.Now()
		ctx, v := a.Boot(t, 20*time.Second)
		serves(ctx, t, port)
		span = max(time.Since(start), time.Second)
		t.Logf("kill %d after %v; the next boot answers after %v", i, at.Round(time.Millisecond), span.Round(time.Millisecond))
		require.NotContains(t, v.Console(), "damaged")
		v.Kill()
	}
}

// serves asks until the container answers.
func serves(ctx context.Context, t *testing.T, port int) {
	t.Helper()
	client := http.Client{Timeout: 3 * time.Second}
	for {
		resp, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/", port))
		if err == nil {
			b, rerr := io.ReadAll(resp.Body)
			resp.Body.Close()
			if rerr == nil && string(b) == "box serves\n" {
				return
			}
		}
		select {
		case <-ctx.Done():
			require.FailNow(t, "no answer", "%v", err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func copyFile(from, to string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o600)
}
