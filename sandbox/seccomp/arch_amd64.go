package seccomp

import specs "github.com/opencontainers/runtime-spec/specs-go"

// arches are those whose programs the kernel may run here, the native one first. The numbers are AUDIT_ARCH_* of
// linux/audit.h.
func arches() [nArches]arch {
	return [nArches]arch{
		{specs.ArchX86_64, 0xc000003e, 0, wide},
		{specs.ArchX86, 0x40000003, 0, narrow},
		{specs.ArchX32, 0xc000003e, x32Bit, wide},
	}
}

const (
	nArches   = 3
	inDefault = 3                       // how many of them Docker's default profile is for
	ofArch    = "arch_prctl modify_ldt" // calls that only this architecture has, and that profile allows
)
