package spec

import (
	"fmt"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Rlimit returns the number of a limit (getrlimit(2)), or -1. The numbers are not the same on MIPS.
func Rlimit(name string) int {
	switch name {
	case "RLIMIT_CPU":
		return unix.RLIMIT_CPU
	case "RLIMIT_FSIZE":
		return unix.RLIMIT_FSIZE
	case "RLIMIT_DATA":
		return unix.RLIMIT_DATA
	case "RLIMIT_STACK":
		return unix.RLIMIT_STACK
	case "RLIMIT_CORE":
		return unix.RLIMIT_CORE
	case "RLIMIT_RSS":
		return unix.RLIMIT_RSS
	case "RLIMIT_NPROC":
		return unix.RLIMIT_NPROC
	case "RLIMIT_NOFILE":
		return unix.RLIMIT_NOFILE
	case "RLIMIT_MEMLOCK":
		return unix.RLIMIT_MEMLOCK
	case "RLIMIT_AS":
		return unix.RLIMIT_AS
	case "RLIMIT_LOCKS":
		return unix.RLIMIT_LOCKS
	case "RLIMIT_SIGPENDING":
		return unix.RLIMIT_SIGPENDING
	case "RLIMIT_MSGQUEUE":
		return unix.RLIMIT_MSGQUEUE
	case "RLIMIT_NICE":
		return unix.RLIMIT_NICE
	case "RLIMIT_RTPRIO":
		return unix.RLIMIT_RTPRIO
	case "RLIMIT_RTTIME":
		return unix.RLIMIT_RTTIME
	default:
		return -1
	}
}

// Scheduler is what sched_setattr(2) takes.
func Scheduler(s *specs.Scheduler) (unix.SchedAttr, error) {
	a := unix.SchedAttr{
		Size: unix.SizeofSchedAttr, Nice: s.Nice, Priority: uint32(s.Priority),
		Runtime: s.Runtime, Deadline: s.Deadline, Period: s.Period,
	}
	policy := map[specs.LinuxSchedulerPolicy]uint32{
		specs.SchedOther: 0, specs.SchedFIFO: 1, specs.SchedRR: 2, specs.SchedBatch: 3, specs.SchedISO: 4,
		specs.SchedIdle: 5, specs.SchedDeadline: 6,
	}
	var ok bool
	if a.Policy, ok = policy[s.Policy]; !ok {
		return a, fmt.Errorf("unknown policy %q", s.Policy)
	}
	flag := map[specs.LinuxSchedulerFlag]uint64{
		specs.SchedFlagResetOnFork: 0x01, specs.SchedFlagReclaim: 0x02, specs.SchedFlagDLOverrun: 0x04,
		specs.SchedFlagKeepPolicy: 0x08, specs.SchedFlagKeepParams: 0x10, specs.SchedFlagUtilClampMin: 0x20,
		specs.SchedFlagUtilClampMax: 0x40,
	}
	for _, f := range s.Flags {
		v, ok := flag[f]
		if !ok {
			return a, fmt.Errorf("unknown flag %q", f)
		}
		a.Flags |= v
	}
	return a, nil
}

// IOPriority is the number of a class and level of disk accesses (ioprio_set(2)). Errors name the field.
func IOPriority(p *specs.LinuxIOPriority) (int, error) {
	class := map[specs.IOPriorityClass]int{specs.IOPRIO_CLASS_RT: 1, specs.IOPRIO_CLASS_BE: 2, specs.IOPRIO_CLASS_IDLE: 3}[p.Class]
	if class == 0 {
		return 0, fmt.Errorf("class: unknown %q", p.Class)
	}
	if p.Priority < 0 || p.Priority > 7 {
		return 0, fmt.Errorf("priority: %d is not from 0 to 7", p.Priority)
	}
	const classShift = 13
	return class<<classShift | p.Priority, nil
}

// maxID bounds the numbers in lists of processors and of memory nodes.
const maxID = 8191

// CPUMask turns a list such as "0-3,7" into the bits that sched_setaffinity(2) takes, in whole words of 8 bytes.
func CPUMask(list string) ([]byte, error) {
	var mask []byte
	for part := range strings.SplitSeq(list, ",") {
		first, last, isRange := strings.Cut(strings.TrimSpace(part), "-")
		lo, err := strconv.ParseUint(first, 10, 32)
		hi := lo
		if err == nil && isRange {
			hi, err = strconv.ParseUint(last, 10, 32)
		}
		if err != nil || hi < lo || hi > maxID {
			return nil, fmt.Errorf("%q is no list of numbers up to %d", list, maxID)
		}
		if need := int(hi/64+1) * 8; len(mask) < need {
			mask = append(mask, make([]byte, need-len(mask))...)
		}
		for n := lo; n <= hi; n++ {
			mask[n/8] |= 1 << (n % 8) // all architectures of coble are little-endian
		}
	}
	return mask, nil
}

// MemoryPolicy is the mode of set_mempolicy(2) with its flags, and how it reads. Errors name the field.
func MemoryPolicy(p *specs.LinuxMemoryPolicy) (mode uint64, text string, err error) {
	mode, ok := map[specs.MemoryPolicyModeType]uint64{
		specs.MpolDefault: 0, specs.MpolPreferred: 1, specs.MpolBind: 2, specs.MpolInterleave: 3, specs.MpolLocal: 4,
		specs.MpolPreferredMany: 5, specs.MpolWeightedInterleave: 6,
	}[p.Mode]
	if !ok {
		return 0, "", fmt.Errorf("mode: unknown %q", p.Mode)
	}
	text = string(p.Mode)
	for _, f := range p.Flags {
		v, ok := map[specs.MemoryPolicyFlagType]uint64{
			specs.MpolFStaticNodes: 1 << 15, specs.MpolFRelativeNodes: 1 << 14, specs.MpolFNumaBalancing: 1 << 13,
		}[f]
		if !ok {
			return 0, "", fmt.Errorf("flags: unknown %q", f)
		}
		mode, text = mode|v, text+"|"+string(f)
	}
	return mode, text, nil
}

// Personality is the argument of personality(2), and how it reads. Errors name the field.
func Personality(p *specs.LinuxPersonality) (v uint64, text string, err error) {
	switch p.Domain {
	case specs.PerLinux:
	case specs.PerLinux32:
		v = 0x8
	default:
		return 0, "", fmt.Errorf("domain: unknown %q", p.Domain)
	}
	text = string(p.Domain)
	for _, f := range p.Flags {
		bit := personaFlag(string(f))
		if bit == 0 {
			return 0, "", fmt.Errorf("flags: unknown %q", f)
		}
		v, text = v|bit, text+"|"+string(f)
	}
	return v, text, nil
}

func personaFlag(name string) uint64 {
	return map[string]uint64{
		"UNAME26": 0x0020000, "ADDR_NO_RANDOMIZE": 0x0040000, "FDPIC_FUNCPTRS": 0x0080000, "MMAP_PAGE_ZERO": 0x0100000,
		"ADDR_COMPAT_LAYOUT": 0x0200000, "READ_IMPLIES_EXEC": 0x0400000, "ADDR_LIMIT_32BIT": 0x0800000,
		"SHORT_INODE": 0x1000000, "WHOLE_SECONDS": 0x2000000, "STICKY_TIMEOUTS": 0x4000000, "ADDR_LIMIT_3GB": 0x8000000,
	}[name]
}
