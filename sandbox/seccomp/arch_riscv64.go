package seccomp

import specs "github.com/opencontainers/runtime-spec/specs-go"

// arches are those whose programs the kernel may run here, the native one first. The numbers are AUDIT_ARCH_* of
// linux/audit.h.
func arches() [nArches]arch {
	return [nArches]arch{
		{specs.ArchRISCV64, 0xc00000f3, 0, wide},
	}
}

const (
	nArches   = 1
	inDefault = 1                    // how many of them Docker's default profile is for
	ofArch    = "riscv_flush_icache" // calls that only this architecture has, and that profile allows
)
