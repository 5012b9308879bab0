package compiler

import (
	"errors"
	"fmt"
	"unsafe"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/sandbox/plan"
)

// Names of the inputs that hooks read their state from: a file each, which the runner has filled in when it releases
// the child from its first barrier.
const (
	StateCreating = "state.creating" // of createContainer
	StateCreated  = "state.created"  // of startContainer
)

// createHooks runs the createContainer hooks: in the container's namespaces, in the runtime's tree of files.
func (b *builder) createHooks(in *Input) error {
	h := in.Spec.Hooks
	if needsState(h) && !in.Barrier {
		return errors.New("hooks: need a barrier, at which they are given their state")
	}
	if h != nil {
		b.hooks("createContainer", h.CreateContainer, StateCreating)
	}
	return nil
}

// startHooks runs the startContainer hooks: in the container's namespaces and tree of files, as its user.
func (b *builder) startHooks() {
	if b.spec != nil && b.spec.Hooks != nil {
		b.hooks("startContainer", b.spec.Hooks.StartContainer, StateCreated)
	}
}

// hooks runs each hook as a child of the child, with the state on its standard input and the child's own output, and
// waits for it. A hook dies with the child (PR_SET_PDEATHSIG), which is also how one that takes too long is ended.
func (b *builder) hooks(kind string, list []specs.Hook, state string) {
	for _, h := range list {
		b.about("run %s hook %s", kind, h.Path)
		if h.Timeout != nil {
			b.about("run %s hook %s (at most %d s)", kind, h.Path, *h.Timeout)
		}
		pidfd := b.slot("hook")
		at := b.next()
		b.call(plan.Fork).to(pidfd)
		b.hookProgram(h, b.input(state))
		b.skipOK(at)
		if h.Timeout != nil {
			b.waitReadable(pidfd, *h.Timeout)
		}
		b.waitSuccess(pidfd)
		b.close(pidfd)
	}
}

// hookProgram is what the child of the child does.
func (b *builder) hookProgram(h specs.Hook, state plan.Slot) {
	b.call("prctl", named(unix.PR_SET_PDEATHSIG, "PR_SET_PDEATHSIG"), named(uint64(unix.SIGKILL), "SIGKILL"), num(0), num(0), num(0))
	b.call("lseek", value(state), num(0), named(unix.SEEK_SET, "SEEK_SET"))
	b.call("dup3", value(state), num(0), num(0))
	b.call("rt_sigprocmask", named(unix.SIG_SETMASK, "SIG_SETMASK"), mem(make([]byte, sigsetSize), "[]"), null(), num(sigsetSize))
	b.call("close_range", num(3), named(0xffffffff, "~0"), num(0))
	args := h.Args
	if len(args) == 0 {
		args = []string{h.Path}
	}
	env := strs(h.Env)
	env.Text = fmt.Sprintf("[%d variables]", len(h.Env))
	b.call("execve", str(h.Path), strs(args), env)
}

// waitReadable waits until a pidfd's process has ended, for so many seconds.
func (b *builder) waitReadable(pidfd plan.Slot, seconds int) {
	var p unix.PollFd
	text := "{$" + b.p.Slots[pidfd] + ", POLLIN}"
	fds := mem(u32(0, 0), text) // struct pollfd: the descriptor, then two halves: what is asked, what is there
	fds.Mem[unsafe.Offsetof(p.Events)] = unix.POLLIN
	fds.Fixes = []plan.Fix{{Off: 0, Slot: pidfd, Narrow: true}}
	limit := mem(make([]byte, 2*wordSize), fmt.Sprintf("{%d s}", seconds)) // struct timespec, of two words
	copy(limit.Mem, u32(uint32(seconds)))
	b.call("ppoll", fds, num(1), limit, null(), num(0)).
		check(field(0, int(unsafe.Offsetof(p.Revents)), 2, unix.POLLIN, unix.POLLIN))
}

// waitSuccess waits until a pidfd's process has ended, and wants it to have exited with status 0. The numbers in
// siginfo_t are those of sigaction(2): signo, errno and code (on MIPS code and errno), then, aligned to a word, pid, uid
// and status.
func (b *builder) waitSuccess(pidfd plan.Slot) {
	code, status := 8, 20
	if sigsetSize == 16 {
		code = 4
	}
	if wordSize == 8 {
		status = 24
	}
	const exited = 1 // CLD_EXITED
	info := mem(make([]byte, 128), "<exited, status 0>")
	b.call("waitid", named(unix.P_PIDFD, "P_PIDFD"), value(pidfd), info, named(unix.WEXITED, "WEXITED"), null()).
		check(field(2, code, 4, 0xffffffff, exited), field(2, status, 4, 0xffffffff, 0))
}

// needsState tells whether hooks run in the child.
func needsState(h *specs.Hooks) bool {
	return h != nil && len(h.CreateContainer)+len(h.StartContainer) > 0
}
