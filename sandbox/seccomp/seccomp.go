// Package seccomp compiles the seccomp part of an OCI spec into a classic BPF program (seccomp(2)), and holds the
// default profile. It is pure: it loads nothing.
//
// What a spec means is what it means to runc, which hands it to libseccomp:
//   - The conditions of a rule must all hold, unless two of them look at the same argument: then each is a rule of
//     its own. SCMP_CMP_MASKED_EQ compares what the mask (value) leaves of both sides.
//   - A rule without conditions beats all rules with some for the same call, and of several the first counts. Rules
//     whose action is the default one are left out before that. Else the first rule that fits counts, in the order
//     of the spec; libseccomp sorts them in ways of its own, which makes a difference only for rules that overlap.
//   - The native architecture is always filtered, others when the spec lists them; calls of those that it does not
//     list kill the process, but x32's, which get ENOSYS. Listed architectures that this machine cannot run are left
//     out, and so are calls that are in no table.
//   - A call with a number above all that the profile names gets ENOSYS, not the default action: whoever wrote it
//     did not know the call, and programs fall back as on an older kernel. Not so where the default action is to
//     allow, log or trace.
//   - On 32-bit architectures arguments are the lower 32 bits, and the upper ones count as 0.
//
// The program finds a call's number by binary search over ranges of numbers that are treated alike. For Docker's
// default profile on amd64 with its siblings it has 310 instructions, of which a call meets 11.5 in the mean and 17 at
// most; libseccomp 2.5.4 makes 1237 of it (15.4, 24) with its binary tree, and 991 (313, 612) without. For the
// native architecture alone it is 90 (6.2, 16) beside 409 (15.7, 22) and 331 (189, 315).
package seccomp

import (
	"encoding/binary"
	"errors"
	"fmt"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/coble-os/coble/sandbox/seccomp/syscalls"
)

// Instr is struct sock_filter of linux/filter.h.
type Instr struct {
	Code   uint16
	Jt, Jf uint8
	K      uint32
}

// Program is a filter and the flags to load it with.
type Program struct {
	Filter []Instr
	Flags  uint32 // SECCOMP_FILTER_FLAG_*
}

// Notifies tells whether seccomp(2) returns a listener's descriptor for the program.
func (p Program) Notifies() bool { return p.Flags&flagNewListener != 0 }

// Bytes is the filter as the kernel reads it.
func (p Program) Bytes() []byte {
	b := make([]byte, 0, 8*len(p.Filter))
	for _, i := range p.Filter {
		b = binary.NativeEndian.AppendUint16(b, i.Code)
		b = append(b, i.Jt, i.Jf)
		b = binary.NativeEndian.AppendUint32(b, i.K)
	}
	return b
}

// What a filter may return, and how it is loaded (linux/seccomp.h).
const (
	retKillProcess = 0x80000000
	retKillThread  = 0x00000000
	retTrap        = 0x00030000
	retErrno       = 0x00050000
	retNotify      = 0x7fc00000
	retTrace       = 0x7ff00000
	retLog         = 0x7ffc0000
	retAllow       = 0x7fff0000

	flagTsync        = 1 << 0
	flagLog          = 1 << 1
	flagSpecAllow    = 1 << 2
	flagNewListener  = 1 << 3
	flagTsyncEsrch   = 1 << 4 // what TSYNC needs beside NEW_LISTENER, as both want to return a number
	flagWaitKillable = 1 << 5 // Linux 5.19

	eperm  = 1
	enosys = 38

	maxInstrs = 4096 // BPF_MAXINSNS
	maxErrno  = 4095 // MAX_ERRNO: the kernel caps what is above
	maxTrace  = 0xffff
)

// ErrTooLong is a filter of more instructions than the kernel takes.
var ErrTooLong = errors.New("filter is too long for the kernel")

// ErrHandOver is a filter with notifications under which the listener's descriptor could not be sent to the parent.
var ErrHandOver = errors.New("with SCMP_ACT_NOTIFY the call sendmsg must be allowed: the descriptor of the listener is sent by it")

// Compile makes a filter of s. Errors name the field.
func Compile(s *specs.LinuxSeccomp) (Program, error) {
	def, err := action(s.DefaultAction, s.DefaultErrnoRet)
	if err != nil {
		return Program{}, fmt.Errorf("defaultAction: %w", err)
	}
	var used [syscalls.Count]bool
	if err := listed(s.Architectures, &used); err != nil {
		return Program{}, err
	}
	r := newRules(def)
	for i := range s.Syscalls {
		if err := r.add(&s.Syscalls[i]); err != nil {
			return Program{}, fmt.Errorf("syscalls[%d]: %w", i, err)
		}
	}
	flags, err := flagBits(s.Flags, r.notifies)
	if err != nil {
		return Program{}, err
	}
	if r.notifies && s.ListenerPath == "" {
		return Program{}, errors.New("listenerPath: missing, and an action is SCMP_ACT_NOTIFY")
	}
	if r.notifies && !r.lets("sendmsg") {
		return Program{}, ErrHandOver
	}
	prog := r.assemble(&used)
	if len(prog) > maxInstrs {
		return Program{}, fmt.Errorf("%w: %d instructions, and at most %d are possible", ErrTooLong, len(prog), maxInstrs)
	}
	return Program{prog, flags}, nil
}

// flagBits are the flags to load a filter with. TSYNC is passed on, though a process that is about to execute a
// program has one thread.
func flagBits(list []specs.LinuxSeccompFlag, notifies bool) (uint32, error) {
	v := uint32(0)
	for _, f := range list {
		switch f {
		case "SECCOMP_FILTER_FLAG_TSYNC":
			v |= flagTsync
		case specs.LinuxSeccompFlagLog:
			v |= flagLog
		case specs.LinuxSeccompFlagSpecAllow:
			v |= flagSpecAllow
		case specs.LinuxSeccompFlagWaitKillableRecv:
			if !notifies {
				return 0, fmt.Errorf("flags: %s: needs an action SCMP_ACT_NOTIFY", f)
			}
			v |= flagWaitKillable
		default:
			return 0, fmt.Errorf("flags: %s: unknown", f)
		}
	}
	if !notifies {
		return v, nil
	}
	if v&flagTsync != 0 {
		v |= flagTsyncEsrch
	}
	return v | flagNewListener, nil
}

// listed marks the architectures of this machine that a list names, and the native one.
func listed(list []specs.Arch, used *[syscalls.Count]bool) error {
	used[0] = true
	all := syscalls.Architectures()
	for _, name := range list {
		if !knownArch(name) {
			return fmt.Errorf("architectures: %s: unknown", name)
		}
		for i := range all {
			used[i] = used[i] || all[i].Name == name
		}
	}
	return nil
}

func knownArch(a specs.Arch) bool {
	switch a {
	case specs.ArchX86, specs.ArchX86_64, specs.ArchX32, specs.ArchARM, specs.ArchAARCH64, specs.ArchMIPS,
		specs.ArchMIPS64, specs.ArchMIPS64N32, specs.ArchMIPSEL, specs.ArchMIPSEL64, specs.ArchMIPSEL64N32,
		specs.ArchPPC, specs.ArchPPC64, specs.ArchPPC64LE, specs.ArchS390, specs.ArchS390X, specs.ArchPARISC,
		specs.ArchPARISC64, specs.ArchRISCV64, specs.ArchLOONGARCH64, specs.ArchM68K, specs.ArchSH, specs.ArchSHEB:
		return true
	default:
		return false
	}
}

// action is what a filter returns for an action of a spec. The number that an action carries is only for those that
// have one (config-linux.md, errnoRet).
func action(a specs.LinuxSeccompAction, errnoRet *uint) (uint32, error) {
	switch a {
	case specs.ActErrno:
		return numbered(retErrno, errnoRet, maxErrno)
	case specs.ActTrace:
		return numbered(retTrace, errnoRet, maxTrace)
	}
	v, err := unnumbered(a)
	if err == nil && errnoRet != nil {
		err = fmt.Errorf("action %s takes no errnoRet", a)
	}
	return v, err
}

func numbered(v uint32, errnoRet *uint, limit uint) (uint32, error) {
	switch {
	case errnoRet == nil:
		return v | eperm, nil
	case *errnoRet > limit:
		return 0, fmt.Errorf("errnoRet %d: above %d", *errnoRet, limit)
	default:
		return v | uint32(*errnoRet), nil
	}
}

func unnumbered(a specs.LinuxSeccompAction) (uint32, error) {
	switch a {
	case specs.ActAllow:
		return retAllow, nil
	case specs.ActKill, specs.ActKillThread:
		return retKillThread, nil
	case specs.ActKillProcess:
		return retKillProcess, nil
	case specs.ActTrap:
		return retTrap, nil
	case specs.ActLog:
		return retLog, nil
	case specs.ActNotify:
		return retNotify, nil
	default:
		return 0, fmt.Errorf("action %q: not supported", a)
	}
}
