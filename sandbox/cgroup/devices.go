package cgroup

import (
	"encoding/binary"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"sync"
	"unsafe"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// devices applies r's device rules, in their order, the last that fits winning, and then allows what every container
// may have: making any node, and using null, zero, full, random, urandom, tty, ptmx and pts. Without rules nothing
// is done, and all devices are allowed.
func (g *Group) devices(r *specs.LinuxResources) error {
	if r == nil || len(r.Devices) == 0 {
		return nil
	}
	rules := append(append([]specs.LinuxDeviceCgroup(nil), r.Devices...), defaultRules()...)
	for i, rule := range rules {
		if _, err := accessBits(rule); err != nil {
			return fmt.Errorf("resources.devices[%d]: %w", i, err)
		}
	}
	if g.layout.Unified {
		return g.devices2(rules)
	}
	return g.devices1(rules)
}

// devices1 writes the rules to the v1 files, one write each.
func (g *Group) devices1(rules []specs.LinuxDeviceCgroup) error {
	var files [2]*os.File
	for i, name := range []string{"devices.deny", "devices.allow"} {
		path, err := g.file("devices", name)
		if err != nil {
			return fmt.Errorf("resources.devices: %w", err)
		}
		if files[i], err = os.OpenFile(path, os.O_WRONLY, 0); err != nil {
			return fmt.Errorf("resources.devices: %w", err)
		}
		defer files[i].Close()
	}
	for i, rule := range rules {
		f := files[0]
		if rule.Allow {
			f = files[1]
		}
		if _, err := f.WriteString(deviceLine(rule)); err != nil {
			return fmt.Errorf("resources.devices[%d]: %w", i, err)
		}
	}
	return nil
}

func defaultRules() []specs.LinuxDeviceCgroup {
	rule := func(kind string, major, minor int64, access string) specs.LinuxDeviceCgroup {
		d := specs.LinuxDeviceCgroup{Allow: true, Type: kind, Access: access}
		if major >= 0 {
			d.Major = &major
		}
		if minor >= 0 {
			d.Minor = &minor
		}
		return d
	}
	return []specs.LinuxDeviceCgroup{
		rule("c", -1, -1, "m"), rule("b", -1, -1, "m"),
		rule("c", 1, 3, "rwm"), rule("c", 1, 5, "rwm"), rule("c", 1, 7, "rwm"), rule("c", 1, 8, "rwm"), rule("c", 1, 9, "rwm"),
		rule("c", 5, 0, "rwm"), rule("c", 5, 2, "rwm"), rule("c", 136, -1, "rwm"),
	}
}

// deviceLine is a rule as v1 reads it (devices.rst).
func deviceLine(d specs.LinuxDeviceCgroup) string {
	if d.Type == "" || d.Type == "a" {
		return "a"
	}
	return d.Type + " " + star(d.Major) + ":" + star(d.Minor) + " " + access(d)
}

func star(v *int64) string {
	if v == nil || *v < 0 {
		return "*"
	}
	return strconv.FormatInt(*v, 10)
}

func access(d specs.LinuxDeviceCgroup) string {
	if d.Access == "" {
		return "rwm"
	}
	return d.Access
}

// accessBits returns the BPF_DEVCG_ACC_ bits of a rule (linux/bpf.h), and refuses a rule that v1 could not write.
func accessBits(d specs.LinuxDeviceCgroup) (int32, error) {
	switch d.Type {
	case "", "a":
		if star(d.Major) != "*" || star(d.Minor) != "*" || len(access(d)) != 3 {
			return 0, fmt.Errorf("a rule for all types must be for all numbers and accesses")
		}
	case "b", "c":
	default:
		return 0, fmt.Errorf("unknown type %q", d.Type)
	}
	var bits int32
	for _, c := range access(d) {
		switch c {
		case 'm':
			bits |= unix.BPF_DEVCG_ACC_MKNOD
		case 'r':
			bits |= unix.BPF_DEVCG_ACC_READ
		case 'w':
			bits |= unix.BPF_DEVCG_ACC_WRITE
		default:
			return 0, fmt.Errorf("unknown access %q", d.Access)
		}
	}
	return bits, nil
}

// insn is struct bpf_insn.
type insn struct {
	code uint8
	regs uint8 // destination, and source << 4
	off  int16
	imm  int32
}

// deviceProgram is an eBPF program that decides like v1 would: the last rule that fits wins; none fits: allowed.
// Its context is struct bpf_cgroup_dev_ctx {access<<16 | type, major, minor}.
func deviceProgram(rules []specs.LinuxDeviceCgroup) []insn {
	prog := []insn{
		{0x61, 0x12, 0, 0},      // r2 = *(u32 *)(r1 + 0)
		{0xbc, 0x23, 0, 0},      // w3 = w2
		{0x54, 0x02, 0, 0xffff}, // w2 &= 0xffff: type
		{0x74, 0x03, 0, 16},     // w3 >>= 16: access
		{0x61, 0x14, 4, 0},      // r4 = major
		{0x61, 0x15, 8, 0},      // r5 = minor
	}
	for i := len(rules) - 1; i >= 0; i-- {
		code := ruleCode(rules[i])
		prog = append(prog, code...)
		if len(code) == 2 {
			return prog // it fits always, and the verifier refuses code that is never reached
		}
	}
	return append(prog, insn{0xb7, 0, 0, 1}, insn{0x95, 0, 0, 0}) // r0 = 1; exit
}

func ruleCode(d specs.LinuxDeviceCgroup) []insn {
	var out []insn
	bits, _ := accessBits(d) // checked before
	switch d.Type {
	case "b":
		out = append(out, insn{0x55, 2, 0, unix.BPF_DEVCG_DEV_BLOCK}) // if r2 != block: next rule
	case "c":
		out = append(out, insn{0x55, 2, 0, unix.BPF_DEVCG_DEV_CHAR})
	}
	switch {
	case bits == 7:
	case d.Allow: // all that is asked for must be allowed
		out = append(out, insn{0xbc, 0x31, 0, 0}, insn{0x54, 1, 0, ^bits & 7}, insn{0x55, 1, 0, 0})
	default: // any of it may be refused
		out = append(out, insn{0xbc, 0x31, 0, 0}, insn{0x54, 1, 0, bits}, insn{0x15, 1, 0, 0})
	}
	if star(d.Major) != "*" {
		out = append(out, insn{0x55, 4, 0, int32(*d.Major)})
	}
	if star(d.Minor) != "*" {
		out = append(out, insn{0x55, 5, 0, int32(*d.Minor)})
	}
	verdict := int32(0)
	if d.Allow {
		verdict = 1
	}
	out = append(out, insn{0xb7, 0, 0, verdict}, insn{0x95, 0, 0, 0})
	for i := range out {
		if out[i].code == 0x55 || out[i].code == 0x15 {
			out[i].off = int16(len(out) - i - 1)
		}
	}
	return out
}

// devices2 attaches the program to the v2 folder. It stays there as long as the folder.
func (g *Group) devices2(rules []specs.LinuxDeviceCgroup) error {
	dir, err := os.Open(g.dir(g.layout.Hierarchies[0]))
	if err != nil {
		return err
	}
	defer dir.Close()
	return attachDevices(int(dir.Fd()), deviceProgram(rules))
}

// blockSignals keeps signals from this goroutine's thread until the returned function is called. Any of them, and Go's
// scheduler sends some, would cut the kernel's check of a program short (bpf_check: EAGAIN).
func blockSignals() (restore func(), err error) {
	var all, old unix.Sigset_t
	for i := range all.Val {
		all.Val[i]--
	}
	runtime.LockOSThread()
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, &all, &old); err != nil {
		runtime.UnlockOSThread()
		return nil, fmt.Errorf("block signals: %w", err)
	}
	return func() {
		_ = unix.PthreadSigmask(unix.SIG_SETMASK, &old, nil) // it has no way to fail
		runtime.UnlockOSThread()
	}, nil
}

var memlock sync.Mutex // held while the limit is lifted

// lockUnlimited calls f without a limit of locked memory. Before Linux 5.11 programs count against it, all that the user
// has loaded together, and the usual limit is full with the sixteenth container. It is the process's own limit only as
// long as f takes: containers inherit it.
func lockUnlimited(f func()) {
	memlock.Lock()
	defer memlock.Unlock()
	var old unix.Rlimit
	none := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
	if unix.Prlimit(0, unix.RLIMIT_MEMLOCK, &none, &old) == nil { // else what f says stands
		defer unix.Prlimit(0, unix.RLIMIT_MEMLOCK, &old, nil)
	}
	f()
}

func attachDevices(dirFD int, prog []insn) error {
	var code []byte
	for _, i := range prog {
		code = append(code, i.code, i.regs)
		code = binary.NativeEndian.AppendUint16(code, uint16(i.off))
		code = binary.NativeEndian.AppendUint32(code, uint32(i.imm))
	}
	license := []byte("Apache-2.0\x00")
	load := struct { // the start of union bpf_attr for BPF_PROG_LOAD
		progType, count     uint32
		insns, license      uint64
		logLevel, logSize   uint32
		logBuf              uint64
		kernVersion, flags  uint32
		name                [16]byte
		ifindex, attachType uint32
	}{
		progType: unix.BPF_PROG_TYPE_CGROUP_DEVICE, count: uint32(len(prog)),
		insns:      uint64(uintptr(unsafe.Pointer(&code[0]))),
		license:    uint64(uintptr(unsafe.Pointer(&license[0]))),
		attachType: unix.BPF_CGROUP_DEVICE,
	}
	var pin runtime.Pinner
	pin.Pin(&code[0])
	pin.Pin(&license[0])
	defer pin.Unpin()
	signals, err := blockSignals()
	if err != nil {
		return err
	}
	try := func() (fd uintptr, errno unix.Errno) {
		fd, _, errno = unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_LOAD, uintptr(unsafe.Pointer(&load)), unsafe.Sizeof(load))
		return fd, errno
	}
	fd, errno := try()
	if errno == unix.EPERM {
		lockUnlimited(func() { fd, errno = try() })
	}
	signals()
	if errno != 0 {
		return fmt.Errorf("load device filter (CONFIG_CGROUP_BPF): %w", errno)
	}
	defer unix.Close(int(fd))
	attach := struct{ target, prog, kind, flags uint32 }{uint32(dirFD), uint32(fd), unix.BPF_CGROUP_DEVICE, unix.BPF_F_ALLOW_MULTI}
	_, _, errno = unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_ATTACH, uintptr(unsafe.Pointer(&attach)), unsafe.Sizeof(attach))
	if errno != 0 {
		return fmt.Errorf("attach device filter: %w", errno)
	}
	return nil
}
