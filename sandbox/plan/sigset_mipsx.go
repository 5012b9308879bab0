//go:build mips || mipsle

package plan

const sigsetSize = 16 // bytes in the kernel's sigset_t
