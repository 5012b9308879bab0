package compiler

import (
	"encoding/json"
	"os"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"

	"github.com/coble-os/coble/sandbox/plan"
)

// small is a container with few steps, so that a golden shows what it is about.
func small(change func(*Input)) Input {
	in := Input{Spec: base("/bin/true"), Root: "/srv/root", Bundle: "/bundle", Facts: facts()}
	in.Facts.TimeOnExec, in.Facts.AppArmor, in.Facts.SELinux = true, true, true
	in.Facts.Dirs["/bundle/data"], in.Facts.Dirs["/run/hosts"] = true, false
	in.Facts.Cgroup = Cgroup{Unified: true, Own: "/sys/fs/cgroup/coble/web"}
	change(&in)
	return in
}

func joinPath(in *Input, t specs.LinuxNamespaceType, p string) {
	for i := range in.Spec.Linux.Namespaces {
		if in.Spec.Linux.Namespaces[i].Type == t {
			in.Spec.Linux.Namespaces[i].Path = p
		}
	}
}

func mounts(in *Input, m ...specs.Mount) { in.Spec.Mounts = append(in.Spec.Mounts, m...) }

// kernelMounts are those that show namespaces.
func kernelMounts(in *Input) {
	mounts(in, specs.Mount{Destination: "/proc", Type: "proc", Source: "proc"},
		specs.Mount{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"ro", "nosuid"}},
		specs.Mount{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue"},
		specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"ro"}})
}

// specsOfOneThing are small specs, one for each thing that a spec may ask for.
func specsOfOneThing() map[string]Input {
	return map[string]Input{
		"user": small(func(in *Input) {
			userNS(in)
			kernelMounts(in)
			in.Barrier = true
			in.Spec.Process.OOMScoreAdj = ptr(-500)
			in.Spec.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 1, Hard: 2}}
			mounts(in, specs.Mount{Destination: "/data", Source: "data", Options: []string{"rbind", "ro"}})
			in.Spec.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/fuse", Type: "c", Major: 10, Minor: 229}}
		}),
		"user-in-host": small(func(in *Input) { // with all other namespaces of the machine
			userNS(in)
			in.Spec.Linux.Namespaces = []specs.LinuxNamespace{{Type: "mount"}, {Type: "user"}}
			kernelMounts(in)
		}),
		"host-mounts": small(func(in *Input) { // a root folder, and the machine's mount namespace
			in.Spec.Linux.Namespaces = in.Spec.Linux.Namespaces[1:]
			in.Spec.Root.Readonly = true
			mounts(in, specs.Mount{Destination: "/proc", Type: "proc", Source: "proc"})
		}),
		"user-in-pod": small(func(in *Input) { // a new user namespace in the network of another container
			userNS(in)
			kernelMounts(in)
			joinPath(in, "network", "/run/netns/pod")
			joinPath(in, "pid", "/proc/9/ns/pid")
		}),
		"user-joined": small(func(in *Input) {
			userNS(in)
			in.Spec.Linux.UIDMappings, in.Spec.Linux.GIDMappings = nil, nil
			kernelMounts(in)
			joinPath(in, "user", "/proc/9/ns/user")
			joinPath(in, "network", "/proc/9/ns/net")
			in.Barrier = true
		}),
		"user-legacy": small(func(in *Input) { // cgroup v1, Linux 5.10, the root file system an overlay
			userNS(in)
			in.Facts.MountSetattr, in.Facts.Cgroup = false, v1()
			kernelMounts(in)
			in.Spec.Linux.Namespaces = append(in.Spec.Linux.Namespaces[:5:5], in.Spec.Linux.Namespaces[6])
			in.RootMounts = []Mount{{Type: "overlay", Source: "overlay", Data: "lowerdir=/l"}}
		}),
		"idmap": small(func(in *Input) {
			m := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 1000, Size: 1}}
			mounts(in, specs.Mount{Destination: "/a", Source: "data", Options: []string{"bind"}, UIDMappings: m, GIDMappings: m},
				specs.Mount{Destination: "/b", Source: "data", Options: []string{"rbind", "ridmap"}, UIDMappings: m, GIDMappings: m})
		}),
		"map-root": small(func(in *Input) { userNS(in); in.MapRoot = true }),
		"time": small(func(in *Input) {
			in.Spec.Linux.Namespaces = append(in.Spec.Linux.Namespaces, specs.LinuxNamespace{Type: "time"})
			in.Spec.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {Secs: 7}, "monotonic": {Secs: -1, Nanosecs: 5}}
		}),
		"time-legacy": small(func(in *Input) { // before Linux 6.3
			userNS(in)
			in.Facts.TimeOnExec = false
			in.Spec.Linux.Namespaces = append(in.Spec.Linux.Namespaces, specs.LinuxNamespace{Type: "time"})
			in.Spec.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {Secs: 7}}
		}),
		"time-joined": small(func(in *Input) {
			in.Spec.Linux.Namespaces = append(in.Spec.Linux.Namespaces, specs.LinuxNamespace{Type: "time", Path: "/proc/9/ns/time"})
		}),
		"copyup": small(func(in *Input) {
			mounts(in, specs.Mount{Destination: "/run", Type: "tmpfs", Source: "tmpfs", Options: []string{"ro", "nodev", "tmpcopyup", "size=1m"}})
		}),
		"shared": small(func(in *Input) {
			in.Spec.Linux.RootfsPropagation = "rshared"
			mounts(in, specs.Mount{Destination: "/data", Source: "data", Options: []string{"rbind", "rshared"}})
		}),
		"unbindable": small(func(in *Input) {
			in.Spec.Linux.RootfsPropagation = "unbindable"
			mounts(in, specs.Mount{Destination: "/t", Type: "tmpfs", Source: "tmpfs", Options: []string{"unbindable", "rnosuid"}})
		}),
		"over-root": small(func(in *Input) {
			mounts(in, specs.Mount{Destination: "/", Source: "data", Options: []string{"rbind"}})
		}),
		"cgroup2-shared": small(func(in *Input) { // without a cgroup namespace
			in.Spec.Linux.Namespaces = in.Spec.Linux.Namespaces[:5]
			kernelMounts(in)
		}),
		"mount-joined": small(func(in *Input) { joinPath(in, "mount", "/run/ns/mnt") }),
		"links": small(func(in *Input) {
			in.Spec.Linux.NetDevices = map[string]specs.LinuxNetDevice{"eth1": {Name: "eth0"}, "dummy0": {}}
		}),
		"labels": small(func(in *Input) {
			in.Spec.Process.ApparmorProfile, in.Spec.Process.SelinuxLabel = "coble-default", "system_u:system_r:container_t:s0:c1,c2"
			in.Spec.Linux.MountLabel = "system_u:object_r:container_file_t:s0:c1,c2"
			mounts(in, specs.Mount{Destination: "/t", Type: "tmpfs", Source: "tmpfs", Options: []string{"size=1m"}})
		}),
		"resctrl": small(func(in *Input) {
			in.ID, in.Facts.Resctrl = "web", true
			in.Spec.Linux.IntelRdt = &specs.LinuxIntelRdt{L3CacheSchema: "L3:0=f", MemBwSchema: "MB:0=20", EnableMonitoring: true}
		}),
		"priorities": small(func(in *Input) {
			in.Spec.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedFIFO, Priority: 10, Flags: []specs.LinuxSchedulerFlag{specs.SchedFlagResetOnFork}}
			in.Spec.Process.IOPriority = &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_BE, Priority: 4}
			in.Spec.Linux.Personality = &specs.LinuxPersonality{Domain: specs.PerLinux32, Flags: []specs.LinuxPersonalityFlag{"ADDR_NO_RANDOMIZE"}}
			in.Spec.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolBind, Nodes: "0-1,3", Flags: []specs.MemoryPolicyFlagType{specs.MpolFStaticNodes}}
		}),
	}
}

func TestGoldensOfOneThing(t *testing.T) {
	for name, in := range specsOfOneThing() {
		t.Run(name, func(t *testing.T) {
			p, err := Compile(in)
			require.NoError(t, err)
			sound(t, p)
			golden(t, name+".plan", p.String())
		})
	}
	proc := full().Spec.Process
	proc.ApparmorProfile, proc.ExecCPUAffinity = "coble-default", &specs.CPUAffinity{Initial: "0-7", Final: "3"}
	f := full().Facts
	f.AppArmor = true
	p, err := CompileExec(ExecInput{Process: proc, UserNS: true, TimeNS: true, Facts: f})
	require.NoError(t, err)
	sound(t, p)
	golden(t, "exec-user.plan", p.String())
}

// sound holds what sandbox/spawn relies on.
func sound(t *testing.T, p *plan.Plan) {
	t.Helper()
	if p.Prepare != nil {
		sound(t, p.Prepare)
	}
	require.NoError(t, checkStrings(p))
	require.Len(t, p.Stops, p.Barriers)
	for _, name := range append(p.Inputs, p.Sends...) {
		require.NotZero(t, p.Slot(name), name)
	}
	for i := range p.Calls {
		c := &p.Calls[i]
		require.LessOrEqual(t, i+c.SkipOK, len(p.Calls)-1, "%s skips beyond the end", p.Format(c))
		require.LessOrEqual(t, i+c.SkipOn, len(p.Calls)-1, "%s skips beyond the end", p.Format(c))
		require.Less(t, int(c.To), len(p.Slots))
		require.LessOrEqual(t, len(c.Args), 6)
		require.LessOrEqual(t, len(c.Ignore), 3)
		require.NotEmpty(t, c.Doc)
		for k := range c.Args {
			soundArg(t, p, &c.Args[k])
		}
		for _, k := range c.Checks {
			require.LessOrEqual(t, k.Off+k.Size, len(c.Args[k.Arg].Mem), p.Format(c))
		}
	}
}

func soundArg(t *testing.T, p *plan.Plan, a *plan.Arg) {
	require.Less(t, int(a.Slot), len(p.Slots))
	require.False(t, (a.Kind == plan.Value || a.Kind == plan.FdPath) && a.Slot == 0, "no slot")
	for _, f := range a.Fixes {
		require.LessOrEqual(t, f.Off+wordSize, len(a.Mem))
		require.False(t, f.Sub == nil && f.Slot == 0, "no slot")
		if f.Sub != nil {
			soundArg(t, p, f.Sub)
		}
	}
}

// FuzzCompile: whatever a config.json says, the compiler does not panic, and a plan that it makes is sound.
func FuzzCompile(f *testing.F) {
	all := specsOfOneThing()
	all["full"] = full()
	for _, in := range all {
		b, err := json.Marshal(in.Spec)
		require.NoError(f, err)
		f.Add(b, true)
		f.Add(b, false)
	}
	if b, err := os.ReadFile("../testdata/bench/config.json"); err == nil {
		f.Add(b, true)
	}
	f.Fuzz(func(t *testing.T, config []byte, modern bool) {
		var s specs.Spec
		if json.Unmarshal(config, &s) != nil {
			return
		}
		in := small(func(in *Input) {
			in.Spec, in.Barrier = &s, modern
			in.Facts.MountSetattr = modern
			if !modern {
				in.Facts.Cgroup = v1()
			}
			for _, m := range s.Mounts {
				in.Facts.Dirs[m.Source] = modern
			}
		})
		if p, err := Compile(in); err == nil {
			sound(t, p)
			_, err = json.Marshal(p)
			require.NoError(t, err)
		}
		if s.Process == nil {
			return
		}
		if p, err := CompileExec(ExecInput{Process: s.Process, UserNS: modern, Facts: in.Facts}); err == nil {
			sound(t, p)
		}
	})
}
