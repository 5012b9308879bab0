package syscalls

import specs "github.com/opencontainers/runtime-spec/specs-go"

// Architectures are those whose programs the kernel may run here, the native one first. The numbers are AUDIT_ARCH_* of
// linux/audit.h.
func Architectures() [Count]Arch {
	return [Count]Arch{
		{specs.ArchRISCV64, 0xc00000f3, 0, wide},
	}
}

// Count is how many Architectures there are.
const Count = 1
