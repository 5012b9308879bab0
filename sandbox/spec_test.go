package sandbox

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestTimeNamespace: clocks of its own, whether the execve moves the process or, as before Linux 6.3, it goes itself.
func TestTimeNamespace(t *testing.T) {
	needRoot(t)
	for _, old := range []bool{false, true} {
		for _, user := range []bool{false, true} {
			spec := newSpec(newRoot(t), "sh", "-c", "cut -d. -f1 /proc/uptime; tr -s ' ' < /proc/self/timens_offsets")
			if user {
				withUser(t, spec)
			}
			spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace})
			spec.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {Secs: 10000000}, "monotonic": {Secs: 5, Nanosecs: 7}}
			res, err := runConfig(t, Config{Spec: spec, noTimeOnExec: old})
			require.NoError(t, err)
			lines := strings.Split(res.out, "\n")
			require.Regexp(t, `^1\d{7}$`, lines[0], "user namespace: %t", user)
			require.Equal(t, []string{"monotonic 5 7", "boottime 10000000 0"}, lines[1:3])
		}
	}
}

// TestJoinTimeNamespace: by a later process of the container, and by another container.
func TestJoinTimeNamespace(t *testing.T) {
	needRoot(t)
	target, c := startLong(t, func(s *specs.Spec) {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace})
		s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {Secs: 10000000}}
	})
	want, err := os.Readlink("/proc/" + itoa(target.Pid) + "/ns/time")
	require.NoError(t, err)
	own, err := os.Readlink("/proc/self/ns/time")
	require.NoError(t, err)
	require.NotEqual(t, own, want)
	proc := *c.Spec.Process
	proc.Args = []string{"sh", "-c", "readlink /proc/self/ns/time; cut -d. -f1 /proc/uptime"}
	res, err := execIn(t, target, c, &proc)
	require.NoError(t, err)
	require.Regexp(t, "^"+regexp.QuoteMeta(want)+"\n1\\d{7}\n$", res.out)
	proc.Args = []string{"nope"}
	_, err = execIn(t, target, c, &proc)
	require.EqualError(t, err, `exec: "nope": executable file not found in $PATH`, "a copy reports as others do")
	spec := newSpec(newRoot(t), "readlink", "/proc/self/ns/time")
	spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace, Path: "/proc/" + itoa(target.Pid) + "/ns/time"})
	res, err = runConfig(t, Config{Spec: spec})
	require.NoError(t, err)
	require.Equal(t, want+"\n", res.out)
}

// TestCopyUp: a tmpfs that starts with what it covers; links are copied, not followed.
func TestCopyUp(t *testing.T) {
	needRoot(t)
	for _, user := range []bool{false, true} {
		root, secret := newRoot(t), filepath.Join(t.TempDir(), "secret")
		require.NoError(t, os.WriteFile(secret, []byte("secret"), 0o600))
		require.NoError(t, os.MkdirAll(filepath.Join(root, "srv/sub"), 0o750))
		require.NoError(t, os.WriteFile(filepath.Join(root, "srv/sub/file"), []byte("text\n"), 0o640))
		require.NoError(t, os.Chown(filepath.Join(root, "srv/sub/file"), 7, 8))
		require.NoError(t, os.Symlink(secret, filepath.Join(root, "srv/link")))
		require.NoError(t, unix.Mkfifo(filepath.Join(root, "srv/pipe"), 0o600))
		spec := newSpec(root, "sh", "-c", "cat /srv/sub/file; stat -c '%u:%g %a' /srv/sub/file /srv/sub; readlink /srv/link; test -p /srv/pipe && echo pipe; touch /srv/new; grep -c ' /srv ro' /proc/self/mountinfo")
		want := "text\n7:8 640\n0:0 750\n" + secret + "\npipe\ntouch: /srv/new: Read-only file system\n1\n"
		if user {
			withUser(t, spec)
			want = strings.Replace(want, "7:8", "0:0", 1)
		}
		spec.Mounts = append(spec.Mounts, specs.Mount{Destination: "/srv", Type: "tmpfs", Source: "tmpfs", Options: []string{"ro", "tmpcopyup", "size=1m", "mode=755"}})
		res, err := runConfig(t, Config{Spec: spec})
		require.NoError(t, err)
		require.Equal(t, want, res.out)
		require.NoFileExists(t, filepath.Join(root, "srv/new"))
		spec.Mounts[len(spec.Mounts)-1].Options = []string{"tmpcopyup", "size=4k"}
		require.NoError(t, os.WriteFile(filepath.Join(root, "srv/large"), make([]byte, 100000), 0o644))
		_, err = runConfig(t, Config{Spec: spec})
		require.ErrorIs(t, err, unix.ENOSPC)
	}
}

// TestPropagation: what the spec says about the root, and mounts that travel or do not.
func TestPropagation(t *testing.T) {
	needRoot(t)
	for mode, want := range map[string]string{
		"shared": "shared:", "rshared": "shared:", "slave": "", "private": "", "unbindable": "unbindable", "": "",
	} {
		res := run(t, "grep ' / / ' /proc/self/mountinfo || grep ' / rw' /proc/self/mountinfo | head -n1", func(s *specs.Spec) { s.Linux.RootfsPropagation = mode })
		fields, _, _ := strings.Cut(res.out, " - ")
		require.Contains(t, fields, want, mode)
		if want == "" {
			require.NotContains(t, fields, "shared:", mode)
		}
		host, err := os.ReadFile("/proc/self/mountinfo")
		require.NoError(t, err)
		require.NotContains(t, string(host), t.TempDir(), mode)
	}
	options := []string{"unbindable", "nosymfollow", "noatime", "ro"}
	if hasMountSetattr() {
		options[3] = "rro"
	}
	res := run(t, "grep ' /srv ' /proc/self/mountinfo", func(s *specs.Spec) {
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/srv", Type: "tmpfs", Source: "tmpfs", Options: options})
	})
	require.Contains(t, res.out, " ro,noatime,nosymfollow unbindable - ")
}

// TestSharedVolume: a mount made in a shared volume shows on the machine, and unmounting the old root does not take the
// machine's mounts away.
func TestSharedVolume(t *testing.T) {
	needRoot(t)
	if os.Getenv("COBLE_TEST_SHARED") == "" {
		cmd := exec.Command("/proc/self/exe", "-test.run", "^TestSharedVolume$", "-test.v")
		cmd.Env = append(os.Environ(), "COBLE_TEST_SHARED=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		return
	}
	volume := t.TempDir()
	require.NoError(t, unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""))
	require.NoError(t, unix.Mount("tmpfs", volume, "tmpfs", 0, ""))
	require.NoError(t, unix.Mount("", "/", "", unix.MS_SHARED|unix.MS_REC, ""))
	require.NoError(t, os.Mkdir(volume+"/sub", 0o755))
	before, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	spec := newSpec(newRoot(t), "sh", "-c", "mount -t tmpfs inner /vol/sub && mount -t tmpfs private /tmp")
	all := []string{"CAP_SYS_ADMIN"}
	spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: all, Effective: all, Permitted: all}
	spec.Linux.Seccomp, spec.Linux.RootfsPropagation = nil, "rshared"
	spec.Mounts = append(spec.Mounts, specs.Mount{Destination: "/vol", Source: volume, Options: []string{"rbind", "rshared"}})
	res, err := runConfig(t, Config{Spec: spec})
	require.NoError(t, err)
	require.Zero(t, res.exit.Status(), res.out)
	after, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	require.Equal(t, strings.Count(string(before), "\n")+1, strings.Count(string(after), "\n"), "%s", after)
	require.Contains(t, string(after), volume+"/sub ")
	require.NoError(t, unix.Unmount(volume+"/sub", 0))
	require.NoError(t, unix.Unmount(volume, unix.MNT_DETACH))
}

// TestMountOverRoot: what is mounted on / is the root.
func TestMountOverRoot(t *testing.T) {
	needRoot(t)
	other := newRoot(t)
	require.NoError(t, os.WriteFile(filepath.Join(other, "other"), nil, 0o644))
	res := run(t, "ls /other; ls -d /proc/1", func(s *specs.Spec) {
		s.Mounts = append([]specs.Mount{{Destination: "/", Source: other, Options: []string{"rbind"}}}, s.Mounts...)
	})
	require.Equal(t, "/other\n/proc/1\n", res.out)
}

// TestDanglingTarget: a file is mounted where links of the image lead to, inside the root, though nothing is there.
func TestDanglingTarget(t *testing.T) {
	needRoot(t)
	outside := t.TempDir()
	for link, at := range map[string]string{
		"../tmp/made": "/tmp/made", "../run/systemd/resolve/stub": "/run/systemd/resolve/stub", "/new/./b": "/new/b",
		"../../../.." + outside + "/x/file": outside + "/x/file", "/hop/file": "/run/hop/file",
	} {
		root, host := newRoot(t), filepath.Join(t.TempDir(), "conf")
		require.NoError(t, os.WriteFile(host, []byte("conf\n"), 0o644))
		require.NoError(t, os.Symlink(link, filepath.Join(root, "etc/resolv.conf")))
		require.NoError(t, os.Symlink("run/hop", filepath.Join(root, "hop")))
		spec := newSpec(root, "sh", "-c", "cat /etc/resolv.conf "+at)
		spec.Mounts = append(spec.Mounts, specs.Mount{Destination: "/etc/resolv.conf", Source: host, Options: []string{"bind"}})
		res, err := runConfig(t, Config{Spec: spec})
		require.NoError(t, err, link)
		require.Equal(t, "conf\nconf\n", res.out, link)
	}
	entries, err := os.ReadDir(outside)
	require.NoError(t, err)
	require.Empty(t, entries, "something was made outside the root")
	spec := newSpec(newRoot(t), "true")
	for from, to := range map[string]string{"loop": "pool", "pool": "loop"} {
		require.NoError(t, os.Symlink(to, filepath.Join(spec.Root.Path, from)))
	}
	spec.Mounts = append(spec.Mounts, specs.Mount{Destination: "/loop/x", Source: "/etc", Options: []string{"bind"}})
	_, err = runConfig(t, Config{Spec: spec})
	require.ErrorIs(t, err, unix.ELOOP)
}

// TestJoinMountNamespace: a mount namespace by path is entered, and the root is made in it.
func TestJoinMountNamespace(t *testing.T) {
	needRoot(t)
	holder := exec.Command("/bin/sleep", "1000")
	holder.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	require.NoError(t, holder.Start())
	t.Cleanup(func() { _ = holder.Process.Kill(); _ = holder.Wait() })
	path := "/proc/" + itoa(holder.Process.Pid) + "/ns/mnt"
	want, err := os.Readlink(path)
	require.NoError(t, err)
	join := func(path string) func(*specs.Spec) {
		return func(s *specs.Spec) { s.Linux.Namespaces[0].Path = path }
	}
	require.Equal(t, want+"\n", run(t, "readlink /proc/self/ns/mnt", join(path)).out)
	// That the machine's own is refused is tested on plans alone: a mistake would change the machine's root.
	own := ownNamespaces([]specs.LinuxNamespace{
		{Type: specs.MountNamespace, Path: "/proc/self/ns/mnt"},
		{Type: specs.NetworkNamespace, Path: "/proc/1/ns/none"},
		{Type: specs.PIDNamespace, Path: path},
	})
	require.Equal(t, map[string]bool{"/proc/self/ns/mnt": true}, own)
}

// TestSchedulerAndPriorities are seen from inside.
func TestSchedulerAndPriorities(t *testing.T) {
	needRoot(t)
	res := run(t, "cut -d' ' -f19,41 /proc/self/stat; cat /proc/self/personality", func(s *specs.Spec) {
		s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedBatch, Nice: 7}
		s.Process.IOPriority = &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_IDLE}
		s.Linux.Personality = &specs.LinuxPersonality{Domain: specs.PerLinux, Flags: []specs.LinuxPersonalityFlag{"ADDR_NO_RANDOMIZE"}}
		s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolPreferred, Nodes: "0"}
	})
	require.Equal(t, "7 3\n00040000\n", res.out)
	target, c := startLong(t, func(s *specs.Spec) {
		s.Process.IOPriority = &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_BE, Priority: 6}
	})
	prio, _, errno := unix.Syscall(unix.SYS_IOPRIO_GET, 1, uintptr(target.Pid), 0)
	require.Zero(t, errno)
	require.Equal(t, uintptr(2<<13|6), prio)
	proc := *c.Spec.Process
	proc.ExecCPUAffinity = &specs.CPUAffinity{Initial: "0-1", Final: "0"}
	proc.Args = []string{"sh", "-c", "grep Cpus_allowed_list /proc/self/status"}
	res, err := execIn(t, target, c, &proc)
	require.NoError(t, err)
	require.Equal(t, "Cpus_allowed_list:\t0\n", res.out)
}

// TestLabels: a security module that is not there is an error; AppArmor, where it is, confines.
func TestLabels(t *testing.T) {
	needRoot(t)
	spec := newSpec(newRoot(t), "cat", "/proc/self/attr/apparmor/current")
	spec.Process.ApparmorProfile = "unconfined"
	res, err := runConfig(t, Config{Spec: spec})
	if !appArmor() {
		require.ErrorContains(t, err, "process.apparmorProfile: this kernel runs without AppArmor (CONFIG_SECURITY_APPARMOR")
	} else {
		require.NoError(t, err)
		require.Equal(t, "unconfined\n", res.out)
		spec.Process.ApparmorProfile = "no-such-profile"
		_, err = runConfig(t, Config{Spec: spec})
		require.EqualError(t, err, "enter AppArmor profile no-such-profile, which must have been loaded: no such file or directory")
		target, c := startLong(t, nil)
		proc := *c.Spec.Process
		proc.ApparmorProfile, proc.Args = "unconfined", []string{"cat", "/proc/self/attr/apparmor/current"}
		res, err = execIn(t, target, c, &proc)
		require.NoError(t, err)
		require.Equal(t, "unconfined\n", res.out)
	}
	spec.Process.ApparmorProfile, spec.Process.SelinuxLabel = "", "system_u:system_r:container_t:s0"
	_, err = runConfig(t, Config{Spec: spec})
	require.ErrorContains(t, err, "process.selinuxLabel: this kernel runs without SELinux (CONFIG_SECURITY_SELINUX")
}

// TestNetDevices: a link moves in, with its address, under another name; a name that is taken is an error.
func TestNetDevices(t *testing.T) {
	needRoot(t)
	ip := func(args ...string) {
		out, err := exec.Command("ip", args...).CombinedOutput()
		require.NoError(t, err, "%v: %s", args, out)
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Fatal("ip is missing: run make deps (package iproute2)")
	}
	ip("link", "add", "cbtest0", "type", "veth", "peer", "name", "cbtest1")
	t.Cleanup(func() { _ = exec.Command("ip", "link", "del", "cbtest0").Run() }) // gone already, if all went well
	ip("addr", "add", "198.51.100.7/24", "dev", "cbtest0")
	spec := newSpec(newRoot(t), "sh", "-c", "cat /sys/class/net/eth7/flags; grep -c 198.51.100.7 /proc/net/fib_trie; ls /sys/class/net")
	spec.Linux.NetDevices = map[string]specs.LinuxNetDevice{"cbtest0": {Name: "lo"}}
	_, err := runConfig(t, Config{Spec: spec})
	require.ErrorIs(t, err, unix.EEXIST)
	require.ErrorContains(t, err, "move link cbtest0: ")
	spec.Linux.NetDevices = map[string]specs.LinuxNetDevice{"cbtest0": {Name: "eth7"}}
	res, err := runConfig(t, Config{Spec: spec})
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(res.out, "0x"), res.out)
	require.Equal(t, []string{"2", "eth7", "lo", ""}, strings.Split(res.out, "\n")[1:])
	spec.Linux.NetDevices = map[string]specs.LinuxNetDevice{"cbnone": {}}
	_, err = Start(context.Background(), Config{Spec: spec})
	require.ErrorContains(t, err, "move link cbnone: Link not found")
}

// TestKeptFlags: a bind mount that becomes read-only keeps what its source's mount forbids, also where a remount sets all
// flags anew (before Linux 5.12), with a user namespace, where the kernel insists on it, and without.
func TestKeptFlags(t *testing.T) {
	needRoot(t)
	if os.Getenv("COBLE_TEST_KEPT") == "" {
		cmd := exec.Command("/proc/self/exe", "-test.run", "^TestKeptFlags$", "-test.v")
		cmd.Env = append(os.Environ(), "COBLE_TEST_KEPT=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		return
	}
	require.NoError(t, unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""))
	volume := t.TempDir()
	require.NoError(t, unix.Mount("tmpfs", volume, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""))
	for _, old := range []bool{false, true} {
		for _, user := range []bool{false, true} {
			spec := newSpec(newRoot(t), "grep", " /vol ", "/proc/self/mountinfo")
			if user {
				withUser(t, spec)
			}
			spec.Mounts = append(spec.Mounts, specs.Mount{Destination: "/vol", Source: volume, Options: []string{"rbind", "ro"}})
			res, err := runConfig(t, Config{Spec: spec, noSetattr: old})
			require.NoError(t, err, "before 5.12: %t, user namespace: %t", old, user)
			require.Contains(t, res.out, " ro,nosuid,nodev,noexec,", "before 5.12: %t, user namespace: %t", old, user)
		}
	}
	require.NoError(t, unix.Unmount(volume, unix.MNT_DETACH))
}
