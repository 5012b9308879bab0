package oci

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

// withoutMountNS is a runtime whose bundle has no mount namespace.
func withoutMountNS(t testing.TB, script string) *runtime {
	r := newRuntime(t, script)
	r.spec.Linux.Namespaces = slices.DeleteFunc(r.spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool {
		return n.Type == specs.MountNamespace
	})
	r.spec.Root.Readonly = true
	r.write()
	return r
}

// mountsBelow lists what is mounted on and below the bundle.
func (r *runtime) mountsBelow() (list []string) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(r, err)
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); strings.HasPrefix(f[4], r.bundle+"/") {
			list = append(list, f[4])
		}
	}
	return list
}

// TestWithoutMountNS: the mounts are the machine's, private, below one on the root, and go with the container; the
// command and those that come later have the container's root, and not the machine's.
func TestWithoutMountNS(t *testing.T) {
	r := withoutMountNS(t, "exec sleep 1000")
	host, err := os.Readlink("/proc/self/ns/mnt")
	require.NoError(t, err)
	require.NoError(t, unix.Mount(r.bundle, r.bundle, "", unix.MS_BIND, "")) // shared, as systemd has it
	t.Cleanup(func() { require.NoError(t, unix.Unmount(r.bundle, unix.MNT_DETACH)) })
	require.NoError(t, unix.Mount("", r.bundle, "", unix.MS_SHARED, ""))
	require.Empty(t, r.mountsBelow())
	r.ok("run", "-d", "c")
	require.Contains(t, r.mountsBelow(), filepath.Join(r.bundle, "rootfs/proc"))
	b, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	for line := range strings.Lines(string(b)) {
		if strings.Contains(line, " "+r.bundle+"/") {
			require.NotRegexp(t, " (shared|master):", line, "others get copies of it, or their mounts appear in it")
		}
	}
	out := r.ok("exec", "c", "sh", "-c", "readlink /proc/self/ns/mnt; echo /bin/*; touch /x || echo read-only")
	require.Contains(t, out, host)
	require.Contains(t, out, "/bin/busybox /bin/cat ")
	require.Contains(t, out, "read-only")
	require.NoFileExists(t, filepath.Join(r.bundle, "rootfs/x"))
	r.ok("delete", "--force", "c")
	require.Empty(t, r.mountsBelow())
}

// TestFailedWithoutMountNS: neither a start that fails half-way nor a container that was not started leaves a mount.
// What was mounted on the root before stays.
func TestFailedWithoutMountNS(t *testing.T) {
	r := withoutMountNS(t, "true")
	r.spec.Mounts = append(r.spec.Mounts, specs.Mount{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs", Options: []string{"size=rubbish"}})
	r.write()
	out, status := r.do("run", "c")
	require.NotZero(t, status)
	require.Contains(t, out, "mount tmpfs on /tmp")
	require.Empty(t, r.mountsBelow())
	r.spec.Mounts = r.spec.Mounts[:len(r.spec.Mounts)-1]
	r.write()
	r.ok("create", "c")
	require.NotEmpty(t, r.mountsBelow())
	r.ok("delete", "c")
	require.Empty(t, r.mountsBelow())

	root := filepath.Join(r.bundle, "rootfs")
	require.NoError(t, unix.Mount(root, root, "", unix.MS_BIND, ""))
	defer func() { require.NoError(t, unix.Unmount(root, 0)) }()
	r.ok("run", "c")
	require.Equal(t, []string{root}, r.mountsBelow())
}

// TestUserWithoutMountNS: only the machine's root could make such mounts.
func TestUserWithoutMountNS(t *testing.T) {
	r := withoutMountNS(t, "true")
	r.spec.Linux.Namespaces = append(r.spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	ids := []specs.LinuxIDMapping{{HostID: 100000, Size: 65536}}
	r.spec.Linux.UIDMappings, r.spec.Linux.GIDMappings = ids, ids
	r.write()
	r.fails(1, "with a user namespace a root folder needs a mount namespace", "run", "c")
	require.Empty(t, r.mountsBelow())
}
