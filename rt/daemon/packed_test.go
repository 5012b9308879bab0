package daemon_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/stretchr/testify/require"

	"github.com/coble-os/coble/layers/driver/quota"
	"github.com/coble-os/coble/rt/daemon"
)

// packedBox packs the image "box" and gives the folder and its one layer's file.
func packedBox(t *testing.T, format string) (dir, layer string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: run as root or make test-vm")
	}
	if _, err := exec.LookPath(map[string]string{"squashfs": "mksquashfs", "erofs": "mkfs.erofs"}[format]); err != nil {
		t.Skipf("needs what makes %s: make deps", format)
	}
	archive := filepath.Join(t.TempDir(), "box.tar")
	require.NoError(t, os.WriteFile(archive, boxArchive(t), 0o644))
	dir = filepath.Join(t.TempDir(), "box")
	var out bytes.Buffer
	require.NoError(t, daemon.Pack(t.Context(), &out, []string{"--format", format, archive, dir}))
	require.Equal(t, "Packed image: box:latest\n", out.String())
	blobs, err := filepath.Glob(dir + "/blobs/sha256/*")
	require.NoError(t, err)
	for _, b := range blobs {
		if st, err := os.Stat(b); err == nil && st.Size() > 100_000 {
			layer = b
		}
	}
	require.NotEmpty(t, layer)
	return dir, layer
}

// loops counts the loop devices of a file.
func loops(path string) (n int) {
	all, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, p := range all {
		if raw, err := os.ReadFile(p); err == nil && strings.TrimSpace(string(raw)) == path {
			n++
		}
	}
	return n
}

// Containers run from a packed image where it lies, under a writable layer of their own. The machine has no mount of it,
// all share one device, an engine that is killed takes nothing away, and nothing is left when they have ended.
func TestRunsInPlace(t *testing.T) {
	for _, format := range []string{"squashfs", "erofs"} {
		t.Run(format, func(t *testing.T) {
			dir, layer := packedBox(t, format)
			m := newMachine(t, fmt.Sprintf("[image.box]\nsource = %q\n", dir)+
				section("one", "command = [\"sh\", \"-c\", \"echo new > /etc/plain; rm /etc/group; sleep 1000\"]\nstop_signal = \"KILL\"")+section("two", sleeps))
			m.settle(1)
			pid := m.inspect("one").State.Pid
			require.True(t, m.inspect("one").State.Running)
			require.Equal(t, 1, loops(layer))
			mounts, err := os.ReadFile("/proc/self/mountinfo")
			require.NoError(t, err)
			require.NotContains(t, string(mounts), m.root()+"/overlay")
			m.until("its changes", func() bool {
				// One of the two writable layers has a whiteout, for the file that is removed last.
				gone, _ := filepath.Glob(m.root() + "/overlay/c/*/u/etc/group")
				return len(gone) == 1
			})
			require.Zero(t, m.exec("one", "sh", "-c", "test $(cat /etc/plain) = new"))
			require.Zero(t, m.exec("two", "sh", "-c", "test \"$(cat /etc/plain)\" = 'no program' -a -e /etc/group"))
			tree, err := filepath.Glob(m.root() + "/overlay/d/*/*")
			require.NoError(t, err)
			require.Empty(t, tree, "nothing is unpacked")

			m.awaitEngine(m.killEngine())
			m.settle(1)
			require.Equal(t, pid, m.inspect("one").State.Pid)
			require.Equal(t, 1, loops(layer))
			for _, name := range []string{"one", "two"} {
				m.do("DELETE", "/containers/"+name+"?force=1", nil)
			}
			m.until("the end of the device", func() bool { return loops(layer) == 0 })
		})
	}
}

// A file that is gone is an error of the start that names it, and of no other container's.
func TestInPlaceFileGone(t *testing.T) {
	dir, layer := packedBox(t, "squashfs")
	m := newMachine(t, fmt.Sprintf("[image.box]\nsource = %q\n", dir))
	m.settle(1)
	id := m.create("late", nil, "true")
	require.NoError(t, os.Rename(layer, layer+".away"))
	status, text := m.call("POST", "/containers/"+id+"/start", nil)
	require.Equal(t, 500, status)
	require.Contains(t, text, layer)
	require.Contains(t, text, "no such file")
	require.NoError(t, os.Rename(layer+".away", layer))
	m.do("POST", "/containers/"+id+"/start", nil)
	require.Zero(t, m.wait(id))
}

// A limit that the file system can't keep is refused with what to do, and leaves no container.
func TestDiskLimitNeedsQuotas(t *testing.T) {
	m := newMachine(t, "")
	if err := quota.Set(t.TempDir(), "x", 1<<20); !errors.Is(err, quota.ErrUnsupported) {
		t.Skipf("temporary files lie on a file system with project quotas here (%v)", err)
	}
	m.loadBox()
	with := func(opts map[string]string) (int, string) {
		return m.call("POST", "/containers/create?name=limited", request{
			Config: container.Config{Image: "box", Cmd: []string{"true"}}, HostConfig: container.HostConfig{StorageOpt: opts},
		})
	}
	status, text := with(map[string]string{"size": "64m", "inodes": "5"})
	require.Equal(t, 400, status, text)
	status, text = with(map[string]string{"size": "64m"})
	require.Equal(t, 501, status, text)
	require.Contains(t, text, "prjquota")
	status, _ = m.call("GET", "/containers/limited/json", nil)
	require.Equal(t, 404, status)
}
