package seccomp

import "slices"

// Instruction codes of classic BPF (linux/bpf_common.h).
const (
	ldAbs     = 0x20 // BPF_LD|BPF_W|BPF_ABS
	jmpAlways = 0x05 // BPF_JMP|BPF_JA
	jmpEq     = 0x15 // BPF_JMP|BPF_JEQ|BPF_K
	jmpGT     = 0x25 // BPF_JMP|BPF_JGT|BPF_K
	jmpGE     = 0x35 // BPF_JMP|BPF_JGE|BPF_K
	andK      = 0x54 // BPF_ALU|BPF_AND|BPF_K
	retK      = 0x06 // BPF_RET|BPF_K
)

// label is a place in the program, counted from its end: that of the last instruction is 0.
type label int

// asm writes a program from its end to its start: all jumps go forward in BPF, so their targets are known when they
// are written. Each method adds instructions before all others and returns the label of the first.
type asm struct {
	code []Instr // the last one first
	rets []label // of instructions that end the program
}

func newAssembler() *asm { return &asm{code: make([]Instr, 0, 512), rets: make([]label, 0, 32)} }

// program returns the instructions in their order. The assembler is spent.
func (a *asm) program() []Instr {
	slices.Reverse(a.code)
	return a.code
}

func (a *asm) push(i Instr) label {
	a.code = append(a.code, i)
	return label(len(a.code) - 1)
}

// reach is how far a conditional jump goes: eight bits, less one for the instruction that near may put in between.
const reach = 254

func (a *asm) distance(to label) int { return len(a.code) - 1 - int(to) }

// ret ends the program with a value. One that is near enough is used again.
func (a *asm) ret(v uint32) label {
	for i := len(a.rets) - 1; i >= 0; i-- {
		if a.distance(a.rets[i]) > reach/2 {
			break
		}
		if a.code[a.rets[i]].K == v {
			return a.rets[i]
		}
	}
	l := a.push(Instr{Code: retK, K: v})
	a.rets = append(a.rets, l)
	return l
}

// near returns a label within the reach of a conditional jump that has the effect of to.
func (a *asm) near(to label) label {
	if a.distance(to) <= reach {
		return to
	}
	if i := a.code[to]; i.Code == retK {
		return a.ret(i.K)
	}
	return a.push(Instr{Code: jmpAlways, K: uint32(a.distance(to))})
}

// jump compares the accumulator with k.
func (a *asm) jump(op uint16, k uint32, yes, no label) label {
	if yes == no {
		return yes
	}
	yes, no = a.near(yes), a.near(no)
	return a.push(Instr{op, uint8(a.distance(yes)), uint8(a.distance(no)), k})
}

// then does i and goes on at next.
func (a *asm) then(i Instr, next label) label {
	if a.distance(next) != 0 {
		a.push(Instr{Code: jmpAlways, K: uint32(a.distance(next))})
	}
	return a.push(i)
}

// load puts a word of struct seccomp_data into the accumulator.
func (a *asm) load(off uint32, next label) label { return a.then(Instr{Code: ldAbs, K: off}, next) }
