//go:build mips || mipsle

package sandbox

const mips = true
