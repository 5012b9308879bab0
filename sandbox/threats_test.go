package sandbox

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/sandbox/cgroup"
)

// swap exchanges two names until stop is called.
func swap(a, b string) (stop func()) {
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-quit:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE)
			}
		}
	}()
	return func() { close(quit); <-done }
}

// withoutMount drops the mount on a folder.
func withoutMount(s *specs.Spec, dest string) {
	var kept []specs.Mount
	for _, m := range s.Mounts {
		if m.Destination != dest {
			kept = append(kept, m)
		}
	}
	s.Mounts = kept
}

// TestLinkedKernelFolders: /proc or /sys that is a link, or becomes one while starts go on, is an error or not followed
// (CVE-2019-19921, CVE-2023-27561, CVE-2023-28642).
func TestLinkedKernelFolders(t *testing.T) {
	needRoot(t)
	for _, name := range []string{"proc", "sys"} {
		root := newRoot(t)
		require.NoError(t, os.Remove(filepath.Join(root, name)))
		require.NoError(t, os.Symlink("etc", filepath.Join(root, name)))
		_, err := runConfig(t, Config{Spec: newSpec(root, "true")})
		require.ErrorIs(t, err, unix.ELOOP, name)
	}
	for _, name := range []string{"proc", "sys"} {
		root := newRoot(t)
		require.NoError(t, os.Mkdir(filepath.Join(root, "other"), 0o755))
		require.NoError(t, os.Symlink("other", filepath.Join(root, "link")))
		stop := swap(filepath.Join(root, name), filepath.Join(root, "link"))
		started := 0
		for range rounds(100) {
			res, err := runConfig(t, Config{Spec: newSpec(root, "sh", "-c", "grep -cE ' /other (ro|rw)' /proc/self/mountinfo || true")})
			if err != nil {
				continue
			}
			started++
			if strings.Contains(res.out, "mountinfo") {
				continue // the folder was a link again by the time of the look
			}
			require.Equal(t, "0\n", res.out, name)
		}
		stop()
		t.Logf("%s: %d of 100 started", name, started)
	}
}

// TestFakedProc: what is written for the container goes to a procfs of one's own, whatever the image has in the place
// of /proc (CVE-2019-16884, CVE-2025-52881).
func TestFakedProc(t *testing.T) {
	needRoot(t)
	root := newRoot(t)
	fakes := []string{"proc/sys/kernel/msgmax", "proc/sys/net/ipv4/ip_forward", "proc/self/attr/apparmor/exec", "proc/self/attr/exec", "proc/self/oom_score_adj"}
	for _, f := range fakes {
		require.NoError(t, os.MkdirAll(filepath.Join(root, filepath.Dir(f)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(root, f), nil, 0o666))
	}
	spec := newSpec(root, "sh", "-c", "mkdir -p /p; mount -t proc proc /p && cat /p/sys/kernel/msgmax /p/sys/net/ipv4/ip_forward /p/self/oom_score_adj")
	withoutMount(spec, "/proc")
	all := []string{"CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE"}
	spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: all, Effective: all, Permitted: all}
	spec.Linux.Seccomp, spec.Linux.MaskedPaths, spec.Linux.ReadonlyPaths = nil, nil, nil
	spec.Linux.Sysctl = map[string]string{"kernel.msgmax": "4321", "net.ipv4.ip_forward": "1"}
	spec.Process.OOMScoreAdj = ptr(321)
	if appArmor() {
		spec.Process.ApparmorProfile = "unconfined"
	}
	res, err := runConfig(t, Config{Spec: spec})
	require.NoError(t, err)
	require.Equal(t, "4321\n1\n321\n", res.out)
	for _, f := range fakes {
		b, err := os.ReadFile(filepath.Join(root, f))
		require.NoError(t, err)
		require.Empty(t, b, "%s was written to", f)
	}
}

// TestHostSysctl: a namespace by path that is the machine's own is not the container's to change.
func TestHostSysctl(t *testing.T) {
	needRoot(t)
	spec := newSpec(newRoot(t), "true")
	for i, n := range spec.Linux.Namespaces {
		if n.Type == specs.NetworkNamespace {
			spec.Linux.Namespaces[i].Path = "/proc/self/ns/net"
		}
	}
	spec.Linux.Sysctl = map[string]string{"net.ipv4.ip_forward": "1"}
	_, err := runConfig(t, Config{Spec: spec})
	require.EqualError(t, err, "linux.sysctl: net.ipv4.ip_forward: /proc/self/ns/net is the machine's own")
}

// TestMountsOverProc: nothing of the image or of a volume is mounted over procfs (CVE-2019-16884).
func TestMountsOverProc(t *testing.T) {
	needRoot(t)
	for dest, want := range map[string]string{
		"/proc":           "only procfs may be mounted on /proc",
		"/proc/self/attr": "nothing may be mounted inside /proc but files that describe the machine",
	} {
		spec := newSpec(newRoot(t), "true")
		spec.Mounts = append(spec.Mounts, specs.Mount{Destination: dest, Source: t.TempDir(), Options: []string{"bind"}})
		_, err := runConfig(t, Config{Spec: spec})
		require.ErrorContains(t, err, want)
	}
}

// TestSharedCgroups: without a cgroup namespace of its own a container sees its own groups only, read-only, and no
// release_agent (CVE-2023-25809, CVE-2022-0492), with a user namespace and without.
func TestSharedCgroups(t *testing.T) {
	needRoot(t)
	l, err := cgroup.Detect()
	require.NoError(t, err)
	dir := "/sys/fs/cgroup/memory"
	if l.Unified {
		dir = "/sys/fs/cgroup"
	}
	for _, user := range []bool{false, true} {
		res := run(t, "test -e "+dir+"/release_agent && echo agent; cat "+dir+"/cgroup.procs; mkdir "+dir+"/x; echo 1 > "+dir+"/cgroup.procs", func(s *specs.Spec) {
			if user {
				withUser(t, s)
			}
			for i, n := range s.Linux.Namespaces {
				if n.Type == specs.CgroupNamespace {
					s.Linux.Namespaces = append(s.Linux.Namespaces[:i], s.Linux.Namespaces[i+1:]...)
					break
				}
			}
		})
		lines := strings.Split(res.out, "\n")
		require.Equal(t, "1", lines[0], "user namespace %t: %s", user, res.out)
		require.Contains(t, res.out, "mkdir: can't create directory '"+dir+"/x': Read-only file system")
		require.Contains(t, res.out, "can't create "+dir+"/cgroup.procs: Read-only file system")
	}
}

// TestNothingInherited: no capability is inheritable, in the first process and in later ones (CVE-2022-24769,
// CVE-2022-29162), and no descriptor of the machine is open in them.
func TestNothingInherited(t *testing.T) {
	needRoot(t)
	for name, user := range map[string]bool{"machine": false, "user": true} {
		t.Run(name, func(t *testing.T) {
			target, c := startLong(t, func(s *specs.Spec) {
				if user {
					withUser(t, s)
				}
			})
			entries, err := os.ReadDir("/proc/" + itoa(target.Pid) + "/fd")
			require.NoError(t, err)
			require.Len(t, entries, 3)
			status, err := os.ReadFile("/proc/" + itoa(target.Pid) + "/status")
			require.NoError(t, err)
			require.Contains(t, string(status), "CapInh:\t0000000000000000\n")
			proc := *c.Spec.Process
			proc.Args = []string{"sh", "-c", "grep -E '^Cap(Inh|Amb):' /proc/self/status; ls /proc/self/fd"}
			res, err := execIn(t, target, c, &proc)
			require.NoError(t, err)
			require.Equal(t, "CapInh:\t0000000000000000\nCapAmb:\t0000000000000000\n0\n1\n2\n3\n", res.out)
		})
	}
}

// TestSwappedUserTarget is TestSwappedTarget for a container in a user namespace, whose sources and targets go other ways.
func TestSwappedUserTarget(t *testing.T) {
	needRoot(t)
	root, outside, volume, src := newRoot(t), t.TempDir(), t.TempDir(), t.TempDir()
	require.NoError(t, os.Chmod(outside, 0o777))
	require.NoError(t, os.Mkdir(filepath.Join(volume, "d"), 0o777))
	require.NoError(t, os.Symlink("../../../../../../../../../"+outside, filepath.Join(volume, "l")))
	require.NoError(t, os.Chown(filepath.Join(volume, "d"), userBase, userBase))
	stop := swap(filepath.Join(volume, "d"), filepath.Join(volume, "l"))
	started := 0
	for i := range rounds(200) {
		spec := newSpec(root, "true")
		spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
		spec.Linux.UIDMappings, spec.Linux.GIDMappings = userMappings(), userMappings()
		if i == 0 {
			spec.Linux.Namespaces = spec.Linux.Namespaces[:len(spec.Linux.Namespaces)-1]
			withUser(t, spec)
		}
		spec.Mounts = append(spec.Mounts, specs.Mount{Destination: "/vol", Source: volume, Options: []string{"bind"}},
			specs.Mount{Destination: "/vol/d/new" + itoa(i), Source: src, Options: []string{"bind"}})
		if _, err := runConfig(t, Config{Spec: spec}); err == nil {
			started++
		}
	}
	stop()
	t.Logf("%d started", started)
	require.NotZero(t, started)
	entries, err := os.ReadDir(outside)
	require.NoError(t, err)
	require.Empty(t, entries)
}

// TestKeptWorkingDirectory: a folder of the machine that the container was given a descriptor of is no working directory
// (CVE-2024-21626).
func TestKeptWorkingDirectory(t *testing.T) {
	needRoot(t)
	dir, err := os.Open(t.TempDir())
	require.NoError(t, err)
	defer dir.Close()
	target, c := startLong(t, nil)
	proc := *c.Spec.Process
	proc.Args, proc.Cwd = []string{"pwd"}, "/proc/self/fd/"+itoa(int(dir.Fd()))
	keep := int(dir.Fd()) - 2
	p, err := Exec(context.Background(), ExecConfig{Target: target, CgroupPath: c.CgroupPath, Process: &proc, Preserve: keep})
	if err == nil {
		require.NoError(t, p.destroy()) // or the end of the container would wait for it
	}
	require.EqualError(t, err, "check that working directory "+proc.Cwd+" is inside the root: unexpected result of getcwd")
	spec := newSpec(newRoot(t), "pwd")
	spec.Process.Cwd = proc.Cwd
	_, err = runConfig(t, Config{Spec: spec, Preserve: keep})
	require.ErrorIs(t, err, unix.ELOOP, "a first process's is made if it is missing, and never through a magic link")
}

// TestWrongDevice: in a user namespace the machine's node must be the device that the spec means.
func TestWrongDevice(t *testing.T) {
	needRoot(t)
	spec := newSpec(newRoot(t), "true")
	withUser(t, spec)
	spec.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/zero", Type: "c", Major: 1, Minor: 3}}
	_, err := runConfig(t, Config{Spec: spec})
	require.EqualError(t, err, "open device /dev/zero of the machine: unexpected result of statx")
}
