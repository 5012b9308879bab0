package oci

import (
	"os"
	"strconv"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestSharedPid: a second container in the first one's PID namespace. While it waits, everybody there can see this
// program as its executable: it is a sealed copy (CVE-2019-5736).
func TestSharedPid(t *testing.T) {
	r := newRuntime(t, "exec sleep 1000")
	r.ok("run", "-d", "one")
	for i := range r.spec.Linux.Namespaces {
		if n := &r.spec.Linux.Namespaces[i]; n.Type == specs.PIDNamespace {
			n.Path = "/proc/" + strconv.Itoa(r.state("one").Pid) + "/ns/pid"
		}
	}
	path := r.spec.Linux.CgroupsPath
	r.spec.Linux.CgroupsPath = path + "-two"
	r.write()
	r.ok("create", "two")
	require.Equal(t, specs.StateRunning, r.state("one").Status, "it was thawed")
	exe := "/proc/" + strconv.Itoa(r.state("two").Pid) + "/exe"
	name, err := os.Readlink(exe)
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(name, "/memfd:coble-sealed"), name)
	fd, err := unix.Open(exe, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	require.NoError(t, err)
	defer unix.Close(fd)
	r.ok("start", "two")
	again, err := unix.Open("/proc/self/fd/"+strconv.Itoa(fd), unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err == nil {
		defer unix.Close(again)
		_, err = unix.Write(again, []byte("x"))
	}
	require.ErrorIs(t, err, unix.EPERM, "the program can be written")
	require.Equal(t, "sleep\n", r.ok("exec", "two", "cat", "/proc/1/comm"))
	r.ok("delete", "--force", "two")
	r.ok("run", "-d", "two")
	r.ok("delete", "--force", "two")
	r.spec.Linux.CgroupsPath = path
}

// TestOwnPidNamespace: a path to the caller's own PID namespace is as good as none.
func TestOwnPidNamespace(t *testing.T) {
	r := newRuntime(t, "true")
	for i := range r.spec.Linux.Namespaces {
		if n := &r.spec.Linux.Namespaces[i]; n.Type == specs.PIDNamespace {
			n.Path = "/proc/self/ns/pid"
		}
	}
	r.write()
	r.ok("run", "c")
}
