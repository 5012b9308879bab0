package daemon_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// smallDisk mounts a new ext4 of size MiB on a folder until the test has ended.
func smallDisk(t *testing.T, dir string, size int64) {
	t.Helper()
	image := filepath.Join(t.TempDir(), "disk")
	require.NoError(t, os.WriteFile(image, nil, 0o600))
	require.NoError(t, os.Truncate(image, size<<20))
	for _, c := range [][]string{{"/sbin/mkfs.ext4", "-q", "-m", "0", image}, {"mount", "-o", "loop", image, dir}} {
		out, err := exec.Command(c[0], c[1:]...).CombinedOutput()
		require.NoError(t, err, "%v: %s (Debian package e2fsprogs)", c, out)
	}
}

// fill leaves not a byte free on the disk of a folder, not even to root.
func fill(t *testing.T, dir string) (file string) {
	t.Helper()
	file = filepath.Join(dir, "filler")
	f, err := os.Create(file)
	require.NoError(t, err)
	defer f.Close()
	for size := 1 << 20; size > 0; size /= 2 {
		for b := make([]byte, size); ; {
			if _, err := f.Write(b); err != nil {
				require.ErrorIs(t, err, unix.ENOSPC)
				break
			}
		}
	}
	require.NoError(t, f.Sync())
	return file
}

// TestFullDisk: on a full disk the engine starts, lists and removes; what needs room says so and
// leaves nothing.
func TestFullDisk(t *testing.T) {
	m := newFolders(t)
	require.NoError(t, os.Mkdir(m.root(), 0o755))
	smallDisk(t, m.root(), 32)
	defer func() {
		m.stop()
		require.NoError(t, unix.Unmount(m.root(), unix.MNT_DETACH))
	}()
	m.boot()
	m.loadBox()
	for i := range 40 {
		m.create(fmt.Sprintf("c%d", i), nil, "sleep", "1000")
	}
	file := fill(t, m.root())
	// Whatever becomes free meanwhile is somebody else's at once.
	greedy, stop := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(greedy)
		for f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0); err == nil; {
			select {
			case <-stop:
				f.Close()
				return
			default:
				_, _ = f.Write(make([]byte, 4096))
			}
		}
	}()
	m.awaitEngine(m.killEngine())

	require.Contains(t, m.do("GET", "/containers/json?all=1", nil), "c39")
	require.Contains(t, m.do("GET", "/images/json", nil), "box:latest")
	// overlayfs needs a folder of its own for each mount.
	status, text := m.call("POST", "/containers/c0/start", nil)
	require.Equal(t, 500, status)
	require.Contains(t, text, "the disk of "+m.root()+" is full: remove containers or images")
	status, text = m.call("POST", "/images/load?quiet=1", bytes.NewReader(boxArchive(t)))
	require.GreaterOrEqual(t, status, 400)
	require.Contains(t, text, "no space left")
	close(stop)
	<-greedy
	for i := range 40 {
		m.do("DELETE", fmt.Sprintf("/containers/c%d?force=1", i), nil)
	}
	m.do("DELETE", "/images/box", nil)
	require.Equal(t, "[]\n", m.do("GET", "/images/json", nil))
	require.NoError(t, os.Remove(file))
	m.loadBox()
	m.start("again", nil, "true")
	m.do("DELETE", "/containers/again?force=1", nil)
}

// TestFullDiskFreesFirst: on a disk that is full to the last byte, what a pull that was cut short left makes way for a load
// and for a pull.
func TestFullDiskFreesFirst(t *testing.T) {
	host := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	feeder := newMachine(t, fmt.Sprintf("[registry.serve]\nlisten = %q\n", host))
	feeder.awaitRegistry(host)
	feeder.loadBox()
	for name, bring := range map[string]func(m *machine) (int, string){
		"load": func(m *machine) (int, string) {
			return m.call("POST", "/images/load?quiet=1", bytes.NewReader(boxArchive(t)))
		},
		"pull": func(m *machine) (int, string) { return m.call("POST", pullPath(host, "library/box", "latest"), nil) },
	} {
		t.Run(name, func(t *testing.T) {
			m := onSmallDisk(t, 32, "")
			left := filepath.Join(m.root(), "partial", strings.Repeat("ab", 32))
			require.NoError(t, os.WriteFile(left, make([]byte, 12<<20), 0o600))
			file := fill(t, m.root())
			status, text := bring(m)
			require.Equal(t, 200, status, text)
			require.NotContains(t, text, "no space")
			require.NotEmpty(t, m.names(), text)
			require.NoFileExists(t, left)
			require.NoError(t, os.Remove(file))
		})
	}
}
