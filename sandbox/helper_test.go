package sandbox

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"

	"github.com/coble-os/coble/sandbox/caps"
	"github.com/coble-os/coble/sandbox/cgroup"
	"github.com/coble-os/coble/sandbox/seccomp"
)

const busybox = "/bin/busybox"

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: run as root or make test-vm")
	}
	if _, err := os.Stat(busybox); err != nil {
		t.Fatalf("%s is missing: run make deps (package busybox-static)", busybox)
	}
}

// newRoot makes a root folder with busybox and links to its applets.
func newRoot(t testing.TB) string {
	t.Helper()
	root := filepath.Join(t.TempDir(), "root")
	for _, d := range []string{"bin", "etc", "proc", "sys", "dev", "tmp"} {
		require.NoError(t, os.MkdirAll(filepath.Join(root, d), 0o755))
	}
	b, err := os.ReadFile(busybox)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(root, "bin/busybox"), b, 0o755))
	for _, a := range []string{
		"sh", "true", "false", "echo", "cat", "sleep", "id", "hostname", "ls", "env", "pwd", "stat",
		"mount", "dd", "kill", "wc", "grep", "tr", "tail", "cut", "readlink", "touch", "tty", "stty", "yes", "head", "mkdir", "test",
	} {
		require.NoError(t, os.Symlink("busybox", filepath.Join(root, "bin", a)))
	}
	return root
}

// newSpec is a spec like those that the engine makes: all namespaces, Docker's mounts, masks, capabilities, filter.
func newSpec(root string, args ...string) *specs.Spec {
	c := caps.Default()
	spec := &specs.Spec{
		Version:  specs.Version,
		Hostname: "box",
		Root:     &specs.Root{Path: root},
		Process: &specs.Process{
			Args: args, Cwd: "/", Env: []string{"PATH=/usr/local/bin:/usr/bin:/bin", "TERM=xterm"}, NoNewPrivileges: true,
			Capabilities: &specs.LinuxCapabilities{Bounding: c, Effective: c, Permitted: c},
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
			{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"ro", "nosuid", "noexec", "nodev"}},
			{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=67108864"}},
		},
		Linux: &specs.Linux{
			MaskedPaths: []string{
				"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
				"/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap",
			},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
			Seccomp:       seccomp.Default(c),
		},
	}
	for _, n := range []specs.LinuxNamespaceType{
		specs.MountNamespace, specs.PIDNamespace, specs.UTSNamespace, specs.IPCNamespace,
		specs.NetworkNamespace, specs.CgroupNamespace,
	} {
		spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: n})
	}
	return spec
}

// cgroupPath gives a test its own group, removed at the end.
func cgroupPath(t testing.TB) string {
	t.Helper()
	name := strings.Map(func(r rune) rune {
		if r == '/' || r == ' ' {
			return '-'
		}
		return r
	}, t.Name())
	path := fmt.Sprintf("/coble-test-%d/%s", os.Getpid(), name)
	t.Cleanup(func() {
		for _, p := range []string{path, filepath.Dir(path)} {
			g, err := cgroup.Open(p)
			if err != nil {
				continue
			}
			_ = g.Kill(context.Background())
			if p == path || len(mustPids(t, g)) == 0 {
				require.NoError(t, g.Remove())
			}
		}
	})
	return path
}

func mustPids(t testing.TB, g *cgroup.Group) []int {
	pids, err := g.Pids()
	require.NoError(t, err)
	return pids
}

// result is what a container printed, and how it ended.
type result struct {
	out  string
	exit Exit
}

// runConfig starts a container, reads all that it prints, and reaps it.
func runConfig(t testing.TB, c Config) (result, error) {
	t.Helper()
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer r.Close()
	c.Stdout, c.Stderr = w, w
	p, err := Start(context.Background(), c)
	w.Close()
	if err != nil {
		return result{}, err
	}
	defer p.Close()
	var out bytes.Buffer
	_, err = io.Copy(&out, r)
	require.NoError(t, err)
	exit, err := p.WaitNoReap()
	require.NoError(t, err)
	again, err := p.Reap()
	require.NoError(t, err)
	require.Equal(t, exit, again)
	return result{out.String(), exit}, nil
}

// run runs a shell command in a container with a default spec, changed by f.
func run(t testing.TB, script string, f func(*specs.Spec)) result {
	t.Helper()
	spec := newSpec(newRoot(t), "sh", "-c", script)
	if f != nil {
		f(spec)
	}
	res, err := runConfig(t, Config{ID: "test", Spec: spec, CgroupPath: cgroupPath(t)})
	require.NoError(t, err)
	return res
}

// openFDs lists the descriptors of this process.
func openFDs(t testing.TB) []string {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	var out []string
	for _, e := range entries {
		if target, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil {
			out = append(out, target)
		}
	}
	return out
}

// spawnHost starts a program of the host without isolation.
func hostSpec(args ...string) *specs.Spec {
	return &specs.Spec{
		Root: &specs.Root{Path: "/"}, Linux: &specs.Linux{},
		Process: &specs.Process{Args: args, Cwd: "/", Env: []string{"PATH=/bin:/usr/bin"}},
	}
}

func itoa(n int) string { return strconv.Itoa(n) }

// rounds is how often a race is tried: n times, and a quarter of that in a virtual machine without a processor of its own,
// where the kernel is what is tried.
func rounds(n int) int {
	if os.Getenv("COBLE_VM") != "" {
		return n / 4
	}
	return n
}
