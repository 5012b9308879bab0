package sandbox

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/sandbox/caps"
	"github.com/coble-os/coble/sandbox/compiler"
	"github.com/coble-os/coble/sandbox/mountopt"
	"github.com/coble-os/coble/sandbox/seccomp"
)

// Features says what Start understands, whatever the kernel of this machine lacks (OCI runtime spec, features.md). It is
// found out by compiling specs, so that it is true.
func Features() features.Features {
	yes, no := true, false
	is := func(v bool) *bool {
		if v {
			return &yes
		}
		return &no
	}
	linux := func(f func(*specs.Spec)) *bool { return is(compiles(f)) }
	l := &features.Linux{
		Capabilities: caps.All().Names(),
		Cgroup:       &features.Cgroup{Rdma: &yes},
		Seccomp:      seccompFeatures(is(true)),
		Apparmor:     &features.Apparmor{Enabled: linux(func(s *specs.Spec) { s.Process.ApparmorProfile = "x" })},
		Selinux:      &features.Selinux{Enabled: linux(func(s *specs.Spec) { s.Process.SelinuxLabel = "x" })},
		IntelRdt: &features.IntelRdt{
			Enabled:    linux(func(s *specs.Spec) { s.Linux.IntelRdt = &specs.LinuxIntelRdt{ClosID: "x"} }),
			Schemata:   linux(func(s *specs.Spec) { s.Linux.IntelRdt = &specs.LinuxIntelRdt{Schemata: []string{"x"}} }),
			Monitoring: linux(func(s *specs.Spec) { s.Linux.IntelRdt = &specs.LinuxIntelRdt{EnableMonitoring: true} }),
		},
		MemoryPolicy: memoryPolicies(),
		MountExtensions: &features.MountExtensions{IDMap: &features.IDMap{Enabled: linux(func(s *specs.Spec) {
			m := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 1000, Size: 1}}
			s.Mounts = []specs.Mount{{Destination: "/x", Source: "/", Type: "bind", Options: []string{"bind"}, UIDMappings: m, GIDMappings: m}}
		})}},
		NetDevices: &features.NetDevices{Enabled: linux(func(s *specs.Spec) {
			s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"x": {}}
		})},
	}
	for _, t := range []specs.LinuxNamespaceType{
		specs.CgroupNamespace, specs.IPCNamespace, specs.MountNamespace, specs.NetworkNamespace, specs.PIDNamespace,
		specs.TimeNamespace, specs.UserNamespace, specs.UTSNamespace,
	} {
		if compiles(func(s *specs.Spec) { addNamespace(s, t) }) {
			l.Namespaces = append(l.Namespaces, string(t))
		}
	}
	return features.Features{MountOptions: mountopt.Names(), Linux: l}
}

func memoryPolicies() *features.MemoryPolicy {
	out := &features.MemoryPolicy{}
	try := func(mode specs.MemoryPolicyModeType, f ...specs.MemoryPolicyFlagType) bool {
		return compiles(func(s *specs.Spec) { s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: mode, Flags: f} })
	}
	for _, m := range []specs.MemoryPolicyModeType{
		specs.MpolDefault, specs.MpolBind, specs.MpolInterleave, specs.MpolWeightedInterleave, specs.MpolPreferred,
		specs.MpolPreferredMany, specs.MpolLocal,
	} {
		if try(m) {
			out.Modes = append(out.Modes, string(m))
		}
	}
	for _, f := range []specs.MemoryPolicyFlagType{specs.MpolFNumaBalancing, specs.MpolFRelativeNodes, specs.MpolFStaticNodes} {
		if try(specs.MpolBind, f) {
			out.Flags = append(out.Flags, string(f))
		}
	}
	return out
}

func addNamespace(s *specs.Spec, t specs.LinuxNamespaceType) {
	if t == specs.MountNamespace || t == specs.NetworkNamespace {
		return // it is there
	}
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: t})
	if t == specs.UserNamespace {
		s.Linux.UIDMappings = []specs.LinuxIDMapping{{HostID: 1000, Size: 1}}
		s.Linux.GIDMappings = s.Linux.UIDMappings
	}
}

// compiles tells whether a small spec with a change becomes a plan, on a machine that has everything.
func compiles(change func(*specs.Spec)) bool {
	s := &specs.Spec{
		Root: &specs.Root{Path: "/r"}, Process: &specs.Process{Args: []string{"x"}, Cwd: "/"},
		Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.MountNamespace}, {Type: specs.NetworkNamespace}}},
	}
	change(s)
	_, err := compiler.Compile(compiler.Input{ID: "x", Spec: s, Bundle: "/", Root: "/r", Facts: compiler.Facts{
		Dirs: map[string]bool{"/": true}, MountSetattr: true, TimeOnExec: true, AppArmor: true, SELinux: true, Resctrl: true,
		LastCap: kernel.get().lastCap,
	}})
	return err == nil
}

func seccompFeatures(enabled *bool) *features.Seccomp {
	out := &features.Seccomp{Enabled: enabled}
	try := func(f func(*specs.LinuxSeccomp)) bool {
		s := &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{
			Names: []string{"getcwd"}, Action: specs.ActErrno, Args: []specs.LinuxSeccompArg{{Op: specs.OpEqualTo}},
		}}}
		f(s)
		_, err := seccomp.Compile(s)
		return err == nil
	}
	for _, a := range []specs.LinuxSeccompAction{
		specs.ActAllow, specs.ActErrno, specs.ActKill, specs.ActKillProcess, specs.ActKillThread, specs.ActLog,
		specs.ActNotify, specs.ActTrace, specs.ActTrap,
	} {
		if try(func(s *specs.LinuxSeccomp) { s.Syscalls[0].Action = a; s.ListenerPath = listener(a) }) {
			out.Actions = append(out.Actions, string(a))
		}
	}
	for _, op := range []specs.LinuxSeccompOperator{
		specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpEqualTo, specs.OpGreaterEqual, specs.OpGreaterThan,
		specs.OpMaskedEqual,
	} {
		if try(func(s *specs.LinuxSeccomp) { s.Syscalls[0].Args[0].Op = op }) {
			out.Operators = append(out.Operators, string(op))
		}
	}
	for _, a := range []specs.Arch{
		specs.ArchX86, specs.ArchX86_64, specs.ArchX32, specs.ArchARM, specs.ArchAARCH64, specs.ArchMIPSEL, specs.ArchRISCV64,
	} {
		if try(func(s *specs.LinuxSeccomp) { s.Architectures = []specs.Arch{a} }) {
			out.Archs = append(out.Archs, string(a))
		}
	}
	for _, f := range []struct {
		name specs.LinuxSeccompFlag
		bits uintptr
	}{
		{specs.LinuxSeccompFlagLog, unix.SECCOMP_FILTER_FLAG_LOG},
		{specs.LinuxSeccompFlagSpecAllow, unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW},
		{specs.LinuxSeccompFlagWaitKillableRecv, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV},
		{"SECCOMP_FILTER_FLAG_TSYNC", unix.SECCOMP_FILTER_FLAG_TSYNC},
	} {
		if !try(func(s *specs.LinuxSeccomp) {
			s.Flags, s.Syscalls[0].Action, s.ListenerPath = []specs.LinuxSeccompFlag{f.name}, specs.ActNotify, listener(specs.ActNotify)
		}) {
			continue
		}
		out.KnownFlags = append(out.KnownFlags, string(f.name))
		if kernelHasFlag(f.bits) {
			out.SupportedFlags = append(out.SupportedFlags, string(f.name))
		}
	}
	return out
}

// kernelHasFlag asks the kernel to load no filter: flags that it knows let it look at the address first.
func kernelHasFlag(bits uintptr) bool {
	_, _, err := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, bits, 0)
	return err == unix.EFAULT
}

func listener(a specs.LinuxSeccompAction) string {
	if a == specs.ActNotify {
		return "/x"
	}
	return ""
}
