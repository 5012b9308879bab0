//go:build !mips && !mipsle

package compiler

const sigsetSize = 8 // bytes in the kernel's sigset_t
