//go:build mips || mipsle

package compiler

const sigsetSize = 16 // bytes in the kernel's sigset_t
