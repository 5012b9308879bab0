//go:build !mips && !mipsle

package plan

const sigsetSize = 8 // bytes in the kernel's sigset_t
