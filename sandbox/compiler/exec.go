package compiler

import (
	"errors"
	"fmt"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/sandbox/plan"
	"github.com/coble-os/coble/sandbox/spec"
)

// ExecInput is all that CompileExec looks at.
type ExecInput struct {
	Process *specs.Process
	UserNS  bool // the container has a user namespace of its own
	TimeNS  bool // and a time namespace
	Seccomp *specs.LinuxSeccomp
	Keep    int // as in Input
	// Chroot is for a container without a mount namespace: its root, a descriptor that is the input container.root, becomes the
	// process's, which would have the machine's otherwise.
	Chroot bool
	Facts  Facts // Dirs and MountSetattr do not matter; of cgroups only those to join before the execve
}

// CompileExec makes a plan for another process in a running container. Its inputs are those of Compile without a
// barrier, and target: a pidfd of a process in the container. The runner starts it in the target's PID namespace and
// holds it after the execve (ptrace(2)), because the container stands still until then, and the new process must not.
func CompileExec(in ExecInput) (*plan.Plan, error) {
	if err := spec.ValidateProcess(in.Process); err != nil {
		return nil, err
	}
	b := newBuilder()
	b.keep = in.Keep
	full := &Input{Spec: &specs.Spec{Process: in.Process, Linux: &specs.Linux{Seccomp: in.Seccomp}}, Facts: in.Facts}
	if err := b.execGroups(full); err != nil {
		return nil, err
	}
	b.about("let the parent hold the child")
	b.call("ptrace", named(unix.PTRACE_TRACEME, "PTRACE_TRACEME"), num(0), num(0), num(0))
	if err := b.openLabels(in.Process, in.Facts); err != nil {
		return nil, err
	}
	b.about("join namespaces of the container")
	all := uint64(unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWNET | unix.CLONE_NEWCGROUP)
	if in.UserNS {
		all |= unix.CLONE_NEWUSER // the kernel enters it first of these
	}
	if b.p.Copy = in.TimeNS; in.TimeNS {
		all |= unix.CLONE_NEWTIME
	}
	b.call("setns", value(b.input("target")), flags(all, plan.CloneBits))
	if in.UserNS {
		b.becomeRoot()
	}
	if in.Chroot {
		b.about("change to the container's root")
		b.call("fchdir", value(b.input("container.root")))
		b.call("chroot", str("."))
	}
	if in.Process.Terminal {
		root := b.slot("root")
		b.about("open root")
		b.call("openat", cwd(), str("/"), flags(unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, plan.OpenBits), num(0)).to(root)
		b.openPty(root, in.Process.ConsoleSize)
	}
	b.session(in.Process, in.Facts.OwnStdio)
	if err := b.rlimits(in.Process, in.UserNS); err != nil {
		return nil, err
	}
	if err := b.scheduler(in.Process.Scheduler); err != nil {
		return nil, err
	}
	if err := b.ioPriority(in.Process.IOPriority); err != nil {
		return nil, err
	}
	if err := b.identity(in.Process, in.Seccomp, in.Facts, ""); err != nil {
		return nil, err
	}
	if in.Facts.LastCap == 0 {
		return nil, errors.New("facts: no last capability")
	}
	if err := checkStrings(b.p); err != nil {
		return nil, fmt.Errorf("process: %w", err)
	}
	return b.p, nil
}

// execGroups joins the groups that are joined before the execve, on the processors that the spec wants for before and
// after: what is joined later may take them back, and the runner sets the last ones again.
func (b *builder) execGroups(in *Input) error {
	cpus := in.Spec.Process.ExecCPUAffinity
	if cpus == nil {
		cpus = &specs.CPUAffinity{}
	}
	if err := b.affinity(cpus.Initial, "initial"); err != nil {
		return err
	}
	if err := b.cgroups(in); err != nil {
		return err
	}
	if err := b.affinity(cpus.Final, "final"); err != nil {
		return err
	}
	return b.oomScore(in)
}
