package reaper

// EM_AARCH64 (elf.h).
const (
	machine  = 183
	elfFlags = 0
	wide     = true
)
