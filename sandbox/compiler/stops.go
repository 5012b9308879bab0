package compiler

import (
	"errors"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/sandbox/plan"
	"github.com/coble-os/coble/sandbox/spec"
)

// stop makes the child wait for the parent to do s. The parent's end is closed first: a parent that dies is seen.
func (b *builder) stop(s plan.Stop) {
	b.about("wait for the parent")
	sync := b.input("sync")
	parent := b.input("sync.parent")
	if b.p.Barriers == 0 {
		b.call("close", value(parent))
	}
	b.release(sync)
	b.p.Stops = append(b.p.Stops, s)
}

// barrier is the first stop, namespaces made.
func (b *builder) barrier(in *Input) error {
	s := plan.Stop{Created: in.Barrier, NetDevices: spec.NetDevices(in.Spec)}
	if in.makes(specs.UserNamespace) {
		s.Maps = &plan.Maps{UID: spec.MapText(in.Spec.Linux.UIDMappings), GID: spec.MapText(in.Spec.Linux.GIDMappings)}
		s.OOMScoreAdj = in.Spec.Process.OOMScoreAdj
	}
	if in.inUserNS() {
		var err error
		if s.TimeOffsets, err = spec.TimeOffsets(in.Spec); err != nil {
			return err
		}
	}
	var err error
	if s.Resctrl, err = resctrl(in); err != nil {
		return err
	}
	if !empty(&s) {
		b.stop(s)
	}
	if in.makes(specs.UserNamespace) {
		b.becomeRoot()
	}
	return nil
}

// empty tells whether the parent has nothing to do.
func empty(s *plan.Stop) bool {
	return s.Maps == nil && s.OOMScoreAdj == nil && s.TimeOffsets == "" && len(s.Rlimits) == 0 &&
		len(s.NetDevices) == 0 && s.Resctrl == nil && s.CopyUp == "" && !s.Created
}

// copyUp sends a new tmpfs and the folder below it to the parent, which copies.
func (b *builder) copyUp(fresh, covered plan.Slot, destination string) {
	b.about("send tmpfs for %s to the parent", destination)
	sock := b.input("copyup")
	b.call("sendmsg", value(sock), b.rights(covered), num(0)).want(1)
	b.call("sendmsg", value(sock), b.rights(fresh), num(0)).want(1)
	b.stop(plan.Stop{CopyUp: destination})
	b.about("mount tmpfs on %s", destination)
}

// exit ends a plan that executes nothing.
func (b *builder) exit() {
	b.about("exit")
	b.call("exit_group", num(0))
}

const openPath = unix.O_PATH | unix.O_CLOEXEC

// resctrl is the group for the first stop, nil if the spec wants none.
func resctrl(in *Input) (*plan.Resctrl, error) {
	r := in.Spec.Linux.IntelRdt
	if r == nil {
		return nil, nil
	}
	if !in.Facts.Resctrl {
		return nil, errors.New("linux.intelRdt: no resctrl file system is mounted on /sys/fs/resctrl (CONFIG_X86_CPU_RESCTRL, and a processor that has it)")
	}
	return spec.ResctrlGroup(in.ID, r)
}
