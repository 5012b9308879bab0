package compiler

import (
	"errors"
	"fmt"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/sandbox/plan"
	"github.com/coble-os/coble/sandbox/spec"
)

func (in *Input) has(t specs.LinuxNamespaceType) bool { return spec.Namespace(in.Spec, t) != nil }

// makes tells whether the container has a namespace of this type that is new.
func (in *Input) makes(t specs.LinuxNamespaceType) bool {
	n := spec.Namespace(in.Spec, t)
	return n != nil && n.Path == ""
}

func (in *Input) joins(t specs.LinuxNamespaceType) bool {
	n := spec.Namespace(in.Spec, t)
	return n != nil && n.Path != ""
}

func (in *Input) hasMountNS() bool { return in.has(specs.MountNamespace) }

func (in *Input) newCgroupNS() bool { return in.makes(specs.CgroupNamespace) }

// inUserNS tells whether the container's root is not the machine's.
func (in *Input) inUserNS() bool { return in.has(specs.UserNamespace) }

// namespaces makes and joins those of the spec; the cgroup namespace must be made inside the container's groups, and
// so comes later, and the time namespace belongs to the next program.
//
// Without a user namespace the clone makes the new ones and the child joins the others. A new user namespace owns all
// that the same clone makes (clone(2)), and from inside it none of the others can be joined: the thread that makes the
// child is in them already (Plan.Enter). A user namespace that is joined comes last, after the others and after all
// that only the machine's root can do (joinUser); what is new then belongs to it, but for the PID namespace, which
// only a clone makes, and which stays the machine's.
func (b *builder) namespaces(in *Input) error {
	b.p.CloneFlags |= spec.NewNamespaces(in.Spec)
	for _, n := range in.Spec.Linux.Namespaces {
		if err := b.namespace(in, n); err != nil {
			return fmt.Errorf("linux.namespaces: %s: %w", n.Type, err)
		}
	}
	return nil
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
		b.p.Enter = append(b.p.Enter, plan.Join{Path: n.Path, Flag: spec.CloneFlag(n.Type)})
	default:
		b.join(n)
	}
	return nil
}

func (b *builder) join(n specs.LinuxNamespace) {
	b.about("join %s namespace %s", n.Type, n.Path)
	fd := b.slot("ns")
	b.call("openat", cwd(), str(n.Path), flags(unix.O_CLOEXEC, plan.OpenBits), num(0)).to(fd)
	b.call("setns", value(fd), flags(spec.CloneFlag(n.Type), plan.CloneBits))
	b.close(fd)
}

// timeNS makes the time namespace and sets its clocks. The execve moves the process in (Linux 6.3); before that a
// process whose memory is its own can go in itself, once the clocks are set: see enterTime.
func (b *builder) timeNS(in *Input) error {
	offsets, err := spec.TimeOffsets(in.Spec)
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
	b.join(*spec.Namespace(in.Spec, specs.UserNamespace))
	b.becomeRoot()
	var fresh uint64
	for _, n := range in.Spec.Linux.Namespaces {
		if n.Path == "" && n.Type != specs.PIDNamespace && n.Type != specs.TimeNamespace {
			fresh |= spec.CloneFlag(n.Type)
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
