package syscalls

import specs "github.com/opencontainers/runtime-spec/specs-go"

// Architectures are those whose programs the kernel may run here, the native one first. The numbers are AUDIT_ARCH_* of
// linux/audit.h.
func Architectures() [Count]Arch {
	return [Count]Arch{
		{specs.ArchMIPSEL, 0x40000008, 4000, narrow},
		{specs.ArchMIPSEL64, 0xc0000008, 5000, wide},
		{specs.ArchMIPSEL64N32, 0xe0000008, 6000, narrow},
	}
}

// Count is how many Architectures there are.
const Count = 3
