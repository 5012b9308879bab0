package compiler

import (
	"fmt"
	"unsafe"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/sandbox/plan"
)

// console opens a terminal in the container's own devpts, binds its slave on /dev/console, and sends the master to
// the parent. The slave comes from the master (TIOCGPTPEER), never by a path.
func (b *builder) console(in *Input) error {
	if !in.Spec.Process.Terminal {
		return nil
	}
	b.openPty(b.slot("root"), in.Spec.Process.ConsoleSize)
	b.about("bind terminal on /dev/console")
	t, tty := b.slot("target"), b.slot("tty")
	b.file(b.slot("root"), "/dev/console", t, unix.RESOLVE_NO_SYMLINKS)
	b.mount("", fdPath(t), "", unix.MS_BIND, "")
	c := &b.p.Calls[b.next()-1]
	c.Args[0] = fdPath(tty)
	b.close(t)
	return nil
}

// openPty leaves the slave of a new terminal in the slot tty and sends the master to the input console.
func (b *builder) openPty(root plan.Slot, size *specs.Box) {
	b.about("open terminal in /dev/pts")
	master, tty := b.slot("master"), b.slot("tty")
	const rdwr = unix.O_RDWR | unix.O_NOCTTY | unix.O_CLOEXEC
	b.openat2(root, "dev/pts/ptmx", rdwr, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_SYMLINKS, 0).to(master)
	b.isDevice(master, unix.S_IFCHR, 5, 2)
	b.call("ioctl", value(master), named(unix.TIOCSPTLCK, "TIOCSPTLCK"), mem(u32(0, 0), "0"))
	b.call("ioctl", value(master), named(unix.TIOCGPTPEER, "TIOCGPTPEER"), flags(rdwr, plan.OpenBits)).to(tty)
	if size != nil {
		ws := mem(winsize(size), fmt.Sprintf("{%d rows, %d columns}", size.Height, size.Width))
		b.call("ioctl", value(master), named(unix.TIOCSWINSZ, "TIOCSWINSZ"), ws)
	}
	b.about("send terminal to the parent")
	b.call("sendmsg", value(b.input("console")), b.rights(master), num(0)).want(1)
	b.close(master)
}

func winsize(s *specs.Box) []byte {
	ws := unix.Winsize{Row: uint16(min(s.Height, 65535)), Col: uint16(min(s.Width, 65535))}
	return append([]byte(nil), unsafe.Slice((*byte)(unsafe.Pointer(&ws)), unsafe.Sizeof(ws))...)
}

// rights is a struct msghdr with one byte and one descriptor (unix(7), SCM_RIGHTS).
func (b *builder) rights(fd plan.Slot) plan.Arg {
	var h unix.Msghdr
	off := func(p unsafe.Pointer) int { return int(uintptr(p) - uintptr(unsafe.Pointer(&h))) }
	data := mem([]byte("tty\x00\x00\x00\x00\x00"), "")
	iov := mem(make([]byte, 2*wordSize), "")
	iov.Mem[wordSize] = 1 // all architectures of coble are little-endian
	iov.Fixes = []plan.Fix{{Off: 0, Sub: &data}}
	ctl := unix.UnixRights(0)
	c := mem(ctl, "")
	c.Fixes = []plan.Fix{{Off: unix.CmsgLen(0), Slot: fd}}
	h.SetIovlen(1)
	h.SetControllen(len(ctl))
	m := mem(append([]byte(nil), unsafe.Slice((*byte)(unsafe.Pointer(&h)), unsafe.Sizeof(h))...),
		"{SCM_RIGHTS [$"+b.p.Slots[fd]+"]}")
	m.Fixes = []plan.Fix{{Off: off(unsafe.Pointer(&h.Iov)), Sub: &iov}, {Off: off(unsafe.Pointer(&h.Control)), Sub: &c}}
	return m
}
