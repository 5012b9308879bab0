package spec

import (
	"errors"
	"fmt"
	"sort"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/sandbox/mountopt"
	"github.com/coble-os/coble/sandbox/plan"
)

// Namespace returns the spec's namespace of a type, or nil.
func Namespace(s *specs.Spec, t specs.LinuxNamespaceType) *specs.LinuxNamespace {
	for i := range s.Linux.Namespaces {
		if s.Linux.Namespaces[i].Type == t {
			return &s.Linux.Namespaces[i]
		}
	}
	return nil
}

// CloneFlag is the CLONE_NEW flag of a type of namespace, or 0.
func CloneFlag(t specs.LinuxNamespaceType) uint64 {
	switch t {
	case specs.PIDNamespace:
		return unix.CLONE_NEWPID
	case specs.NetworkNamespace:
		return unix.CLONE_NEWNET
	case specs.MountNamespace:
		return unix.CLONE_NEWNS
	case specs.IPCNamespace:
		return unix.CLONE_NEWIPC
	case specs.UTSNamespace:
		return unix.CLONE_NEWUTS
	case specs.CgroupNamespace:
		return unix.CLONE_NEWCGROUP
	case specs.UserNamespace:
		return unix.CLONE_NEWUSER
	case specs.TimeNamespace:
		return unix.CLONE_NEWTIME
	default:
		return 0
	}
}

// NewNamespaces are those that the clone which makes the container makes, as flags of clone(2).
func NewNamespaces(s *specs.Spec) (flags uint64) {
	user := Namespace(s, specs.UserNamespace)
	late := user != nil && user.Path != ""
	for _, n := range s.Linux.Namespaces {
		switch {
		case n.Path != "", n.Type == specs.CgroupNamespace, n.Type == specs.TimeNamespace:
		case late && n.Type != specs.PIDNamespace:
		default:
			flags |= CloneFlag(n.Type)
		}
	}
	return flags
}

// TimeOffsets is the text for timens_offsets (time_namespaces(7)).
func TimeOffsets(s *specs.Spec) (string, error) {
	if len(s.Linux.TimeOffsets) == 0 {
		return "", nil
	}
	if n := Namespace(s, specs.TimeNamespace); n == nil || n.Path != "" {
		return "", errors.New("linux.timeOffsets: need a new time namespace")
	}
	var lines []string
	for clock, o := range s.Linux.TimeOffsets {
		if clock != "monotonic" && clock != "boottime" {
			return "", fmt.Errorf("linux.timeOffsets: no clock %q has an offset", clock)
		}
		lines = append(lines, fmt.Sprintf("%s %d %d\n", clock, o.Secs, o.Nanosecs))
	}
	sort.Strings(lines)
	return strings.Join(lines, ""), nil
}

// HostID returns what a number inside a user namespace is outside.
func HostID(maps []specs.LinuxIDMapping, id uint32) (uint32, bool) {
	for _, m := range maps {
		if id >= m.ContainerID && id-m.ContainerID < m.Size {
			return m.HostID + id - m.ContainerID, true
		}
	}
	return 0, false
}

// MapText is the text for uid_map or gid_map (user_namespaces(7)).
func MapText(maps []specs.LinuxIDMapping) string {
	var b strings.Builder
	for _, m := range maps {
		fmt.Fprintf(&b, "%d %d %d\n", m.ContainerID, m.HostID, m.Size)
	}
	return b.String()
}

// RootPropagation is the MS_ flag that the spec wants for the container's mounts, MS_SLAVE if it does not say.
func RootPropagation(s *specs.Spec) (uint64, error) {
	if s.Linux.RootfsPropagation == "" {
		return unix.MS_SLAVE | unix.MS_REC, nil
	}
	prop := mountopt.Propagation(s.Linux.RootfsPropagation)
	if prop == 0 {
		return 0, fmt.Errorf("linux.rootfsPropagation: unknown mode %q", s.Linux.RootfsPropagation)
	}
	return prop, nil
}

// NetDevices lists the links that move into the container, sorted by their name here.
func NetDevices(s *specs.Spec) []plan.NetDevice {
	var out []plan.NetDevice
	for host, d := range s.Linux.NetDevices {
		name := d.Name
		if name == "" {
			name = host
		}
		out = append(out, plan.NetDevice{Host: host, Name: name})
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Host < out[j].Host })
	return out
}
