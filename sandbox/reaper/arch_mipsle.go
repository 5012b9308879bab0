package reaper

// EM_MIPS, and EF_MIPS_CPIC, the o32 ABI and MIPS32 (elf.h).
const (
	machine  = 8
	elfFlags = 0x50001004
	wide     = false
)
