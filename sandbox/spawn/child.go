package spawn

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/sandbox/plan"
)

// These two pairs are kept stable by the Go runtime for packages such as gVisor (go.dev/issue/67401).

//go:linkname entersyscall runtime.entersyscall
func entersyscall()

//go:linkname entersyscallblock runtime.entersyscallblock
func entersyscallblock()

//go:linkname exitsyscall runtime.exitsyscall
func exitsyscall()

// rawClone does a clone-like system call whose child goes on on the same stack. The return address is kept in a
// register over the call, since the child overwrites the stack below its caller's frame.
func rawClone(trap, a1, a2, a3 uintptr) (r1, errno uintptr)

// run makes the child and waits until it has exec'd or died.
//
//go:nosplit
//go:norace
func run(m *machine) (pid, errno uintptr) {
	entersyscall()
	pid, errno = masked(m)
	exitsyscall()
	return pid, errno
}

// runBlocking is run for a child that waits for other goroutines: the P is given away at once.
//
//go:nosplit
//go:norace
func runBlocking(m *machine) (pid, errno uintptr) {
	entersyscallblock()
	pid, errno = masked(m)
	exitsyscall()
	return pid, errno
}

// masked blocks all signals around the clone: no Go signal handler may ever run in the child.
//
//go:nosplit
//go:norace
//go:noinline
func masked(m *machine) (pid, errno uintptr) {
	syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&m.all)),
		uintptr(unsafe.Pointer(&m.old)), sigsetSize, 0, 0)
	pid, errno = vfork(m)
	syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&m.old)), 0, sigsetSize, 0, 0)
	return pid, errno
}

// vfork has a frame of its own, which the parent leaves at once and the child never leaves.
//
//go:nosplit
//go:norace
//go:noinline
func vfork(m *machine) (pid, errno uintptr) {
	pid, errno = rawClone(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&m.clone)), unsafe.Sizeof(m.clone), 0)
	if errno != 0 || pid != 0 {
		return pid, errno
	}
	child(m)
	return 0, 0
}

// child is everything that the child does. It never returns.
//
//go:nosplit
//go:norace
//go:nocheckptr
//go:noinline
func child(m *machine) {
	for sig := uintptr(1); sig <= lastSignal; sig++ {
		// KILL and STOP answer EINVAL, which is as good.
		syscall.RawSyscall6(unix.SYS_RT_SIGACTION, sig, uintptr(unsafe.Pointer(&m.zero)), 0, sigsetSize, 0, 0)
	}
	gaps := unsafe.Pointer(unsafe.SliceData(m.gaps))
	flag := m.unshare
	for i := uintptr(len(m.gaps)); i > 0; i-- {
		g := (*gap)(unsafe.Add(gaps, (i-1)*unsafe.Sizeof(gap{})))
		_, _, errno := syscall.RawSyscall6(unix.SYS_CLOSE_RANGE, g.first, g.last, flag, 0, 0, 0)
		if errno != 0 && flag != 0 {
			m.fail(uintptr(errno)) // before anything is closed in a table that the parent shares
		}
		flag = 0
	}
	for m.next < m.n {
		in := (*instr)(unsafe.Add(unsafe.Pointer(unsafe.SliceData(m.code)), m.next*unsafe.Sizeof(instr{})))
		m.rep.pc = uint32(m.next)
		m.next++
		if !in.fork {
			m.next += m.step(in)
			continue
		}
		m.after, m.slotOf = m.next+uintptr(in.skipOK), uintptr(in.to)
		// The child of this child goes on in this very frame until its execve, so nothing in it but m is what it was
		// when the parent comes back: all else is kept in the machine.
		pid, errno := rawClone(unix.SYS_CLONE, hookFlags, 0, uintptr(unsafe.Pointer(&m.hookfd)))
		if pid != 0 {
			m.forked(errno)
		}
	}
	m.fail(uintptr(unix.ENOENT)) // every execve of a search through PATH was ignored
}

// hookFlags make a child of the child. It is clone(2), since filters that containers are given by custom answer
// clone3(2) with ENOSYS.
const hookFlags = unix.CLONE_VM | unix.CLONE_VFORK | unix.CLONE_PIDFD | uintptr(unix.SIGCHLD)

// forked goes on, in the parent, after the calls of a child that has passed its execve or ended.
//
//go:nosplit
//go:norace
//go:nocheckptr
//go:noinline
func (m *machine) forked(errno uintptr) {
	if errno != 0 {
		m.fail(errno)
	}
	if m.rep.errno != 0 { // the child's, which has said all that there is to say
		m.exit()
	}
	m.next = m.after
	*(*uintptr)(unsafe.Add(unsafe.Pointer(unsafe.SliceData(m.slots)), m.slotOf*wordSize)) = uintptr(m.hookfd)
}

// fail leaves the error and ends the child.
//
//go:nosplit
//go:norace
//go:nocheckptr
//go:noinline
func (m *machine) fail(errno uintptr) {
	if errno == uintptr(unix.ENOENT) && m.rep.denied != 0 {
		errno = uintptr(m.rep.denied)
	}
	m.rep.errno = uint32(errno)
	m.exit()
}

// step does one call and returns how many calls to skip.
//
//go:nosplit
//go:norace
//go:nocheckptr
//go:noinline
func (m *machine) step(in *instr) uintptr {
	if in.nfix > 0 {
		m.applyFixes(in)
	}
	r, errno := m.invoke(in)
	if errno != 0 {
		return m.failed(in, errno)
	}
	if in.want != plan.Any && int(r) != in.want || in.ncheck > 0 && !m.checked(in) {
		m.fail(uintptr(plan.ErrCheck))
	}
	if in.to != 0 {
		*(*uintptr)(unsafe.Add(unsafe.Pointer(unsafe.SliceData(m.slots)), uintptr(in.to)*wordSize)) = r
	}
	return uintptr(in.skipOK)
}

// invoke does the call of in. EINTR cannot happen before the plan unblocks signals, and after that only to execve,
// which does not return it.
//
//go:nosplit
//go:norace
//go:nocheckptr
//go:noinline
func (m *machine) invoke(in *instr) (r, errno uintptr) {
	var a [6]uintptr
	for i := uintptr(0); i < 6; i++ {
		a[i] = in.arg[i]
		if in.values>>i&1 != 0 {
			a[i] = m.slot(a[i])
		}
	}
	r, _, e := syscall.RawSyscall6(in.nr, a[0], a[1], a[2], a[3], a[4], a[5])
	return r, uintptr(e)
}

//go:nosplit
//go:norace
//go:nocheckptr
func (m *machine) slot(i uintptr) uintptr {
	return *(*uintptr)(unsafe.Add(unsafe.Pointer(unsafe.SliceData(m.slots)), i*wordSize))
}

// failed decides about an error: to go on, or to give up.
//
//go:nosplit
//go:norace
//go:nocheckptr
//go:noinline
func (m *machine) failed(in *instr, errno uintptr) uintptr {
	if uintptr(in.ignore[0]) != errno && uintptr(in.ignore[1]) != errno && uintptr(in.ignore[2]) != errno {
		m.fail(errno)
	}
	if in.exec && errno == uintptr(unix.EACCES) {
		m.rep.denied = uint32(errno)
	}
	return uintptr(in.skipOn)
}

//go:nosplit
//go:norace
//go:nocheckptr
//go:noinline
func (m *machine) applyFixes(in *instr) {
	p := unsafe.Pointer(unsafe.SliceData(m.fixes))
	for i := uintptr(in.fix); i < uintptr(in.fix)+uintptr(in.nfix); i++ {
		f := (*fix)(unsafe.Add(p, i*unsafe.Sizeof(fix{})))
		v := m.slot(f.slot)
		at := *(*unsafe.Pointer)(unsafe.Pointer(&f.addr))
		switch f.size {
		case 0:
			putDecimal(at, v)
		case 4:
			*(*uint32)(at) = uint32(v)
		default:
			*(*uintptr)(at) = v
		}
	}
}

// putDecimal writes v (below 10^10) in decimal with a NUL after it.
//
//go:nosplit
//go:norace
//go:nocheckptr
func putDecimal(at unsafe.Pointer, v uintptr) {
	div := uintptr(1)
	for v/div >= 10 {
		div *= 10
	}
	for ; div > 0; div /= 10 {
		*(*byte)(at) = byte('0' + v/div%10)
		at = unsafe.Add(at, 1)
	}
	*(*byte)(at) = 0
}

// checked compares what a call wrote with what the plan wants.
//
//go:nosplit
//go:norace
//go:nocheckptr
//go:noinline
func (m *machine) checked(in *instr) bool {
	p := unsafe.Pointer(unsafe.SliceData(m.checks))
	for i := uintptr(in.check); i < uintptr(in.check)+uintptr(in.ncheck); i++ {
		c := (*check)(unsafe.Add(p, i*unsafe.Sizeof(check{})))
		at := *(*unsafe.Pointer)(unsafe.Pointer(&c.addr))
		var v uint32
		switch c.size {
		case 1:
			v = uint32(*(*uint8)(at))
		case 2:
			v = uint32(*(*uint16)(at))
		default:
			v = *(*uint32)(at)
		}
		if v&c.mask != c.want {
			m.rep.found, m.rep.which = v, uint32(i)-uint32(in.check)
			return false
		}
	}
	return true
}

// exit ends the child. The status is never seen: the parent reaps.
//
//go:nosplit
//go:norace
func (m *machine) exit() {
	for {
		syscall.RawSyscall6(unix.SYS_EXIT_GROUP, 125, 0, 0, 0, 0, 0)
	}
}
