package sandbox

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestSymlinkTargets: a mount target is never resolved outside the root, and procfs not through a link at all.
func TestSymlinkTargets(t *testing.T) {
	needRoot(t)
	outside, root := t.TempDir(), newRoot(t)
	require.NoError(t, os.Symlink(outside, filepath.Join(root, "data")))
	require.NoError(t, os.Symlink("../../../../../"+outside, filepath.Join(root, "up")))
	require.NoError(t, os.MkdirAll(filepath.Join(root, outside), 0o755))
	spec := newSpec(root, "sh", "-c", "ls /data /up")
	src := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(src, "file"), nil, 0o644))
	spec.Mounts = append(spec.Mounts, specs.Mount{Destination: "/data", Source: src, Options: []string{"bind"}},
		specs.Mount{Destination: "/up/new/sub", Source: src, Options: []string{"bind"}})
	res, err := runConfig(t, Config{Spec: spec})
	require.NoError(t, err)
	require.Equal(t, "/data:\nfile\nnew\n\n/up:\nfile\nnew\n", res.out)
	entries, err := os.ReadDir(outside)
	require.NoError(t, err)
	require.Empty(t, entries, "something was made outside the root")

	require.NoError(t, os.Remove(filepath.Join(root, "proc")))
	require.NoError(t, os.Symlink("etc", filepath.Join(root, "proc")))
	_, err = runConfig(t, Config{Spec: newSpec(root, "true")})
	require.ErrorIs(t, err, unix.ELOOP)
	require.EqualError(t, err, "mount proc on /proc: too many levels of symbolic links")
}

// withoutDev drops the mounts in /dev, so that the image's own is used.
func withoutDev(s *specs.Spec) {
	s.Mounts = slices.DeleteFunc(s.Mounts, func(m specs.Mount) bool { return strings.HasPrefix(m.Destination, "/dev") })
}

// TestNullLink: masks do not depend on the image's /dev/null (CVE-2025-31133).
func TestNullLink(t *testing.T) {
	needRoot(t)
	root := newRoot(t)
	require.NoError(t, os.WriteFile(filepath.Join(root, "etc/bait"), []byte("bait\n"), 0o644))
	require.NoError(t, os.Symlink("/etc/bait", filepath.Join(root, "dev/null")))
	spec := newSpec(root, "sh", "-c", "cat /proc/timer_list; cat /etc/bait; grep -c ' /etc/bait ' /proc/self/mountinfo")
	withoutDev(spec)
	res, err := runConfig(t, Config{Spec: spec})
	require.NoError(t, err)
	require.Equal(t, "bait\n0\n", res.out)
}

// TestConsoleLink: a terminal is bound on nothing but /dev/console itself (CVE-2025-52565).
func TestConsoleLink(t *testing.T) {
	needRoot(t)
	root := newRoot(t)
	require.NoError(t, os.Symlink("/proc/sys/kernel/printk", filepath.Join(root, "dev/console")))
	spec := newSpec(root, "true")
	withoutDev(spec)
	spec.Mounts = append(spec.Mounts, specs.Mount{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"newinstance", "ptmxmode=0666"}})
	spec.Process.Terminal = true
	_, err := runConfig(t, Config{Spec: spec})
	require.EqualError(t, err, "bind terminal on /dev/console: too many levels of symbolic links")
}

// TestSwappedTarget: a folder of a shared volume turns into a link to the outside while starts mount below it
// (CVE-2021-30465, CVE-2024-45310). Nothing is ever made outside.
func TestSwappedTarget(t *testing.T) {
	needRoot(t)
	root, outside, volume := newRoot(t), t.TempDir(), t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(volume, "d"), 0o755))
	require.NoError(t, os.Symlink("../../../../../../../../../"+outside, filepath.Join(volume, "l")))
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-quit:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, volume+"/d", unix.AT_FDCWD, volume+"/l", unix.RENAME_EXCHANGE)
			}
		}
	}()
	started := 0
	for i := range rounds(200) {
		spec := newSpec(root, "true")
		spec.Mounts = append(spec.Mounts, specs.Mount{Destination: "/vol", Source: volume, Options: []string{"bind"}},
			specs.Mount{Destination: "/vol/d/new" + itoa(i), Type: "tmpfs", Source: "tmpfs"})
		if _, err := runConfig(t, Config{Spec: spec}); err == nil {
			started++
		}
	}
	close(quit)
	<-done
	t.Logf("%d started", started)
	entries, err := os.ReadDir(outside)
	require.NoError(t, err)
	require.Empty(t, entries)
}

// TestDescriptors: the container has 0, 1 and 2, and nothing else of ours.
func TestDescriptors(t *testing.T) {
	needRoot(t)
	f, err := os.Open("/etc")
	require.NoError(t, err)
	defer f.Close()
	leak, err := unix.Dup(int(f.Fd())) // without close-on-exec, as a careless library makes them
	require.NoError(t, err)
	defer unix.Close(leak)
	require.Equal(t, "0\n1\n2\n3\n", run(t, "ls /proc/self/fd", nil).out) // 3 is what ls reads
}

// TestWorkingDirectory: /proc/self/fd/N leads nowhere outside.
func TestWorkingDirectory(t *testing.T) {
	needRoot(t)
	for _, n := range []string{"3", "4", "5", "6", "7", "8", "9", "10", "11", "12"} {
		spec := newSpec(newRoot(t), "pwd")
		spec.Process.Cwd = "/proc/self/fd/" + n
		res, err := runConfig(t, Config{Spec: spec})
		if err == nil {
			require.True(t, strings.HasPrefix(res.out, "/"), "fd %s: %q", n, res.out)
			require.NotContains(t, res.out, "unreachable")
		}
	}
}
