package compiler

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/sandbox/plan"
)

// stop makes the child wait for the parent to do s. The parent's end is closed first: a parent that dies is seen.
func (b *builder) stop(s plan.Stop) {
	b.about("wait for the parent")
	sync := b.input("sync")
	parent := b.input("sync.parent")
	if b.p.Barriers == 0 {
		b.call("close", value(parent))
	}
	b.call("write", value(sync), str("r"), num(1)).want(1)
	b.call("read", value(sync), mem(make([]byte, 8), "<byte>"), num(1)).want(1).check(field(1, 0, 1, 0xff, 1))
	b.p.Barriers++
	b.p.Stops = append(b.p.Stops, s)
}

// barrier is the first stop, namespaces made.
func (b *builder) barrier(in *Input) error {
	s := plan.Stop{Created: in.Barrier, NetDevices: netDevices(in.Spec)}
	if in.makes(specs.UserNamespace) {
		s.Maps = &plan.Maps{UID: mapText(in.Spec.Linux.UIDMappings), GID: mapText(in.Spec.Linux.GIDMappings)}
		s.OOMScoreAdj = in.Spec.Process.OOMScoreAdj
	}
	if in.inUserNS() {
		var err error
		if s.TimeOffsets, err = timeOffsets(in.Spec); err != nil {
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
