package sandbox

import (
	"slices"
	"strings"
	"sync"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/sandbox/spawn"
	"github.com/coble-os/coble/sandbox/spec"
)

// TestNamespacesMadeAhead: they are not the machine's, the engine's threads stay where they were, and the superblock of
// sysfs, which is made ahead too, has the options of its mount.
func TestNamespacesMadeAhead(t *testing.T) {
	needRoot(t)
	const show = "readlink /proc/self/ns/net; readlink /proc/self/ns/ipc; grep ' - sysfs ' /proc/self/mountinfo | sed 's/.* - //'; ls /sys/class/net"
	shared := func(s *specs.Spec) {
		s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool {
			return n.Type == specs.NetworkNamespace || n.Type == specs.IPCNamespace
		})
	}
	own := run(t, show, shared).out
	options := []string{"ro", "rw", "sync", "ro"}
	var roots []string
	for range options { // not beside a start: its child would hold the shell open for writing
		roots = append(roots, newRoot(t))
	}
	var wg sync.WaitGroup
	for i, option := range options {
		wg.Go(func() {
			spec := newSpec(roots[i], "sh", "-c", show)
			for i, m := range spec.Mounts {
				if m.Type == "sysfs" {
					spec.Mounts[i].Options = []string{"nosuid", "noexec", "nodev", option}
				}
			}
			res, err := runConfig(t, Config{ID: "test", Spec: spec})
			if !assert.NoError(t, err) {
				return
			}
			lines := strings.Fields(res.out)
			for _, ns := range lines[:2] {
				assert.NotContains(t, own, ns)
			}
			want := map[string]string{"ro": "ro", "rw": "rw", "sync": "rw,sync"}[option]
			assert.Equal(t, []string{"sysfs", "sysfs", want, "lo"}, lines[2:])
		})
	}
	wg.Wait()
	for range 20 {
		require.Equal(t, own, run(t, show, shared).out, "a thread of this process is in a container's namespace")
	}
}

// TestNothingMadeAhead: where a user namespace is to own the new ones, or none are wanted, or they are joined.
func TestNothingMadeAhead(t *testing.T) {
	user, net, ipc := specs.LinuxNamespace{Type: specs.UserNamespace}, specs.LinuxNamespace{Type: specs.NetworkNamespace}, specs.LinuxNamespace{Type: specs.IPCNamespace}
	joined, mount := specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: "/proc/self/ns/net"}, specs.LinuxNamespace{Type: specs.MountNamespace}
	for _, list := range [][]specs.LinuxNamespace{nil, {mount, joined}, {net, ipc, user}, {{Type: specs.UserNamespace, Path: "/proc/self/ns/user"}, net}} {
		a := MakeAhead(&specs.Spec{Linux: &specs.Linux{Namespaces: list}})
		require.Nil(t, a)
		require.Empty(t, a.namespaces())
		a.End()
	}
	for want, list := range map[uint64][]specs.LinuxNamespace{unix.CLONE_NEWNET | unix.CLONE_NEWIPC: {net, mount, ipc}, unix.CLONE_NEWIPC: {joined, ipc}} {
		require.Equal(t, want, spec.NewNamespaces(&specs.Spec{Linux: &specs.Linux{Namespaces: list}})&(unix.CLONE_NEWNET|unix.CLONE_NEWIPC))
	}
}

// TestBegunEarlier: a start takes what its caller has begun, if that is what its spec wants, and leaves the end to the caller.
func TestBegunEarlier(t *testing.T) {
	needRoot(t)
	before := openFDs(t)
	net, ipc := specs.LinuxNamespace{Type: specs.NetworkNamespace}, specs.LinuxNamespace{Type: specs.IPCNamespace}
	for _, row := range []struct {
		begun []specs.LinuxNamespace
		taken bool
	}{{[]specs.LinuxNamespace{net, ipc}, true}, {[]specs.LinuxNamespace{net}, false}} {
		spec := newSpec(newRoot(t), "true")
		a := MakeAhead(&specs.Spec{Mounts: spec.Mounts, Linux: &specs.Linux{Namespaces: row.begun}})
		res, err := runConfig(t, Config{ID: "test", Spec: spec, Ahead: a})
		require.NoError(t, err)
		require.Zero(t, res.exit.Status())
		left := a.namespaces()
		require.Equal(t, row.taken, len(left) == 0)
		spawn.CloseNamespaces(left)
		a.End()
	}
	require.Equal(t, before, openFDs(t))
}

// TestMadeAheadInVain: a start that fails before it needs them leaves no descriptor.
func TestMadeAheadInVain(t *testing.T) {
	needRoot(t)
	before := openFDs(t)
	for range 10 {
		a := MakeAhead(&specs.Spec{
			Mounts: []specs.Mount{{Type: "sysfs"}},
			Linux:  &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.NetworkNamespace}, {Type: specs.IPCNamespace}}},
		})
		a.End()
	}
	require.Equal(t, before, openFDs(t))
}
