package oci

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"
)

const busybox = "/bin/busybox"

// TestMain makes this test binary the runtime, if it is called by that name.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "runc" {
		os.Exit(Main("test", os.Args[1:]))
	}
	os.Exit(m.Run())
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: run as root or make test-vm")
	}
	if _, err := os.Stat(busybox); err != nil {
		t.Fatalf("%s is missing: run make deps (package busybox-static)", busybox)
	}
}

// runtime is `runc` with a root of its own, and a bundle.
type runtime struct {
	testing.TB
	exe, root, bundle string
	spec              *specs.Spec
}

// newRuntime makes a bundle that runs a shell command. At the end nothing may be left of its containers.
func newRuntime(t testing.TB, script string) *runtime {
	needRoot(t)
	dir := t.TempDir()
	r := &runtime{TB: t, exe: filepath.Join(dir, "runc"), root: filepath.Join(dir, "state"), bundle: filepath.Join(dir, "bundle")}
	self, err := os.Executable()
	require.NoError(t, err)
	require.NoError(t, os.Symlink(self, r.exe))
	root := filepath.Join(r.bundle, "rootfs")
	for _, d := range []string{"bin", "proc", "sys", "dev", "tmp"} {
		require.NoError(t, os.MkdirAll(filepath.Join(root, d), 0o755))
	}
	b, err := os.ReadFile(busybox)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(root, "bin/busybox"), b, 0o755))
	for _, a := range strings.Fields("sh true sleep echo cat ls id tty stty kill grep readlink touch test") {
		require.NoError(t, os.Symlink("busybox", filepath.Join(root, "bin", a)))
	}
	r.spec = exampleSpec()
	r.spec.Root.Readonly = false
	r.spec.Process.Terminal = false
	r.spec.Process.Args = []string{"sh", "-c", script}
	r.spec.Process.Rlimits = nil
	r.spec.Annotations = map[string]string{"color": "blue"}
	r.spec.Linux.CgroupsPath = fmt.Sprintf("/coble-oci-%d/%s", os.Getpid(), strings.NewReplacer("/", "-").Replace(t.Name()))
	r.write()
	t.Cleanup(r.sweep)
	return r
}

func (r *runtime) write() {
	b, err := json.Marshal(r.spec)
	require.NoError(r, err)
	require.NoError(r, os.WriteFile(filepath.Join(r.bundle, "config.json"), b, 0o644))
}

// sweep removes all containers, and the cgroup of the test, which must be empty then.
func (r *runtime) sweep() {
	entries, _ := os.ReadDir(r.root)
	for _, e := range entries {
		r.ok("delete", "--force", e.Name())
	}
	paths, _ := filepath.Glob("/sys/fs/cgroup/*" + r.spec.Linux.CgroupsPath + "*")
	unified, _ := filepath.Glob("/sys/fs/cgroup" + r.spec.Linux.CgroupsPath + "*")
	require.Empty(r, append(paths, unified...), "cgroups were left")
	top, _ := filepath.Glob("/sys/fs/cgroup/*" + filepath.Dir(r.spec.Linux.CgroupsPath))
	for _, p := range append(top, "/sys/fs/cgroup"+filepath.Dir(r.spec.Linux.CgroupsPath)) {
		_ = os.Remove(p) // other tests may still have theirs
	}
}

func (r *runtime) command(args ...string) *exec.Cmd {
	cmd := exec.Command(r.exe, append([]string{"--root", r.root}, args...)...)
	cmd.Dir = r.bundle
	return cmd
}

// do runs a command to its end. Output goes to a file: a container may hold it open for long.
func (r *runtime) do(args ...string) (out string, status int) {
	r.Helper()
	f, err := os.CreateTemp(r.TempDir(), "out")
	require.NoError(r, err)
	defer f.Close()
	cmd := r.command(args...)
	cmd.Stdout, cmd.Stderr = f, f
	err = cmd.Run()
	b, rerr := os.ReadFile(f.Name())
	require.NoError(r, rerr)
	if _, ok := err.(*exec.ExitError); !ok {
		require.NoError(r, err)
	}
	return string(b), cmd.ProcessState.ExitCode()
}

func (r *runtime) ok(args ...string) string {
	r.Helper()
	out, status := r.do(args...)
	require.Zero(r, status, "runc %v: %s", args, out)
	return out
}

// fails wants a status and a text in the error.
func (r *runtime) fails(want int, text string, args ...string) {
	r.Helper()
	out, status := r.do(args...)
	require.Equal(r, want, status, "runc %v: %s", args, out)
	require.Contains(r, out, text, "runc %v", args)
}

func (r *runtime) state(id string) specs.State {
	r.Helper()
	var s specs.State
	require.NoError(r, json.Unmarshal([]byte(r.ok("state", id)), &s))
	return s
}

// reach waits until a container has a status.
func (r *runtime) reach(id string, status specs.ContainerState) {
	r.Helper()
	require.Eventually(r, func() bool { return r.state(id).Status == status }, 10*time.Second, 5*time.Millisecond, "%s", status)
}

func alive(pid int) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err == nil && !bytes.Contains(b, []byte(") Z "))
}

// rounds is how often a race is tried: n times, and a quarter of that in a virtual machine without a processor of its own,
// where the kernel is what is tried.
func rounds(n int) int {
	if os.Getenv("COBLE_VM") != "" {
		return n / 4
	}
	return n
}
