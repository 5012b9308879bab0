package compiler

import (
	"errors"
	"fmt"
	"sort"
	"strconv"
	"strings"
	"unsafe"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/sandbox/plan"
)

// scheduler sets policy and priority (sched_setattr(2)).
func (b *builder) scheduler(s *specs.Scheduler) error {
	if s == nil {
		return nil
	}
	attr, err := schedAttr(s)
	if err != nil {
		return fmt.Errorf("process.scheduler: %w", err)
	}
	b.about("set scheduler %s", s.Policy)
	bytes := append([]byte(nil), unsafe.Slice((*byte)(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))...)
	text := fmt.Sprintf("{%s, flags %#x, nice %d, priority %d, runtime %d, deadline %d, period %d}",
		s.Policy, attr.Flags, attr.Nice, attr.Priority, attr.Runtime, attr.Deadline, attr.Period)
	b.call("sched_setattr", num(0), mem(bytes, text), num(0))
	return nil
}

func schedAttr(s *specs.Scheduler) (unix.SchedAttr, error) {
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

// ioPriority sets the class and level of disk accesses (ioprio_set(2)).
func (b *builder) ioPriority(p *specs.LinuxIOPriority) error {
	if p == nil {
		return nil
	}
	class := map[specs.IOPriorityClass]int{specs.IOPRIO_CLASS_RT: 1, specs.IOPRIO_CLASS_BE: 2, specs.IOPRIO_CLASS_IDLE: 3}[p.Class]
	if class == 0 {
		return fmt.Errorf("process.ioPriority.class: unknown %q", p.Class)
	}
	if p.Priority < 0 || p.Priority > 7 {
		return fmt.Errorf("process.ioPriority.priority: %d is not from 0 to 7", p.Priority)
	}
	b.about("set I/O priority %s %d", p.Class, p.Priority)
	const whoProcess, classShift = 1, 13
	b.call("ioprio_set", named(whoProcess, "IOPRIO_WHO_PROCESS"), num(0),
		named(uint64(class<<classShift|p.Priority), fmt.Sprintf("%s|%d", p.Class, p.Priority)))
	return nil
}

// affinity binds the process to processors (sched_setaffinity(2)).
func (b *builder) affinity(list, field string) error {
	if list == "" {
		return nil
	}
	mask, err := CPUMask(list)
	if err != nil {
		return fmt.Errorf("process.execCPUAffinity.%s: %w", field, err)
	}
	b.about("bind to processors %s", list)
	b.call("sched_setaffinity", num(0), num(len(mask)), mem(mask, "["+list+"]"))
	return nil
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

// memoryPolicy says which nodes memory comes from (set_mempolicy(2)).
func (b *builder) memoryPolicy(p *specs.LinuxMemoryPolicy) error {
	if p == nil {
		return nil
	}
	mode, ok := map[specs.MemoryPolicyModeType]uint64{
		specs.MpolDefault: 0, specs.MpolPreferred: 1, specs.MpolBind: 2, specs.MpolInterleave: 3, specs.MpolLocal: 4,
		specs.MpolPreferredMany: 5, specs.MpolWeightedInterleave: 6,
	}[p.Mode]
	if !ok {
		return fmt.Errorf("linux.memoryPolicy.mode: unknown %q", p.Mode)
	}
	text := string(p.Mode)
	for _, f := range p.Flags {
		v, ok := map[specs.MemoryPolicyFlagType]uint64{
			specs.MpolFStaticNodes: 1 << 15, specs.MpolFRelativeNodes: 1 << 14, specs.MpolFNumaBalancing: 1 << 13,
		}[f]
		if !ok {
			return fmt.Errorf("linux.memoryPolicy.flags: unknown %q", f)
		}
		mode, text = mode|v, text+"|"+string(f)
	}
	nodes, bits := null(), 0
	if p.Nodes != "" {
		mask, err := CPUMask(p.Nodes)
		if err != nil {
			return fmt.Errorf("linux.memoryPolicy.nodes: %w", err)
		}
		nodes, bits = mem(append(mask, make([]byte, 8)...), "["+p.Nodes+"]"), 8*len(mask)+1 // the kernel counts one less
	}
	b.about("set memory policy %s (CONFIG_NUMA)", p.Mode)
	b.call("set_mempolicy", named(mode, text), nodes, num(bits))
	return nil
}

// persona sets the execution domain (personality(2)).
func (b *builder) persona(p *specs.LinuxPersonality) error {
	if p == nil {
		return nil
	}
	v := uint64(0)
	switch p.Domain {
	case specs.PerLinux:
	case specs.PerLinux32:
		v = 0x8
	default:
		return fmt.Errorf("linux.personality.domain: unknown %q", p.Domain)
	}
	text := string(p.Domain)
	for _, f := range p.Flags {
		bit := personaFlag(string(f))
		if bit == 0 {
			return fmt.Errorf("linux.personality.flags: unknown %q", f)
		}
		v, text = v|bit, text+"|"+string(f)
	}
	b.about("set personality %s", text)
	b.call("personality", named(v, text))
	return nil
}

func personaFlag(name string) uint64 {
	return map[string]uint64{
		"UNAME26": 0x0020000, "ADDR_NO_RANDOMIZE": 0x0040000, "FDPIC_FUNCPTRS": 0x0080000, "MMAP_PAGE_ZERO": 0x0100000,
		"ADDR_COMPAT_LAYOUT": 0x0200000, "READ_IMPLIES_EXEC": 0x0400000, "ADDR_LIMIT_32BIT": 0x0800000,
		"SHORT_INODE": 0x1000000, "WHOLE_SECONDS": 0x2000000, "STICKY_TIMEOUTS": 0x4000000, "ADDR_LIMIT_3GB": 0x8000000,
	}[name]
}

// netDevices lists the links that move into the container, sorted by their name here.
func netDevices(s *specs.Spec) []plan.NetDevice {
	var out []plan.NetDevice
	for host, d := range s.Linux.NetDevices {
		name := d.Name
		if name == "" {
			name = host
		}
		out = append(out, plan.NetDevice{Host: host, Name: name})
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Host < out[j].Host })
	return out
}

func validateNetDevices(s *specs.Spec) error {
	if len(s.Linux.NetDevices) == 0 {
		return nil
	}
	if ns(s, specs.NetworkNamespace) == nil {
		return errors.New("linux.netDevices: need a network namespace")
	}
	seen := map[string]bool{}
	for _, d := range netDevices(s) {
		for _, name := range []string{d.Host, d.Name} {
			if name == "" || len(name) > 15 || name == "." || name == ".." || strings.ContainsAny(name, "/: \t\n\x00%") {
				return fmt.Errorf("linux.netDevices: %q is no name of a link", name)
			}
		}
		if seen[d.Name] {
			return fmt.Errorf("linux.netDevices: two are to be named %s", d.Name)
		}
		seen[d.Name] = true
	}
	return nil
}
