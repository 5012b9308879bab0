// Package syscalls knows the numbers of system calls: by name, for each architecture whose programs the kernel may run
// on this machine. Both are found by index: of a call by [Find], of an architecture in [Architectures]. It holds tables
// only, and what they mean to a filter is not its business.
package syscalls

import specs "github.com/opencontainers/runtime-spec/specs-go"

// Arch is an architecture whose programs run on this machine.
type Arch struct {
	Name   specs.Arch
	Audit  uint32 // AUDIT_ARCH_*
	Base   uint32 // of its numbers
	Narrow bool   // arguments are 32 bits
}

const (
	wide   = false
	narrow = true
)

// X32Bit is in the numbers of x32 calls, which come as those of the 64-bit architecture.
const X32Bit = 0x40000000

// Numbers without their base are below Ordinary, or from Private up, where ARM has calls of its own.
const (
	Ordinary = 1024
	Private  = 0xf0000
)

// numbers are a call's by architecture, without their bases; -1 is none.
type numbers = [Count]int32

type call struct {
	name string
	nr   numbers
}

// Len is how many calls there are. Their indices are below.
const Len = len(calls)

// Name is the name of a call.
func Name(call int) string { return calls[call].name }

// Number is the number of a call on an architecture, without its base, or -1 if the architecture lacks the call.
func Number(call, arch int) int32 { return calls[call].nr[arch] }

// Find returns the index of a call, or -1.
func Find(name string) int {
	lo, hi := 0, len(calls)
	for lo < hi {
		mid := int(uint(lo+hi) / 2)
		if calls[mid].name < name {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo < len(calls) && calls[lo].name == name {
		return lo
	}
	return -1
}

// FindAfter is Find for a list of names: in most they are sorted, so it looks behind the last one first, whose index
// is last (-1: there is none).
func FindAfter(last int, name string) int {
	for i := last + 1; i > 0 && i <= last+4 && i < len(calls); i++ {
		if calls[i].name == name {
			return i
		}
	}
	return Find(name)
}
