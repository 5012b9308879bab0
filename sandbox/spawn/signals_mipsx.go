//go:build mips || mipsle

package spawn

const (
	lastSignal = 127
	sigsetSize = 16 // bytes in the kernel's sigset_t
)
