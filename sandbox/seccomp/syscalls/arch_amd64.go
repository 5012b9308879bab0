package syscalls

import specs "github.com/opencontainers/runtime-spec/specs-go"

// Architectures are those whose programs the kernel may run here, the native one first. The numbers are AUDIT_ARCH_* of
// linux/audit.h.
func Architectures() [Count]Arch {
	return [Count]Arch{
		{specs.ArchX86_64, 0xc000003e, 0, wide},
		{specs.ArchX86, 0x40000003, 0, narrow},
		{specs.ArchX32, 0xc000003e, X32Bit, wide},
	}
}

// Count is how many Architectures there are.
const Count = 3
