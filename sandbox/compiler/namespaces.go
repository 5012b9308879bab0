package compiler

import (
	"errors"
	"fmt"
	"sort"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/sandbox/plan"
)

// ns returns the spec's namespace of a type, or nil.
func ns(s *specs.Spec, t specs.LinuxNamespaceType) *specs.LinuxNamespace {
	for i := range s.Linux.Namespaces {
		if s.Linux.Namespaces[i].Type == t {
			return &s.Linux.Namespaces[i]
		}
	}
	return nil
}

func (in *Input) has(t specs.LinuxNamespaceType) bool { return ns(in.Spec, t) != nil }

// makes tells whether the container has a namespace of this type that is new.
func (in *Input) makes(t specs.LinuxNamespaceType) bool {
	n := ns(in.Spec, t)
	return n != nil && n.Path == ""
}

func (in *Input) joins(t specs.LinuxNamespaceType) bool {
	n := ns(in.Spec, t)
	return n != nil && n.Path != ""
}

func (in *Input) hasMountNS() bool { return in.has(specs.MountNamespace) }

func (in *Input) newCgroupNS() bool { return in.makes(specs.CgroupNamespace) }

// inUserNS tells whether the container's root is not the machine's.
func (in *Input) inUserNS() bool { return in.has(specs.UserNamespace) }

func cloneFlag(t specs.LinuxNamespaceType) uint64 {
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

// namespaces makes and joins those of the spec; the cgroup namespace must be made inside the container's groups, and
// so comes later, and the time namespace belongs to the next program.
//
// Without a user namespace the clone makes the new ones and the child joins the others. A new user namespace owns all
// that the same clone makes (clone(2)), and from inside it none of the others can be joined: the thread that makes the
// child is in them already (Plan.Enter). A user namespace that is joined comes last, after the others and after all
// that only the machine's root can do (joinUser); what is new then belongs to it, but for the PID namespace, which
// only a clone makes, and which stays the machine's.
func (b *builder) namespaces(in *Input) error {
	b.p.CloneFlags |= NewNamespaces(in.Spec)
	for _, n := range in.Spec.Linux.Namespaces {
		if err := b.namespace(in, n); err != nil {
			return fmt.Errorf("linux.namespaces: %s: %w", n.Type, err)
		}
	}
	return nil
}

// NewNamespaces is pure: those that the clone makes, as flags of clone(2).
func NewNamespaces(s *specs.Spec) (flags uint64) {
	user := ns(s, specs.UserNamespace)
	late := user != nil && user.Path != ""
	for _, n := range s.Linux.Namespaces {
		switch {
		case n.Path != "", n.Type == specs.CgroupNamespace, n.Type == specs.TimeNamespace:
		case late && n.Type != specs.PIDNamespace:
		default:
			flags |= cloneFlag(n.Type)
		}
	}
	return flags
}

// namespace joins one that is there.
func (b *builder) namespace(in *Input, n specs.LinuxNamespace) error {
	switch {
	case n.Path == "":
	case n.Type == specs.UserNamespace:
	case n.Type == specs.TimeNamespace:
		b.p.Copy = true // setns(2), EUSERS
		b.join(n)
	case n.Type == specs.PIDNamespace:
		b.p.PidNS = n.Path
	case n.Type == specs.MountNamespace && in.Facts.Host[n.Path]:
		return fmt.Errorf("%s is the machine's own: its root would be changed", n.Path)
	case in.makes(specs.UserNamespace) && n.Type == specs.MountNamespace:
		return errors.New("cannot be joined by path from a new user namespace")
	case in.makes(specs.UserNamespace):
		b.p.Enter = append(b.p.Enter, plan.Join{Path: n.Path, Flag: cloneFlag(n.Type)})
	default:
		b.join(n)
	}
	return nil
}

func (b *builder) join(n specs.LinuxNamespace) {
	b.about("join %s namespace %s", n.Type, n.Path)
	fd := b.slot("ns")
	b.call("openat", cwd(), str(n.Path), flags(unix.O_CLOEXEC, plan.OpenBits), num(0)).to(fd)
	b.call("setns", value(fd), flags(cloneFlag(n.Type), plan.CloneBits))
	b.close(fd)
}

// timeNS makes the time namespace and sets its clocks. The execve moves the process in (Linux 6.3); before that a
// process whose memory is its own can go in itself, once the clocks are set: see enterTime.
func (b *builder) timeNS(in *Input) error {
	offsets, err := timeOffsets(in.Spec)
	if err != nil || !in.makes(specs.TimeNamespace) {
		return err
	}
	b.about("make time namespace (CONFIG_TIME_NS)")
	b.call("unshare", flags(unix.CLONE_NEWTIME, plan.CloneBits))
	if offsets != "" && !in.inUserNS() {
		b.about("set clocks of time namespace")
		b.writeFile("/proc/self/timens_offsets", offsets)
	}
	return nil
}

// enterTime is for kernels whose execve does not. The clocks can't be set any more then.
func (b *builder) enterTime(in *Input) error {
	if !in.makes(specs.TimeNamespace) || in.Facts.TimeOnExec {
		return nil
	}
	b.p.Copy = true
	b.join(specs.LinuxNamespace{Type: specs.TimeNamespace, Path: "/proc/self/ns/time_for_children"})
	return nil
}

// timeOffsets is the text for timens_offsets (time_namespaces(7)).
func timeOffsets(s *specs.Spec) (string, error) {
	if len(s.Linux.TimeOffsets) == 0 {
		return "", nil
	}
	if n := ns(s, specs.TimeNamespace); n == nil || n.Path != "" {
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

// joinUser enters a user namespace by path and makes in it what is new.
func (b *builder) joinUser(in *Input) error {
	if !in.joins(specs.UserNamespace) {
		return nil
	}
	if in.makes(specs.MountNamespace) {
		b.about("make a mount namespace to open sources in")
		b.call("unshare", flags(unix.CLONE_NEWNS, plan.CloneBits))
		if err := b.sources(in); err != nil {
			return err
		}
	}
	b.join(*ns(in.Spec, specs.UserNamespace))
	b.becomeRoot()
	var fresh uint64
	for _, n := range in.Spec.Linux.Namespaces {
		if n.Path == "" && n.Type != specs.PIDNamespace && n.Type != specs.TimeNamespace {
			fresh |= cloneFlag(n.Type)
		}
	}
	if fresh != 0 {
		b.about("make namespaces of the user namespace")
		b.call("unshare", flags(fresh, plan.CloneBits))
	}
	return nil
}

// becomeRoot takes the identity of the user namespace's root, who can make and own files there: the child comes in as
// the machine's root, who is nobody there.
func (b *builder) becomeRoot() {
	b.about("become root of the user namespace")
	b.call("setgroups", num(0), null())
	b.call("setresgid", num(0), num(0), num(0))
	b.call("setresuid", num(0), num(0), num(0))
}

// validateUser checks the mappings, so that the user sees an error that the kernel would only call EINVAL or EPERM.
func validateUser(s *specs.Spec) error {
	l := s.Linux
	n := ns(s, specs.UserNamespace)
	switch {
	case n == nil && (len(l.UIDMappings) > 0 || len(l.GIDMappings) > 0):
		return errors.New("linux.uidMappings: need a user namespace")
	case n == nil || n.Path != "":
		return nil
	case len(l.UIDMappings) == 0 || len(l.GIDMappings) == 0:
		return errors.New("linux.namespaces: user: needs linux.uidMappings and linux.gidMappings")
	}
	if _, ok := HostID(l.UIDMappings, 0); !ok {
		return errors.New("linux.uidMappings: 0 is not mapped")
	}
	if _, ok := HostID(l.GIDMappings, 0); !ok {
		return errors.New("linux.gidMappings: 0 is not mapped")
	}
	if s.Process == nil {
		return nil
	}
	if _, ok := HostID(l.UIDMappings, s.Process.User.UID); !ok {
		return fmt.Errorf("process.user.uid: %d is not mapped", s.Process.User.UID)
	}
	for _, gid := range append([]uint32{s.Process.User.GID}, s.Process.User.AdditionalGids...) {
		if _, ok := HostID(l.GIDMappings, gid); !ok {
			return fmt.Errorf("process.user: group %d is not mapped", gid)
		}
	}
	return nil
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

// mapText is the text for uid_map or gid_map (user_namespaces(7)).
func mapText(maps []specs.LinuxIDMapping) string {
	var b strings.Builder
	for _, m := range maps {
		fmt.Fprintf(&b, "%d %d %d\n", m.ContainerID, m.HostID, m.Size)
	}
	return b.String()
}
