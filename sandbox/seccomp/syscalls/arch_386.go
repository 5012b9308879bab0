package syscalls

import specs "github.com/opencontainers/runtime-spec/specs-go"

// Architectures are those whose programs the kernel may run here, the native one first. The numbers are AUDIT_ARCH_* of
// linux/audit.h.
func Architectures() [Count]Arch {
	return [Count]Arch{
		{specs.ArchX86, 0x40000003, 0, narrow},
	}
}

// Count is how many Architectures there are.
const Count = 1
