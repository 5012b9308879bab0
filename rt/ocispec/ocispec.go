// Package ocispec is pure: it makes an OCI runtime spec out of a container's record and what was found out about the
// machine for it. It opens nothing and changes nothing; goldens hold what it makes.
package ocispec

import (
	"path/filepath"
	"slices"
	"strings"

	"github.com/docker/go-units"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/coble-os/coble/rt/store"
	"github.com/coble-os/coble/sandbox/caps"
	"github.com/coble-os/coble/sandbox/rootfs"
	"github.com/coble-os/coble/sandbox/seccomp"
)

// Input is a record and what it resolves to on this machine, now.
type Input struct {
	Spec   store.Spec
	User   rootfs.User
	RunDir string // holds rootfs, hosts, hostname, resolv.conf, and init for who asks for one
	Names  string // folder of hosts, hostname and resolv.conf, if they are another container's; empty: RunDir
	Shm    string // folder that is /dev/shm, shared with others; empty: a tmpfs of its own
	Kernel KernelVersion
	// Available are the capabilities that this machine's root has, which "all" stands for; 0 is every one that there is.
	Available caps.Set
	// Devices are what Host.Devices, or Host.Privileged, stand for.
	Devices []Device
	// Blocks are the numbers of the block devices that limits name, by path.
	Blocks map[string]Numbers
	// Join has the path of a namespace of another container for each kind that the container joins.
	Join map[specs.LinuxNamespaceType]string
}

// Build makes the spec. Its errors are the request's fault.
func Build(in Input) (*specs.Spec, error) {
	h, conf := in.Spec.Host, in.Spec.Config
	mounts, err := in.mounts()
	if err != nil {
		return nil, err
	}
	sec, err := ParseSecurity(h.SecurityOpt)
	if err != nil {
		return nil, err
	}
	s := &specs.Spec{
		Version:  specs.Version,
		Hostname: conf.Hostname, Domainname: conf.Domainname,
		Root:   &specs.Root{Path: filepath.Join(in.RunDir, "rootfs"), Readonly: h.ReadonlyRootfs},
		Mounts: mounts,
		Linux: &specs.Linux{
			Namespaces: in.namespaces(), MaskedPaths: h.MaskedPaths, ReadonlyPaths: h.ReadonlyPaths,
			Resources: in.resources(), Sysctl: sysctls(in.Spec), RootfsPropagation: "private", Devices: in.devices(),
		},
	}
	if s.Process, err = in.process(sec); err != nil {
		return nil, err
	}
	if h.UTSMode.IsHost() || h.NetworkMode.IsHost() && conf.Hostname == "" {
		s.Hostname, s.Domainname = "", ""
	}
	s.Linux.Seccomp, err = Filter(sec, h.Privileged, s.Process.Capabilities.Bounding, in.Kernel)
	return s, err
}

// Process is the process of an exec: in is the container's record with what the exec changes of it. A privileged exec
// has all capabilities, whatever its container has; the filter stays the container's.
func Process(in Input, privileged bool) (*specs.Process, *specs.LinuxSeccomp, error) {
	sec, err := ParseSecurity(in.Spec.Host.SecurityOpt)
	if err != nil {
		return nil, nil, err
	}
	p, err := in.process(sec)
	if err != nil {
		return nil, nil, err
	}
	filter, err := Filter(sec, in.Spec.Host.Privileged, p.Capabilities.Bounding, in.Kernel)
	if err == nil && privileged {
		p.Capabilities = in.allCaps()
	}
	return p, filter, err
}

func (in *Input) process(sec Security) (*specs.Process, error) {
	spec, u := in.Spec, in.User
	h, conf := spec.Host, spec.Config
	capabilities, err := in.containerCaps()
	if err != nil {
		return nil, err
	}
	if h.Privileged {
		capabilities = in.allCaps()
	}
	p := &specs.Process{
		Terminal: conf.Tty, Args: append([]string{spec.Path}, spec.Args...), Env: containerEnv(spec, u), Cwd: orRoot(conf.WorkingDir),
		User:         specs.User{UID: u.UID, GID: u.GID, AdditionalGids: u.Groups, Umask: h.Umask},
		Capabilities: capabilities, Rlimits: rlimits(h.Ulimits), NoNewPrivileges: sec.NoNewPrivileges, ApparmorProfile: sec.AppArmor,
	}
	if conf.Tty && h.ConsoleSize[0] > 0 {
		p.ConsoleSize = &specs.Box{Height: h.ConsoleSize[0], Width: h.ConsoleSize[1]}
	}
	if h.OomScoreAdj != 0 {
		p.OOMScoreAdj = &h.OomScoreAdj
	}
	return p, nil
}

// Filter is the seccomp filter that the options ask for, or nil.
func Filter(sec Security, privileged bool, capabilities []string, kernel KernelVersion) (*specs.LinuxSeccomp, error) {
	switch {
	case sec.Seccomp == Unconfined, privileged && sec.Seccomp == "":
		return nil, nil
	case sec.Seccomp != "":
		return parseProfile([]byte(sec.Seccomp), capabilities, kernel)
	default:
		return seccomp.Default(capabilities), nil
	}
}

func orRoot(dir string) string {
	if dir == "" {
		return "/"
	}
	return dir
}

// containerEnv is what Docker sets, under what the image and the user say.
func containerEnv(spec store.Spec, u rootfs.User) []string {
	env := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOSTNAME=" + spec.Config.Hostname}
	if spec.Config.Tty {
		env = append(env, "TERM=xterm")
	}
	env = append(env, "HOME="+orRoot(u.Home))
	for _, kv := range spec.Config.Env {
		key, _, given := strings.Cut(kv, "=")
		env = slices.DeleteFunc(env, func(e string) bool { return strings.HasPrefix(e, key+"=") })
		if given {
			env = append(env, kv)
		}
	}
	return env
}

func (in *Input) namespaces() []specs.LinuxNamespace {
	h := in.Spec.Host
	ns := []specs.LinuxNamespace{{Type: specs.MountNamespace}}
	add := func(t specs.LinuxNamespaceType, host bool) {
		if !host {
			ns = append(ns, specs.LinuxNamespace{Type: t, Path: in.Join[t]})
		}
	}
	add(specs.PIDNamespace, h.PidMode.IsHost())
	add(specs.UTSNamespace, h.UTSMode.IsHost())
	add(specs.IPCNamespace, h.IpcMode.IsHost())
	add(specs.NetworkNamespace, h.NetworkMode.IsHost())
	add(specs.CgroupNamespace, h.CgroupnsMode.IsHost())
	return ns
}

// Outline is what of a container's spec is so whatever the machine is like: which namespaces it makes, and how it mounts sysfs.
func Outline(spec store.Spec) *specs.Spec {
	h := spec.Host
	in := Input{Spec: spec, Join: map[specs.LinuxNamespaceType]string{ // of which container's, where there is yet no path; empty: of none
		specs.PIDNamespace: h.PidMode.Container(), specs.IPCNamespace: h.IpcMode.Container(), specs.NetworkNamespace: h.NetworkMode.ConnectedContainer(),
	}}
	return &specs.Spec{Mounts: []specs.Mount{sysfs(spec)}, Linux: &specs.Linux{Namespaces: in.namespaces()}}
}

func sysctls(spec store.Spec) map[string]string {
	out := map[string]string{}
	if m := spec.Host.NetworkMode; !m.IsHost() && !m.IsContainer() {
		// As Docker: a container may ping and bind low ports without a capability for it.
		out["net.ipv4.ip_unprivileged_port_start"] = "0"
		out["net.ipv4.ping_group_range"] = "0 2147483647"
	}
	for k, v := range spec.Host.Sysctls {
		out[k] = v
	}
	return out
}

func rlimits(ulimits []*units.Ulimit) []specs.POSIXRlimit {
	var out []specs.POSIXRlimit
	for _, u := range ulimits {
		out = append(out, specs.POSIXRlimit{Type: "RLIMIT_" + strings.ToUpper(u.Name), Soft: uint64(u.Soft), Hard: uint64(u.Hard)})
	}
	return out
}

// DefaultMaskedPaths are Docker 28's.
func DefaultMaskedPaths() []string {
	return []string{
		"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats",
		"/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap",
	}
}

// DefaultReadonlyPaths are Docker 28's.
func DefaultReadonlyPaths() []string {
	return []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
}
