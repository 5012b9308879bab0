package seccomp

import specs "github.com/opencontainers/runtime-spec/specs-go"

// arches are those whose programs the kernel may run here, the native one first. The numbers are AUDIT_ARCH_* of
// linux/audit.h.
func arches() [nArches]arch {
	return [nArches]arch{
		{specs.ArchARM, 0x40000028, 0, narrow},
		{specs.ArchAARCH64, 0xc00000b7, 0, wide},
	}
}

const (
	nArches   = 2
	inDefault = 1                                                                                     // how many of them Docker's default profile is for
	ofArch    = "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls" // calls that only this architecture has, and that profile allows
)
