package spawn

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/sandbox/plan"
)

const wordSize = unsafe.Sizeof(uintptr(0))

// instr is one call, ready to run. Addresses point into machine.mem.
type instr struct {
	nr     uintptr
	arg    [6]uintptr
	values uint8 // bit i: arg[i] is the number of a slot whose value is the argument
	exec   bool  // it looks for the program: EACCES is remembered
	fork   bool  // it makes a child that does the calls which the parent skips
	ignore [3]uint16
	skipOK uint16
	skipOn uint16
	to     uint16
	fix    uint16 // first of nfix entries in machine.fixes
	nfix   uint16
	check  uint16 // first of ncheck entries in machine.checks
	ncheck uint16
	want   int
}

// cloneArgs is struct clone_args of clone3(2), up to cgroup (Linux 5.7).
type cloneArgs struct {
	flags, pidfd, childTID, parentTID, exitSignal, stack, stackSize, tls, setTID, setTIDSize, cgroup uint64
}

// fix writes the value of a slot to addr before a call: as a number of so many bytes, or (0) in decimal with a NUL.
type fix struct {
	addr uintptr
	slot uintptr
	size uintptr
}

// gap is a range of descriptors, both ends included.
type gap struct{ first, last uintptr }

// gapsBetween returns the ranges above 2 that hold none of fds; the one without end comes last.
func gapsBetween(fds []uintptr) []gap {
	var out []gap
	next := uintptr(3)
	for _, fd := range slices.Sorted(slices.Values(fds)) {
		if fd > next {
			out = append(out, gap{next, fd - 1})
		}
		next = max(next, fd+1)
	}
	return append(out, gap{next, 1<<32 - 1})
}

type check struct {
	addr       uintptr
	size       uintptr
	mask, want uint32
}

// machine is a plan in memory. It is on the heap, nothing in it moves, and the child shares it.
type machine struct {
	clone   cloneArgs
	tid     int32   // written by the kernel before the child runs
	pidfd   int32   // likewise; -1 before
	rep     *report // in this process, or in a file that others see
	own     report
	next    uintptr // number of the next call
	after   uintptr // where the child goes on after it made one itself, and
	slotOf  uintptr // the slot for the pidfd of that one,
	hookfd  int32   // which the kernel writes here
	n       uintptr
	code    []instr
	fixes   []fix
	checks  []check
	slots   []uintptr
	gaps    []gap   // of descriptors, closed first of all, from the last
	unshare uintptr // flag of close_range(2) for the last gap, of a child that shares the table
	mem     []uint64
	zero    [20]uint64 // an all-default struct sigaction
	all     [2]uint64  // the full signal set
	old     [2]uint64
}

type assembler struct {
	m    *machine
	mem  []byte
	refs []ref // words that hold offsets in mem, to become addresses
	in   map[string]uintptr
}

// ref is a word to which the address of mem is added: argument i of instruction pc, or the word at offset off.
type ref struct{ pc, arg, off int }

// assemble turns p into a machine. Every input needs a value; keep are descriptors that stay open beside them.
func assemble(p *plan.Plan, in map[string]uintptr, keep []uintptr) (*machine, error) {
	if len(p.Calls) == 0 || len(p.Calls) > 1<<15 {
		return nil, fmt.Errorf("run a plan of %d calls: out of range", len(p.Calls))
	}
	a := assembler{m: newMachine(), in: in, mem: make([]byte, 0, 64*len(p.Calls)), refs: make([]ref, 0, 2*len(p.Calls))}
	a.m.code = make([]instr, len(p.Calls))
	a.m.slots = make([]uintptr, len(p.Slots)+1)
	for _, name := range p.Inputs {
		v, ok := in[name]
		if !ok {
			return nil, fmt.Errorf("run plan: no value for input %q", name)
		}
		a.m.slots[p.Slot(name)] = v
	}
	for i := range p.Calls {
		if err := a.call(i, &p.Calls[i]); err != nil {
			return nil, fmt.Errorf("assemble %s: %w", p.Format(&p.Calls[i]), err)
		}
	}
	a.m.gaps = gapsBetween(append(slices.Collect(maps.Values(in)), keep...))
	a.link()
	return a.m, nil
}

// newMachine is not inlined, so that the machine is on the heap: its address goes to the kernel as a number.
//
//go:noinline
func newMachine() *machine {
	m := &machine{pidfd: -1}
	m.rep = &m.own
	return m
}

// report is what a child leaves behind.
type report struct {
	pc     uint32 // number of the last call
	errno  uint32 // set when it gives up
	denied uint32 // EACCES if an ignored execve said so
	found  uint32 // what a failed check found
	which  uint32 // the number of that check in its call
}

func (a *assembler) call(i int, c *plan.Call) error {
	nr, ok := number(c.Name)
	if c.Name == plan.Fork {
		a.m.code[i] = instr{fork: true, skipOK: uint16(c.SkipOK), to: uint16(c.To)}
		return nil
	}
	if !ok {
		return errors.New("no such system call on this architecture")
	}
	in := &a.m.code[i]
	in.nr, in.want, in.to = nr, c.Want, uint16(c.To)
	in.exec = c.Name == "execve" || c.Name == "faccessat"
	in.skipOK, in.skipOn = uint16(c.SkipOK), uint16(c.SkipOn)
	if len(c.Ignore) > len(in.ignore) || len(c.Args) > len(in.arg) {
		return errors.New("too many arguments or ignored errors")
	}
	for k, e := range c.Ignore {
		in.ignore[k] = uint16(e)
	}
	in.fix = uint16(len(a.m.fixes))
	var offs [6]int
	for k := range c.Args {
		offs[k] = a.arg(i, k, &c.Args[k])
	}
	in.nfix = uint16(len(a.m.fixes)) - in.fix
	in.check, in.ncheck = uint16(len(a.m.checks)), uint16(len(c.Checks))
	for _, k := range c.Checks {
		if k.Off+k.Size > len(c.Args[k.Arg].Mem) {
			return errors.New("check beyond the end of its bytes")
		}
		a.m.checks = append(a.m.checks, check{uintptr(offs[k.Arg] + k.Off), uintptr(k.Size), k.Mask, k.Want})
	}
	return nil
}

// arg assembles one argument and returns its offset in mem, if it has bytes.
func (a *assembler) arg(pc, k int, x *plan.Arg) int {
	in := &a.m.code[pc]
	off := 0
	switch x.Kind {
	case plan.Int:
		in.arg[k] = x.Int
		return 0
	case plan.Value:
		in.arg[k] = uintptr(x.Slot)
		in.values |= 1 << k
		return 0
	case plan.Str:
		off = a.bytes(append([]byte(x.Str), 0))
	case plan.FdPath:
		const prefix = "/proc/self/fd/"
		off = a.bytes(append([]byte(prefix), make([]byte, 11)...))
		a.m.fixes = append(a.m.fixes, fix{uintptr(off + len(prefix)), uintptr(x.Slot), 0})
	case plan.Vector:
		off = a.vector(x.Strs)
	case plan.Mem:
		off = a.block(x)
	}
	in.arg[k] = uintptr(off)
	a.refs = append(a.refs, ref{pc: pc, arg: k})
	return off
}

func (a *assembler) bytes(b []byte) int {
	off := len(a.mem)
	a.mem = append(a.mem, b...)
	for len(a.mem)%8 != 0 {
		a.mem = append(a.mem, 0)
	}
	return off
}

func (a *assembler) vector(strs []string) int {
	off := a.bytes(make([]byte, (len(strs)+1)*int(wordSize)))
	for i, s := range strs {
		a.pointer(off+i*int(wordSize), a.bytes(append([]byte(s), 0)))
	}
	return off
}

func (a *assembler) block(x *plan.Arg) int {
	off := a.bytes(x.Mem)
	for _, f := range x.Fixes {
		if f.Sub != nil {
			a.pointer(off+f.Off, a.block(f.Sub))
			continue
		}
		size := wordSize
		if f.Narrow {
			size = 4
		}
		a.m.fixes = append(a.m.fixes, fix{uintptr(off + f.Off), uintptr(f.Slot), size})
	}
	return off
}

// pointer makes the word at offset at the address of offset to.
func (a *assembler) pointer(at, to int) {
	putWord(a.mem[at:], uintptr(to))
	a.refs = append(a.refs, ref{pc: -1, off: at})
}

// link fixes mem in place and turns offsets into addresses.
func (a *assembler) link() {
	m := a.m
	m.mem = make([]uint64, len(a.mem)/8+1)
	base := uintptr(unsafe.Pointer(unsafe.SliceData(m.mem)))
	for _, r := range a.refs {
		if r.pc >= 0 {
			m.code[r.pc].arg[r.arg] += base
			continue
		}
		putWord(a.mem[r.off:], word(a.mem[r.off:])+base)
	}
	for i := range m.fixes {
		m.fixes[i].addr += base
	}
	for i := range m.checks {
		m.checks[i].addr += base
	}
	copy(unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(m.mem))), len(a.mem)), a.mem)
	m.n = uintptr(len(m.code))
	m.all = [2]uint64{^uint64(0), ^uint64(0)}
}

func putWord(b []byte, v uintptr) {
	if wordSize == 8 {
		binary.NativeEndian.PutUint64(b, uint64(v))
		return
	}
	binary.NativeEndian.PutUint32(b, uint32(v))
}

func word(b []byte) uintptr {
	if wordSize == 8 {
		return uintptr(binary.NativeEndian.Uint64(b))
	}
	return uintptr(binary.NativeEndian.Uint32(b))
}

// prepare fills in the arguments of clone3(2).
func (m *machine) prepare(flags uint64, cgroupFD int) {
	if flags&unix.CLONE_FILES != 0 {
		m.unshare = unix.CLOSE_RANGE_UNSHARE
	}
	m.clone.flags = flags | unix.CLONE_PIDFD | unix.CLONE_PARENT_SETTID
	m.clone.exitSignal = uint64(unix.SIGCHLD)
	m.clone.pidfd = uint64(uintptr(unsafe.Pointer(&m.pidfd)))
	m.clone.parentTID = uint64(uintptr(unsafe.Pointer(&m.tid)))
	if cgroupFD > 0 {
		m.clone.flags |= unix.CLONE_INTO_CGROUP
		m.clone.cgroup = uint64(cgroupFD)
	}
}
