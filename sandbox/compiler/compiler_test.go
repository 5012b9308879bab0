package compiler

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/sandbox/caps"
	"github.com/coble-os/coble/sandbox/seccomp"
)

func update() bool { return flag.Lookup("update").Value.String() == "true" }

func TestMain(m *testing.M) {
	flag.Bool("update", false, "write the golden files anew")
	flag.Parse()
	os.Exit(m.Run())
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if update() {
		require.NoError(t, os.WriteFile(path, []byte(got), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err, "run go test -update")
	require.Equal(t, string(want), got)
}

func ptr[T any](v T) *T { return &v }

func base(args ...string) *specs.Spec {
	s := &specs.Spec{
		Root:    &specs.Root{Path: "/srv/root"},
		Process: &specs.Process{Args: args, Cwd: "/", Env: []string{"PATH=/usr/bin:/bin"}},
		Linux:   &specs.Linux{},
	}
	for _, t := range []specs.LinuxNamespaceType{"mount", "pid", "uts", "ipc", "network", "cgroup"} {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: t})
	}
	return s
}

func facts() Facts { return Facts{MountSetattr: true, LastCap: 40, Dirs: map[string]bool{}} }

// userNS gives in a new user namespace.
func userNS(in *Input) {
	in.Spec.Linux.Namespaces = append(in.Spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	in.Spec.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
	in.Spec.Linux.GIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 200000, Size: 65536}}
}

func v1() Cgroup {
	return Cgroup{Hierarchies: []Hierarchy{
		{Mount: "/sys/fs/cgroup/cpu,cpuacct", Controllers: []string{"cpu", "cpuacct"}, Path: "/coble/web", Input: "cgroup.cpu,cpuacct"},
		{Mount: "/sys/fs/cgroup/memory", Controllers: []string{"memory"}, Path: "/coble/web", Input: "cgroup.memory"},
	}}
}

// full uses about everything that there is.
func full() Input {
	s := base("nginx", "-g", "daemon off;")
	s.Hostname, s.Domainname, s.Root.Readonly = "web", "example", true
	c := caps.Default()
	s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: c, Effective: c, Permitted: c, Inheritable: c[:1], Ambient: c[:1]}
	s.Process.User = specs.User{UID: 33, GID: 34, AdditionalGids: []uint32{4, 5}, Umask: ptr(uint32(0o22))}
	s.Process.NoNewPrivileges, s.Process.Cwd, s.Process.OOMScoreAdj = true, "/var/www", ptr(100)
	s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 1024, Hard: 4096}}
	s.Mounts = []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"ro", "nosuid", "noexec", "nodev"}},
		{Destination: "/etc/hosts", Source: "/run/hosts", Options: []string{"bind", "rprivate"}},
		{Destination: "/data", Source: "data", Options: []string{"rbind", "ro", "rro", "nodev"}},
	}
	s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/net/tun", Type: "c", Major: 10, Minor: 200, FileMode: ptr(os.FileMode(0o666)), UID: ptr(uint32(0))}}
	s.Linux.Sysctl = map[string]string{"net.ipv4.ip_forward": "1", "kernel.shmmax": "65536"}
	s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = []string{"/proc/kcore"}, []string{"/proc/sys"}
	s.Linux.Seccomp = seccomp.Default(c)
	f := facts()
	f.Dirs["/run/hosts"], f.Dirs["/bundle/data"] = false, true
	f.Cgroup, f.OwnStdio = v1(), [3]bool{false, true, true}
	return Input{
		Spec: s, Bundle: "/bundle", Root: "/srv/root", Facts: f, Barrier: true,
		RootMounts: []Mount{{Type: "overlay", Source: "overlay", Flags: unix.MS_NODEV, Data: "lowerdir=/l1:/l2,upperdir=/u,workdir=/w"}},
	}
}

func TestGoldens(t *testing.T) {
	old, unified, terminal, host := full(), full(), full(), Input{Root: "/", Facts: facts()}
	old.Facts.MountSetattr, old.Facts.BareRoot = false, true
	old.RootMounts[0].Dir, old.RootMounts[0].Data = "/layers", "lowerdir=l1:l2,upperdir=/u,workdir=/w"
	old.Spec.Mounts[4].Options = []string{"rbind", "ro", "nodev"}
	unified.Facts.Cgroup = Cgroup{Unified: true}
	terminal.Spec.Process.Terminal, terminal.Spec.Process.ConsoleSize = true, &specs.Box{Height: 24, Width: 80}
	host.Spec = base("/usr/sbin/ntpd", "-n")
	host.Spec.Linux.Namespaces, host.Spec.Root.Path = nil, "/"
	joined := Input{Spec: base("sh"), Root: "/srv/root", Facts: facts()}
	joined.Spec.Linux.Namespaces[1].Path, joined.Spec.Linux.Namespaces[4].Path = "/proc/9/ns/pid", "/proc/9/ns/net"
	joined.Spec.Linux.Namespaces = joined.Spec.Linux.Namespaces[:5] // the host's cgroup namespace
	joined.Facts.Cgroup = v1()
	joined.Spec.Mounts = []specs.Mount{{Destination: "/sys/fs/cgroup", Type: "cgroup", Options: []string{"ro"}}}
	withInit, initLookup := full(), Input{Spec: base("sleep", "1"), Root: "/srv/root", Facts: facts(), Init: "/sbin/docker-init"}
	withInit.Init, withInit.Spec.Process.Args[0] = "/sbin/docker-init", "/usr/sbin/nginx"
	packed := full()
	packed.Spec.Linux.RootfsPropagation = "shared"
	packed.RootMounts = append([]Mount{{Type: "squashfs", Source: "/l.squashfs", Target: "/l1", Tree: "tree.0"}}, packed.RootMounts...)
	for name, in := range map[string]Input{
		"packed": packed, "init": withInit, "init-lookup": initLookup,
		"full": full(), "linux-5.10": old, "cgroup2": unified, "terminal": terminal, "host": host, "joined": joined,
	} {
		t.Run(name, func(t *testing.T) {
			p, err := Compile(in)
			require.NoError(t, err)
			golden(t, name+".plan", p.String())
			again, err := Compile(in)
			require.NoError(t, err)
			require.Equal(t, p, again, "the same input gives the same plan")
		})
	}
	p, err := CompileExec(ExecInput{Process: full().Spec.Process, Seccomp: full().Spec.Linux.Seccomp, Facts: full().Facts})
	require.NoError(t, err)
	golden(t, "exec.plan", p.String())
	b, err := json.MarshalIndent(p, "", " ")
	require.NoError(t, err)
	golden(t, "exec.json", string(b)+"\n")
}

// TestRefused: what a spec asks for and no plan does is an error that names the field.
func TestRefused(t *testing.T) {
	for want, change := range map[string]func(*Input){
		"linux: missing":                             func(in *Input) { in.Spec.Linux = nil },
		"root.path: missing":                         func(in *Input) { in.Spec.Root = nil },
		"process: missing":                           func(in *Input) { in.Spec.Process = nil },
		"process.args: empty":                        func(in *Input) { in.Spec.Process.Args = nil },
		"process.args: empty command":                func(in *Input) { in.Spec.Process.Args = []string{""} },
		"process.cwd: x is not absolute":             func(in *Input) { in.Spec.Process.Cwd = "x" },
		`process: "a\x00b" has a NUL byte`:           func(in *Input) { in.Spec.Process.Args = []string{"a\x00b"} },
		`hooks.poststop[0].path: "" is not absolute`: func(in *Input) { in.Spec.Hooks = &specs.Hooks{Poststop: make([]specs.Hook, 1)} },
		"linux.intelRdt: no resctrl file system is mounted on /sys/fs/resctrl (CONFIG_X86_CPU_RESCTRL, and a processor that has it)": func(in *Input) { in.Spec.Linux.IntelRdt = &specs.LinuxIntelRdt{} },
		"linux.namespaces: pid twice":     func(in *Input) { in.Spec.Linux.Namespaces[0].Type = "pid" },
		"hostname: needs a uts namespace": func(in *Input) { in.Spec.Linux.Namespaces = nil; in.Spec.Domainname = "" },
		"linux.namespaces: with a user namespace a root folder needs a mount namespace": func(in *Input) {
			userNS(in)
			in.Spec.Linux.Namespaces, in.RootMounts = in.Spec.Linux.Namespaces[1:], nil
		},
		"mounts of the root: need a mount namespace": func(in *Input) { in.Spec.Linux.Namespaces = in.Spec.Linux.Namespaces[1:] },
		"linux.rootfsPropagation: needs a mount namespace": func(in *Input) {
			in.Spec.Linux.Namespaces, in.Spec.Linux.RootfsPropagation = in.Spec.Linux.Namespaces[1:], "shared"
			in.RootMounts = nil
		},
		"mounts: need a mount namespace": func(in *Input) {
			in.Spec.Linux.Namespaces = in.Spec.Linux.Namespaces[1:]
			in.Root, in.RootMounts = "/", nil
		},
		"linux.rootfsPropagation: unknown mode \"x\"":               func(in *Input) { in.Spec.Linux.RootfsPropagation = "x" },
		"linux.sysctl: kernel.panic does not belong to a namespace": func(in *Input) { in.Spec.Linux.Sysctl = map[string]string{"kernel.panic": "1"} },
		"linux.sysctl: net.x needs a network namespace": func(in *Input) {
			in.Spec.Linux.Sysctl = map[string]string{"net.x": "1"}
			in.Spec.Linux.Namespaces = append(in.Spec.Linux.Namespaces[:4:4], in.Spec.Linux.Namespaces[5])
		},
		"mounts[3] (/etc/hosts): source /gone: no such file or directory": func(in *Input) { in.Spec.Mounts[3].Source = "/gone" },
		"mounts[0] (proc): destination is not absolute":                   func(in *Input) { in.Spec.Mounts[0].Destination = "proc" },
		"mounts[0] (/proc): no type":                                      func(in *Input) { in.Spec.Mounts[0].Type = "" },
		`mounts[3] (/etc/hosts): unknown option "z" for a bind mount`:     func(in *Input) { in.Spec.Mounts[3].Options = []string{"bind", "z"} },
		"mounts[4] (/data): recursive attributes need Linux 5.12":         func(in *Input) { in.Facts.MountSetattr = false },
		"process.apparmorProfile: this kernel runs without AppArmor (CONFIG_SECURITY_APPARMOR, and lsm=apparmor on its command line)": func(in *Input) {
			in.Spec.Process.ApparmorProfile = "x"
		},
		"process.selinuxLabel: this kernel runs without SELinux (CONFIG_SECURITY_SELINUX, and lsm=selinux on its command line)": func(in *Input) {
			in.Spec.Process.SelinuxLabel = "x"
		},
		"linux.mountLabel: this kernel runs without SELinux (CONFIG_SECURITY_SELINUX, and lsm=selinux on its command line)": func(in *Input) {
			in.Spec.Linux.MountLabel = "x"
		},
		`process.scheduler: unknown policy ""`: func(in *Input) { in.Spec.Process.Scheduler = &specs.Scheduler{} },
		`process.scheduler: unknown flag "x"`: func(in *Input) {
			in.Spec.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedIdle, Flags: []specs.LinuxSchedulerFlag{"x"}}
		},
		`process.ioPriority.class: unknown ""`: func(in *Input) { in.Spec.Process.IOPriority = &specs.LinuxIOPriority{} },
		"process.ioPriority.priority: 8 is not from 0 to 7": func(in *Input) {
			in.Spec.Process.IOPriority = &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_BE, Priority: 8}
		},
		`process.execCPUAffinity.final: "x" is no list of numbers up to 8191`: func(in *Input) { in.Spec.Process.ExecCPUAffinity = &specs.CPUAffinity{Final: "x"} },
		"linux.uidMappings: need a user namespace":                            func(in *Input) { in.Spec.Linux.UIDMappings = make([]specs.LinuxIDMapping, 1) },
		"linux.namespaces: user: needs linux.uidMappings and linux.gidMappings": func(in *Input) {
			in.Spec.Linux.Namespaces = append(in.Spec.Linux.Namespaces, specs.LinuxNamespace{Type: "user"})
		},
		"linux.uidMappings: 0 is not mapped": func(in *Input) { userNS(in); in.Spec.Linux.UIDMappings[0].ContainerID = 1 },
		"linux.gidMappings: 0 is not mapped": func(in *Input) { userNS(in); in.Spec.Linux.GIDMappings[0].ContainerID = 1 },
		"process.user: group 5 is not mapped": func(in *Input) {
			userNS(in)
			in.Spec.Process.User = specs.User{AdditionalGids: []uint32{5}}
			in.Spec.Linux.GIDMappings[0].Size = 5
		},
		"linux.namespaces: mount: /x is the machine's own: its root would be changed": func(in *Input) {
			in.Spec.Linux.Namespaces[0].Path, in.Facts.Host = "/x", map[string]bool{"/x": true}
		},
		"linux.namespaces: mount: cannot be joined by path from a new user namespace": func(in *Input) {
			userNS(in)
			in.Spec.Linux.Namespaces[0].Path = "/x"
		},
		"linux.netDevices: need a network namespace": func(in *Input) {
			in.Spec.Linux.NetDevices = map[string]specs.LinuxNetDevice{"a": {}}
			in.Spec.Linux.Namespaces = in.Spec.Linux.Namespaces[:4]
		},
		`linux.netDevices: "a/b" is no name of a link`: func(in *Input) { in.Spec.Linux.NetDevices = map[string]specs.LinuxNetDevice{"a/b": {}} },
		"linux.netDevices: two are to be named b":      func(in *Input) { in.Spec.Linux.NetDevices = map[string]specs.LinuxNetDevice{"a": {Name: "b"}, "b": {}} },
		`linux.memoryPolicy.mode: unknown ""`:          func(in *Input) { in.Spec.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{} },
		"linux.timeOffsets: need a new time namespace": func(in *Input) { in.Spec.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {}} },
		`linux.timeOffsets: no clock "a" has an offset`: func(in *Input) {
			in.Spec.Linux.Namespaces = append(in.Spec.Linux.Namespaces, specs.LinuxNamespace{Type: "time"})
			in.Spec.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"a": {}}
		},
		"mounts[0] (/proc): id mappings are for bind mounts": func(in *Input) {
			in.Spec.Mounts[0].UIDMappings = make([]specs.LinuxIDMapping, 1)
		},
		"mounts[4] (/data): an id-mapped mount needs uidMappings and gidMappings, or those of a user namespace": func(in *Input) {
			in.Spec.Mounts[4].Options = []string{"rbind", "idmap"}
		},
		"mounts[0] (/proc): option tmpcopyup is for tmpfs": func(in *Input) { in.Spec.Mounts[0].Options = []string{"tmpcopyup"} },
		`linux.personality.flags: unknown "x"`: func(in *Input) {
			in.Spec.Linux.Personality = &specs.LinuxPersonality{Domain: specs.PerLinux, Flags: []specs.LinuxPersonalityFlag{"x"}}
		},
		"mounts[1] (/proc): only procfs may be mounted on /proc":      func(in *Input) { in.Spec.Mounts[1].Destination = "/proc" },
		"mounts[3] (/x/../proc): only procfs may be mounted on /proc": func(in *Input) { in.Spec.Mounts[3].Destination = "/x/../proc" },
		"mounts[3] (/proc/self/attr): nothing may be mounted inside /proc but files that describe the machine": func(in *Input) {
			in.Spec.Mounts[3].Destination = "/proc/self/attr"
		},
		`process.rlimits[0]: unknown limit "X"`:                  func(in *Input) { in.Spec.Process.Rlimits[0].Type = "X" },
		`process.capabilities.bounding: unknown capability "X"`:  func(in *Input) { in.Spec.Process.Capabilities.Bounding = []string{"X"} },
		`linux.seccomp: defaultAction: action "": not supported`: func(in *Input) { in.Spec.Linux.Seccomp = &specs.LinuxSeccomp{} },
		`linux.devices[0] (/dev/net/tun): unknown type "x"`:      func(in *Input) { in.Spec.Linux.Devices[0].Type = "x" },
		`set host name a` + "\x00b: \"a\\x00b\" has a NUL byte":  func(in *Input) { in.Spec.Hostname = "a\x00b" },
		`linux.personality.domain: unknown "X"`:                  func(in *Input) { in.Spec.Linux.Personality = &specs.LinuxPersonality{Domain: "X"} },
	} {
		in := full()
		change(&in)
		_, err := Compile(in)
		require.EqualError(t, err, want)
	}
}

// TestPaths: what names a place in the container is cleaned before it is split.
func TestPaths(t *testing.T) {
	for in, want := range map[string]string{"/": ".", "": ".", "/a/../..": ".", "a//b/": "a/b", "/../../etc": "etc", "/a/./b": "a/b"} {
		require.Equal(t, want, relative(in), in)
	}
}
