package compiler

import (
	"fmt"
	"unsafe"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/coble-os/coble/sandbox/spec"
)

// scheduler sets policy and priority (sched_setattr(2)).
func (b *builder) scheduler(s *specs.Scheduler) error {
	if s == nil {
		return nil
	}
	attr, err := spec.Scheduler(s)
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

// ioPriority sets the class and level of disk accesses (ioprio_set(2)).
func (b *builder) ioPriority(p *specs.LinuxIOPriority) error {
	if p == nil {
		return nil
	}
	v, err := spec.IOPriority(p)
	if err != nil {
		return fmt.Errorf("process.ioPriority.%w", err)
	}
	b.about("set I/O priority %s %d", p.Class, p.Priority)
	const whoProcess = 1
	b.call("ioprio_set", named(whoProcess, "IOPRIO_WHO_PROCESS"), num(0),
		named(uint64(v), fmt.Sprintf("%s|%d", p.Class, p.Priority)))
	return nil
}

// affinity binds the process to processors (sched_setaffinity(2)).
func (b *builder) affinity(list, field string) error {
	if list == "" {
		return nil
	}
	mask, err := spec.CPUMask(list)
	if err != nil {
		return fmt.Errorf("process.execCPUAffinity.%s: %w", field, err)
	}
	b.about("bind to processors %s", list)
	b.call("sched_setaffinity", num(0), num(len(mask)), mem(mask, "["+list+"]"))
	return nil
}

// memoryPolicy says which nodes memory comes from (set_mempolicy(2)).
func (b *builder) memoryPolicy(p *specs.LinuxMemoryPolicy) error {
	if p == nil {
		return nil
	}
	mode, text, err := spec.MemoryPolicy(p)
	if err != nil {
		return fmt.Errorf("linux.memoryPolicy.%w", err)
	}
	nodes, bits := null(), 0
	if p.Nodes != "" {
		mask, err := spec.CPUMask(p.Nodes)
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
	v, text, err := spec.Personality(p)
	if err != nil {
		return fmt.Errorf("linux.personality.%w", err)
	}
	b.about("set personality %s", text)
	b.call("personality", named(v, text))
	return nil
}
