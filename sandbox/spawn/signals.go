//go:build !mips && !mipsle

package spawn

const (
	lastSignal = 64
	sigsetSize = 8 // bytes in the kernel's sigset_t
)
