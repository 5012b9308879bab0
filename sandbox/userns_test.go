package sandbox

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// userBase is where the numbers of test containers start.
const userBase = 100000

func userMappings() []specs.LinuxIDMapping {
	return []specs.LinuxIDMapping{{ContainerID: 0, HostID: userBase, Size: 65536}}
}

// withUser gives a spec a user namespace and its root folder to that namespace's root.
func withUser(t testing.TB, s *specs.Spec) {
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	s.Linux.UIDMappings, s.Linux.GIDMappings = userMappings(), userMappings()
	require.NoError(t, filepath.WalkDir(s.Root.Path, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, userBase, userBase)
	}))
}

// TestUserNamespace: root inside is nobody of importance outside, and all that a container has works.
func TestUserNamespace(t *testing.T) {
	needRoot(t)
	closed := t.TempDir() // a bind source behind a folder that only root may enter
	require.NoError(t, os.Chmod(closed, 0o700))
	require.NoError(t, os.Mkdir(filepath.Join(closed, "src"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(closed, "src/file"), []byte("reached\n"), 0o644))
	res := run(t, `cat /proc/self/uid_map | tr -s ' '; id; hostname; touch /made && stat -c %u:%g /made; cat /mnt/file; touch /mnt/x
head -c1 /dev/zero | wc -c; echo x > /dev/null && echo null; ls -l /dev/tty | cut -c1; cat /proc/self/oom_score_adj; ulimit -Hn
cat /proc/timer_list | wc -c; echo 1 > /proc/sys/kernel/printk; grep CapEff /proc/self/status; cat /proc/sys/net/ipv4/ip_forward
mount -t tmpfs none /tmp || echo filtered; ls /sys/class/net; echo to-stdout > /dev/stdout`, func(s *specs.Spec) {
		withUser(t, s)
		s.Process.OOMScoreAdj = ptr(321)
		s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 100, Hard: 200}}
		s.Linux.Sysctl = map[string]string{"net.ipv4.ip_forward": "1"}
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/mnt", Source: filepath.Join(closed, "src"), Options: []string{"rbind", "ro"}})
	})
	require.Equal(t, " 0 100000 65536\nuid=0 gid=0\nbox\n0:0\nreached\ntouch: /mnt/x: Read-only file system\n1\nnull\nc\n321\n200\n"+
		"0\nsh: can't create /proc/sys/kernel/printk: Read-only file system\nCapEff:\t00000000a80425fb\n1\n"+
		"mount: permission denied (are you root?)\nfiltered\nlo\nto-stdout\n", res.out)
}

// TestUserNamespaceUser: another user of the namespace, with pipes of his own.
func TestUserNamespaceUser(t *testing.T) {
	needRoot(t)
	res := run(t, "id -u; echo out > /dev/stdout; stat -L -c %u /dev/stdout", func(s *specs.Spec) {
		withUser(t, s)
		s.Process.User = specs.User{UID: 1000, GID: 1000}
	})
	require.Equal(t, "1000\nout\n1000\n", res.out)
	spec := newSpec(newRoot(t), "true")
	withUser(t, spec)
	spec.Process.User.UID = 70000
	_, err := runConfig(t, Config{Spec: spec})
	require.EqualError(t, err, "process.user.uid: 70000 is not mapped")
}

// TestUserNamespaceOfHost: namespaces that are not the container's own, whose file systems its root may not mount.
func TestUserNamespaceOfHost(t *testing.T) {
	needRoot(t)
	res := run(t, "test -d /proc/1/task && echo proc; test -e /sys/class/net/lo && echo sys; test -d /dev/mqueue && echo mqueue; "+
		"touch /sys/x; readlink /proc/self/ns/net; cat /proc/self/cgroup | grep -vc :/$; ls -d /sys/fs/cgroup/*", func(s *specs.Spec) {
		withUser(t, s)
		s.Linux.Namespaces = []specs.LinuxNamespace{{Type: "mount"}, {Type: "user"}, {Type: "uts"}}
		s.Process.Cwd = "/"
	})
	own, err := os.Readlink("/proc/self/ns/net")
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(res.out, "proc\nsys\nmqueue\ntouch: /sys/x: Read-only file system\n"+own+"\n"), res.out)
}

// TestUserNamespaceTerminal: the terminal is the user's.
func TestUserNamespaceTerminal(t *testing.T) {
	needRoot(t)
	spec := newSpec(newRoot(t), "sh", "-c", "tty; stat -c %u $(tty); test -c /dev/console && echo console")
	withUser(t, spec)
	spec.Process.Terminal = true
	p, err := Start(context.Background(), Config{Spec: spec, CgroupPath: cgroupPath(t)})
	require.NoError(t, err)
	out, err := io.ReadAll(p.Console)
	require.ErrorIs(t, err, unix.EIO)
	require.Equal(t, "/dev/pts/0\r\n0\r\nconsole\r\n", string(out))
	_, err = p.Reap()
	require.NoError(t, err)
	require.NoError(t, p.Close())
}

// TestExecUserNamespace: another process is in the user namespace too.
func TestExecUserNamespace(t *testing.T) {
	needRoot(t)
	target, c := startLong(t, func(s *specs.Spec) { withUser(t, s) })
	proc := *c.Spec.Process
	proc.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 100, Hard: 200}}
	proc.Args = []string{"sh", "-c", "readlink /proc/self/ns/user; id -u; grep CapEff /proc/self/status; ulimit -n; echo ok > /dev/stdout; touch /x; stat -c %u /x"}
	res, err := execIn(t, target, c, &proc)
	require.NoError(t, err)
	want, err := os.Readlink("/proc/" + itoa(target.Pid) + "/ns/user")
	require.NoError(t, err)
	require.Equal(t, want+"\n0\nCapEff:\t00000000a80425fb\n100\nok\n0\n", res.out)
}

// TestJoinUserNamespace: a second container in the user and network namespaces of a first, as the containers of a pod.
func TestJoinUserNamespace(t *testing.T) {
	needRoot(t)
	first, c := startLong(t, func(s *specs.Spec) { withUser(t, s) })
	for _, joined := range [][]string{{"user"}, {"user", "network", "ipc", "uts"}} {
		spec := newSpec(newRoot(t), "sh", "-c", "readlink /proc/self/ns/user; readlink /proc/self/ns/net; hostname; echo $$; id -u; touch /x && stat -c %u /x; "+
			"head -c1 /dev/zero | wc -c; ls /sys/class/net; ls /dev/mqueue; echo > /dev/stdout")
		withUser(t, spec)
		spec.Linux.UIDMappings, spec.Linux.GIDMappings = nil, nil
		for i, n := range spec.Linux.Namespaces {
			for _, name := range joined {
				if string(n.Type) == name {
					spec.Linux.Namespaces[i].Path = "/proc/" + itoa(first.Pid) + "/ns/" + map[string]string{"network": "net"}[name]
					if name != "network" {
						spec.Linux.Namespaces[i].Path += name
					}
				}
			}
		}
		if len(joined) > 1 {
			spec.Hostname = ""
		}
		res, err := runConfig(t, Config{Spec: spec, CgroupPath: c.CgroupPath + "-second"})
		require.NoError(t, err)
		removeGroup(t, c.CgroupPath+"-second")
		user, err := os.Readlink("/proc/" + itoa(first.Pid) + "/ns/user")
		require.NoError(t, err)
		net, err := os.Readlink("/proc/" + itoa(first.Pid) + "/ns/net")
		require.NoError(t, err)
		lines := strings.Split(res.out, "\n")
		require.Equal(t, user, lines[0])
		require.Equal(t, len(joined) > 1, net == lines[1])
		require.Equal(t, []string{"box", "1", "0", "0", "1", "lo", "", ""}, lines[2:])
	}
}

// TestNewUserInOldNamespaces: a user namespace of its own, in the network namespace of another container.
func TestNewUserInOldNamespaces(t *testing.T) {
	needRoot(t)
	first, c := startLong(t, nil)
	net := "/proc/" + itoa(first.Pid) + "/ns/net"
	own, err := os.Readlink("/proc/self/ns/net")
	require.NoError(t, err)
	spec := newSpec(newRoot(t), "sh", "-c", "readlink /proc/self/ns/net; ls /sys/class/net")
	withUser(t, spec)
	for i, n := range spec.Linux.Namespaces {
		if n.Type == "network" {
			spec.Linux.Namespaces[i].Path = net
		}
	}
	res, err := runConfig(t, Config{Spec: spec, CgroupPath: c.CgroupPath + "-second"})
	require.NoError(t, err)
	removeGroup(t, c.CgroupPath+"-second")
	want, err := os.Readlink(net)
	require.NoError(t, err)
	require.Equal(t, want+"\nlo\n", res.out)
	again, err := os.Readlink("/proc/thread-self/ns/net")
	require.NoError(t, err)
	require.Equal(t, own, again)
}

// TestIdMapped: files of a bind source and of the root belong to whom the mappings say.
func TestIdMapped(t *testing.T) {
	needRoot(t)
	if !hasMountSetattr() {
		t.Skip("this kernel has no id-mapped mounts (Linux 5.12)")
	}
	src := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(src, "file"), nil, 0o644))
	require.NoError(t, os.Chown(filepath.Join(src, "file"), 5, 6))
	bind := func(s *specs.Spec, o ...string) {
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/mnt", Source: src, Options: o})
	}
	res := run(t, "stat -c %u:%g /mnt/file; touch /mnt/new", func(s *specs.Spec) { // in a user namespace
		withUser(t, s)
		bind(s, "rbind", "ridmap")
	})
	require.Equal(t, "5:6\n", res.out)
	var st unix.Stat_t
	require.NoError(t, unix.Stat(filepath.Join(src, "new"), &st))
	require.Zero(t, st.Uid, "made by root inside, so root's outside")
	res = run(t, "stat -c %u:%g /mnt/file", func(s *specs.Spec) { // and without one, with mappings of its own
		bind(s, "bind", "idmap")
		s.Mounts[len(s.Mounts)-1].UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 1000, Size: 100}}
		s.Mounts[len(s.Mounts)-1].GIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 2000, Size: 100}}
	})
	require.Equal(t, "1005:2006\n", res.out)
	spec := newSpec(newRoot(t), "sh", "-c", "stat -c %u /bin/busybox; touch /made; stat -c %u /made")
	spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	spec.Linux.UIDMappings, spec.Linux.GIDMappings = userMappings(), userMappings()
	res, err := runConfig(t, Config{Spec: spec, MapRoot: true})
	require.NoError(t, err)
	require.Equal(t, "0\n0\n", res.out)
	require.NoError(t, unix.Stat(filepath.Join(spec.Root.Path, "made"), &st))
	require.Zero(t, st.Uid)
}
