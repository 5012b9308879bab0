package seccomp

import specs "github.com/opencontainers/runtime-spec/specs-go"

// arches are those whose programs the kernel may run here, the native one first. The numbers are AUDIT_ARCH_* of
// linux/audit.h.
func arches() [nArches]arch {
	return [nArches]arch{
		{specs.ArchMIPSEL, 0x40000008, 4000, narrow},
		{specs.ArchMIPSEL64, 0xc0000008, 5000, wide},
		{specs.ArchMIPSEL64N32, 0xe0000008, 6000, narrow},
	}
}

const (
	nArches   = 3
	inDefault = 1            // how many of them Docker's default profile is for
	ofArch    = "cacheflush" // calls that only this architecture has, and that profile allows

)
