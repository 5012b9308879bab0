package syscalls

import specs "github.com/opencontainers/runtime-spec/specs-go"

// Architectures are those whose programs the kernel may run here, the native one first. The numbers are AUDIT_ARCH_* of
// linux/audit.h.
func Architectures() [Count]Arch {
	return [Count]Arch{
		{specs.ArchAARCH64, 0xc00000b7, 0, wide},
		{specs.ArchARM, 0x40000028, 0, narrow},
	}
}

// Count is how many Architectures there are.
const Count = 2
