package reaper

// EM_RISCV, and EF_RISCV_FLOAT_ABI_DOUBLE (elf.h).
const (
	machine  = 243
	elfFlags = 0x4
	wide     = true
)
