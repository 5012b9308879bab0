package ocispec

import (
	"maps"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/mount"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/coble-os/coble/rt/fault"
	"github.com/coble-os/coble/rt/store"
)

// strict are the options of mounts that nothing is to be executed on.
func strict(more ...string) []string {
	return append([]string{"nosuid", "noexec", "nodev"}, more...)
}

func sysfs(spec store.Spec) specs.Mount {
	return specs.Mount{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: strict(writable(spec.Host.Privileged))}
}

// mounts are the file systems of every container, then those that it asks for.
func (in *Input) mounts() ([]specs.Mount, error) {
	spec := in.Spec
	sec, err := ParseSecurity(spec.Host.SecurityOpt)
	if err != nil {
		return nil, err
	}
	mounts := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: strict()},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		sysfs(spec),
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: strict(writable(spec.Host.Privileged || sec.WritableCgroups))},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: strict()},
	}
	mounts = append(mounts, in.shm()...)
	if InitPath(spec) != "" {
		mounts = append(mounts, bindMount(filepath.Join(in.RunDir, "init"), InitPath(spec), "ro"))
	}
	names := in.Names
	if names == "" {
		names = in.RunDir
	}
	for _, name := range []string{"resolv.conf", "hostname", "hosts"} {
		mounts = append(mounts, bindMount(filepath.Join(names, name), "/etc/"+name, "rw"))
	}
	var asked []specs.Mount
	for _, dst := range slices.Sorted(maps.Keys(spec.Host.Tmpfs)) {
		o := strict(splitOptions(spec.Host.Tmpfs[dst])...)
		asked = append(asked, specs.Mount{Destination: dst, Type: "tmpfs", Source: "tmpfs", Options: o})
	}
	more, err := askedMounts(spec)
	if err != nil {
		return nil, err
	}
	asked = append(asked, more...)
	// One that lies below another comes after it, in whatever order they were asked for.
	sort.SliceStable(asked, func(i, j int) bool { return depth(asked[i].Destination) < depth(asked[j].Destination) })
	for _, m := range asked {
		mounts = slices.DeleteFunc(mounts, func(o specs.Mount) bool { return o.Destination == m.Destination })
	}
	return append(mounts, asked...), nil
}

// MountedAt lists where a container has something of the user's mounted while it runs.
func MountedAt(spec store.Spec) ([]string, error) {
	at := slices.Collect(maps.Keys(spec.Host.Tmpfs))
	asked, err := askedMounts(spec)
	for _, m := range asked {
		at = append(at, m.Destination)
	}
	return at, err
}

func writable(yes bool) string {
	if yes {
		return "rw"
	}
	return "ro"
}

// shm is /dev/shm: a tmpfs of the container's own, or what it shares with the host or with other containers. The
// message queues are those of the IPC namespace, but for the host's, which are bound.
func (in *Input) shm() []specs.Mount {
	h := in.Spec.Host
	switch {
	case h.IpcMode.IsHost():
		return []specs.Mount{bindMount("/dev/shm", "/dev/shm", "rw", strict()...), bindMount("/dev/mqueue", "/dev/mqueue", "rw", strict()...)}
	case h.IpcMode.IsNone():
		return nil
	case in.Shm != "":
		return []specs.Mount{bindMount(in.Shm, "/dev/shm", "rw", strict()...)}
	}
	return []specs.Mount{{
		Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: strict("mode=1777", "size="+decimal(h.ShmSize)),
	}}
}

// InitPath is where a container that asks for an init (docker run --init) has it, or "".
func InitPath(spec store.Spec) string {
	if spec.Host.Init == nil || !*spec.Host.Init {
		return ""
	}
	return "/sbin/docker-init"
}

func depth(path string) int { return strings.Count(filepath.Clean(path), "/") }

func splitOptions(s string) []string {
	return slices.DeleteFunc(strings.Split(s, ","), func(o string) bool { return o == "" })
}

func bindMount(src, dst, mode string, opts ...string) specs.Mount {
	return specs.Mount{Destination: dst, Type: "bind", Source: src, Options: append([]string{"rbind", mode, "rprivate"}, opts...)}
}

// askedMounts are the user's: -v host:container[:options] and --mount type=bind|tmpfs.
func askedMounts(spec store.Spec) ([]specs.Mount, error) {
	var out []specs.Mount
	for _, b := range spec.Host.Binds {
		m, err := parseBind(b)
		if err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	for _, m := range spec.Host.Mounts {
		if !filepath.IsAbs(m.Target) {
			return nil, fault.New(fault.Invalid, "invalid mount target %q: must be absolute", m.Target)
		}
		mode := "rw"
		if m.ReadOnly {
			mode = "ro"
		}
		switch m.Type {
		case mount.TypeBind:
			out = append(out, bindMount(m.Source, filepath.Clean(m.Target), mode))
		case mount.TypeTmpfs:
			opts := []string{"nosuid", "nodev", "noexec", mode}
			if t := m.TmpfsOptions; t != nil && t.SizeBytes > 0 {
				opts = append(opts, "size="+decimal(t.SizeBytes))
			}
			out = append(out, specs.Mount{Destination: filepath.Clean(m.Target), Type: "tmpfs", Source: "tmpfs", Options: opts})
		default:
			return nil, fault.New(fault.Unsupported, "mount type %q of %s is not supported: use bind or tmpfs", m.Type, m.Target)
		}
	}
	return out, nil
}

// parseBind reads /host:/container[:ro,rw,z,propagation].
func parseBind(s string) (specs.Mount, error) {
	parts := strings.Split(s, ":")
	if len(parts) < 2 || len(parts) > 3 {
		return specs.Mount{}, fault.New(fault.Invalid, "invalid volume specification: '%s': want host-path:container-path[:options]", s)
	}
	if !filepath.IsAbs(parts[0]) {
		return specs.Mount{}, fault.New(fault.Unsupported, "named volumes (%q in '%s') are not supported yet: give an absolute host path", parts[0], s)
	}
	if !filepath.IsAbs(parts[1]) || filepath.Clean(parts[1]) == "/" {
		return specs.Mount{}, fault.New(fault.Invalid, "invalid volume specification: '%s': mount path must be absolute and not '/'", s)
	}
	m := bindMount(filepath.Clean(parts[0]), filepath.Clean(parts[1]), "rw")
	if len(parts) == 2 {
		return m, nil
	}
	for _, o := range splitOptions(parts[2]) {
		switch o {
		case "rw":
		case "ro":
			m.Options[1] = "ro"
		case "rprivate", "private", "rslave", "slave", "rshared", "shared":
			m.Options[2] = o
		case "z", "Z":
			return m, fault.New(fault.Unsupported, "volume option %q of '%s' (SELinux relabelling) is not supported", o, s)
		default:
			return m, fault.New(fault.Invalid, "invalid volume specification: '%s': unknown option %q", s, o)
		}
	}
	return m, nil
}

func decimal(n int64) string { return strconv.FormatInt(n, 10) }

func parseInt(s string) (int64, error) { return strconv.ParseInt(s, 10, 64) }
