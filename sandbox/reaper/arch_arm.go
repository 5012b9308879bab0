package reaper

// EM_ARM, and EF_ARM_EABI_VER5 (elf.h).
const (
	machine  = 40
	elfFlags = 0x05000000
	wide     = false
)
