package ocispec_test

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"

	"github.com/coble-os/coble/layers/image"
	"github.com/coble-os/coble/rt/ocispec"
	"github.com/coble-os/coble/rt/request"
	"github.com/coble-os/coble/rt/store"
	"github.com/coble-os/coble/sandbox/rootfs"
)

// specOf is what the engine makes of a request, with the parts that chance decides held still.
func specOf(t *testing.T, in request.Create) store.Spec {
	t.Helper()
	in.Config.Image = "box"
	require.NoError(t, request.Check(in, request.Machine{CPUs: 4}))
	var img image.Image
	img.Config.Env, img.Config.Cmd = []string{"PATH=/bin", "LANG=C"}, []string{"sh"}
	spec, err := request.Record(in, img, strings.Repeat("0123456789abcdef", 4), time.Time{})
	require.NoError(t, err)
	return spec
}

func mountAt(s *specs.Spec, at string) specs.Mount {
	return s.Mounts[slices.IndexFunc(s.Mounts, func(m specs.Mount) bool { return m.Destination == at })]
}

// TestOutlineJoins: a namespace of another container's is none to make, whoever that is.
func TestOutlineJoins(t *testing.T) {
	h := container.HostConfig{NetworkMode: "container:a", IpcMode: "container:b", PidMode: "container:c"}
	for _, n := range ocispec.Outline(store.Spec{Host: h}).Linux.Namespaces {
		joined := n.Type == specs.NetworkNamespace || n.Type == specs.IPCNamespace || n.Type == specs.PIDNamespace
		require.Equal(t, joined, n.Path != "", n.Type)
	}
}

var update = flag.Bool("update", false, "write the golden files anew")

func TestGoldenSpecs(t *testing.T) {
	pids, swappiness, umask := int64(64), int64(10), uint32(0o27)
	root := rootfs.User{Groups: []uint32{0}, Home: "/root"}
	for name, c := range map[string]struct {
		in   request.Create
		user rootfs.User
	}{
		"plain": {request.Create{}, root},
		"service": {request.Create{
			Config: container.Config{Env: []string{"TZ=UTC", "LANG"}, Cmd: []string{"nginx", "-g", "daemon off;"}, Hostname: "web", WorkingDir: "/srv", User: "1000:50"},
			Host: container.HostConfig{
				Binds: []string{"/data/www:/var/www:ro"}, ReadonlyRootfs: true, Tmpfs: map[string]string{"/tmp": "size=1m"}, SecurityOpt: []string{"no-new-privileges"},
				Resources: container.Resources{Memory: 32 << 20, NanoCPUs: 5e8, PidsLimit: &pids},
			},
		}, rootfs.User{UID: 1000, GID: 50, Groups: []uint32{50}, Home: "/srv/web"}},
		"terminal": {request.Create{
			Config: container.Config{Tty: true, OpenStdin: true},
			Host:   container.HostConfig{ConsoleSize: [2]uint{33, 99}, NetworkMode: "none"},
		}, root},
		"host": {request.Create{
			Config: container.Config{},
			Host:   container.HostConfig{NetworkMode: "host", PidMode: "host", IpcMode: "host", UTSMode: "host", CgroupnsMode: "host", SecurityOpt: []string{"seccomp=unconfined"}},
		}, root},
		"privileged":   {request.Create{Host: container.HostConfig{Privileged: true, IpcMode: "none", CgroupnsMode: "host"}}, root},
		"capabilities": {request.Create{Host: container.HostConfig{CapAdd: []string{"NET_ADMIN", "cap_sys_time"}, CapDrop: []string{"ALL"}}}, root},
		"limits": {request.Create{Host: container.HostConfig{
			Mounts:      []mount.Mount{{Type: mount.TypeTmpfs, Target: "/scratch", TmpfsOptions: &mount.TmpfsOptions{SizeBytes: 4096}}, {Type: mount.TypeBind, Source: "/a", Target: "/dev/shm", ReadOnly: true}},
			OomScoreAdj: 500, Sysctls: map[string]string{"net.core.somaxconn": "10"}, ShmSize: 1 << 20,
			Resources: container.Resources{
				CPUShares: 512, CPUPeriod: 50000, CPUQuota: 25000, CpusetCpus: "0", CpusetMems: "0", MemoryReservation: 8 << 20, MemorySwappiness: &swappiness,
				Ulimits: []*units.Ulimit{{Name: "nofile", Soft: 10, Hard: 20}},
			},
		}}, root},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "limits" {
				c.in.Host.Umask = &umask
			}
			spec, err := ocispec.Build(ocispec.Input{Spec: specOf(t, c.in), User: c.user, RunDir: "/run/coble/c/ID"})
			require.NoError(t, err)
			outline := ocispec.Outline(specOf(t, c.in))
			require.Equal(t, spec.Linux.Namespaces, outline.Linux.Namespaces)
			require.Equal(t, mountAt(spec, "/sys"), mountAt(outline, "/sys"))
			shorten(spec)
			got, err := json.MarshalIndent(spec, "", "\t")
			require.NoError(t, err)
			file := filepath.Join("testdata", name+".json")
			if *update {
				require.NoError(t, os.WriteFile(file, append(got, '\n'), 0o644))
			}
			want, err := os.ReadFile(file)
			require.NoError(t, err)
			require.Equal(t, string(want), string(got)+"\n")
		})
	}
}

// shorten leaves of the seccomp filter only that there is one: sandbox/seccomp has goldens of its own.
func shorten(s *specs.Spec) {
	if f := s.Linux.Seccomp; f != nil {
		s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: f.DefaultAction}
	}
}
