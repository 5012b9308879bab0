// Package reaper is the small process 1 of a container that asks for one (docker run --init): it starts the command,
// passes signals on to it, reaps orphans and ends as the command ended, like tini.
//
// It is a program of less than a thousand bytes for this machine's architecture, written in assembly: a container has
// neither coble's own binary (CVE-2019-5736) nor a Go runtime inside. It opens nothing and allocates nothing.
//
// Its arguments are "--", the path of the command, and the command's arguments from number 0 on. The exit status is
// the command's, 128 and the signal's number if it was killed, 127 if it was not there and 126 if it could not be
// executed, which is said on standard error too.
package reaper

import (
	"encoding/binary"
	"unsafe"
)

// program's address and that of the first byte after it, as assembled.
var programStart, programEnd uintptr

const (
	base  = 0x10000 // where the program is loaded; the pages of some kernels have 64 KiB
	text  = 0x100   // offset of the code, and of its address
	words = 0x80    // offset of what the program says when it cannot execute the command; program knows it too
	said  = "init: the command cannot be executed\n"
)

// Executable returns the program as an ELF file (elf(5)): one segment, which cannot be written, and no others.
func Executable() []byte {
	code := unsafe.Slice(programAt(programStart), programEnd-programStart)
	size := text + len(code)
	var b []byte
	word := func(v uint64) { // an address, as wide as the machine's
		if wide {
			b = binary.LittleEndian.AppendUint64(b, v)
			return
		}
		b = binary.LittleEndian.AppendUint32(b, uint32(v))
	}
	half := func(v ...uint16) {
		for _, x := range v {
			b = binary.LittleEndian.AppendUint16(b, x)
		}
	}
	long := func(v uint32) { b = binary.LittleEndian.AppendUint32(b, v) }
	class, head, segment := byte(1), uint16(52), uint16(32)
	if wide {
		class, head, segment = 2, 64, 56
	}
	b = append(b, 0x7f, 'E', 'L', 'F', class, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	half(2, machine) // ET_EXEC
	long(1)
	word(base + text)
	word(uint64(head)) // program headers follow
	word(0)
	long(elfFlags)
	half(head, segment, 1, 0, 0, 0)
	const load, readExec, page = 1, 5, 0x10000
	long(load)
	if wide {
		long(readExec)
	}
	word(0)
	word(base)
	word(base)
	word(uint64(size))
	word(uint64(size))
	if !wide {
		long(readExec)
	}
	word(page)
	b = append(b, make([]byte, words-len(b))...)
	b = append(b, said...)
	b = append(b, make([]byte, text-len(b))...)
	return append(b, code...)
}

// programAt is a pointer to code, which the collector does not move.
func programAt(addr uintptr) *byte { return *(**byte)(unsafe.Pointer(&addr)) }
