package reaper

// EM_X86_64 (elf.h).
const (
	machine  = 62
	elfFlags = 0
	wide     = true
)
