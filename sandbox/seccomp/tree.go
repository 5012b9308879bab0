package seccomp

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/coble-os/coble/sandbox/seccomp/syscalls"
)

// Offsets in struct seccomp_data (linux/seccomp.h).
const (
	offNr   = 0
	offArch = 4
	offArgs = 16
)

// assemble makes the program. It is laid out as: which architecture is it; for each, the tree of its numbers.
func (r *rules) assemble(used *[syscalls.Count]bool) []Instr {
	c := &compiler{asm: newAssembler(), rules: r}
	all := syscalls.Architectures()
	other := c.ret(retKillProcess)
	for i := syscalls.Count - 1; i >= 0; i-- {
		if !used[i] || all[i].Base == syscalls.X32Bit {
			continue
		}
		body := c.numbers(i, all[i])
		if all[i].Name == specs.ArchX86_64 {
			body = c.jump(jmpGE, syscalls.X32Bit, c.x32(used), body)
		}
		body = c.load(offNr, body)
		other = c.jump(jmpEq, all[i].Audit, body, other)
	}
	c.load(offArch, other)
	return c.program()
}

// x32 is what is done with x32 calls, which share their architecture with 64-bit ones.
func (c *compiler) x32(used *[syscalls.Count]bool) label {
	for i, a := range syscalls.Architectures() {
		if a.Base == syscalls.X32Bit && used[i] {
			return c.numbers(i, a)
		}
	}
	return c.ret(retErrno | enosys)
}

// compiler turns verdicts into code.
type compiler struct {
	*asm
	rules *rules
	made  []made // code of verdicts with tests
}

// made is code that later users of the same verdict may jump to.
type made struct {
	v      *verdict
	narrow bool
	at     label
}

func (c *compiler) numbers(column int, a syscalls.Arch) label {
	t := tree{c, a.Narrow}
	return t.search(c.rules.spans(column, a), 1<<32)
}

// tree compiles the search for a number, which is in the accumulator.
type tree struct {
	*compiler
	narrow bool
}

// search halves the spans, which end before number end. A few single numbers among others that are all treated alike
// are compared one by one: that needs half the instructions, and is no deeper.
func (t tree) search(spans []span, end uint64) label {
	if len(spans) == 1 {
		return t.verdict(spans[0].v)
	}
	if rest, single, n := exceptions(spans, end); n > 0 {
		other := t.verdict(rest)
		for _, s := range single[:n] {
			other = t.jump(jmpEq, s.start, t.verdict(s.v), other)
		}
		return other
	}
	mid := len(spans) / 2
	start := spans[mid].start
	right := t.search(spans[mid:], end)
	left := t.search(spans[:mid], uint64(start))
	return t.jump(jmpGE, start, right, left)
}

// maxSingle is how many numbers are compared one by one at most.
const maxSingle = 3

// exceptions finds out whether all spans are treated like rest but for n of one number each. It is 0 if not.
func exceptions(spans []span, end uint64) (rest *verdict, single [maxSingle]span, n int) {
	if len(spans) > 2*maxSingle+1 {
		return nil, single, 0
	}
	wide := func(i int) bool {
		next := end
		if i+1 < len(spans) {
			next = uint64(spans[i+1].start)
		}
		return next-uint64(spans[i].start) > 1
	}
	rest = spans[len(spans)-1].v
	for i := range spans {
		if wide(i) {
			rest = spans[i].v
			break
		}
	}
	for i, s := range spans {
		switch {
		case s.v == rest:
		case wide(i) || n == maxSingle:
			return nil, single, 0
		default:
			single[n] = s
			n++
		}
	}
	return rest, single, n
}

// verdict is where the code of v is. It expects nothing in the accumulator.
func (t tree) verdict(v *verdict) label {
	if len(v.tests) == 0 {
		return t.ret(v.ret)
	}
	for _, m := range t.made {
		if m.v == v && m.narrow == t.narrow {
			return m.at
		}
	}
	next := t.ret(v.ret)
	for end := len(v.tests); end > 0; {
		start := end - 1
		for start > 0 && alternatives(&v.tests[start-1], &v.tests[end-1]) {
			start--
		}
		next = t.tests(v.tests[start:end], next)
		end = start
	}
	t.made = append(t.made, made{v, t.narrow, next})
	return next
}

// alternatives tells whether two tests differ in nothing but the lower half of a value.
func alternatives(a, b *test) bool {
	if len(a.args) != 1 || len(b.args) != 1 || a.ret != b.ret {
		return false
	}
	x, y := a.args[0], b.args[0]
	return x.Op == specs.OpEqualTo && y.Op == specs.OpEqualTo && x.Index == y.Index && x.Value>>32 == y.Value>>32
}

// tests is the code of one test, or of several alternatives. If none fits it goes on at next.
func (t tree) tests(list []test, next label) label {
	ok := t.ret(list[0].ret)
	if len(list) == 1 {
		args := list[0].args
		for i := len(args) - 1; i >= 0; i-- {
			ok = t.condition(args[i], ok, next)
		}
		return ok
	}
	a := list[0].args[0]
	lo := next
	for i := len(list) - 1; i >= 0; i-- {
		lo = t.jump(jmpEq, uint32(list[i].args[0].Value), ok, lo)
	}
	return t.upper(a.Index, jmpEq, uint32(a.Value>>32), t.load(loword(a.Index), lo), next)
}

// condition goes on at yes if the argument fits, and else at no.
func (t tree) condition(a specs.LinuxSeccompArg, yes, no label) label {
	switch a.Op {
	case specs.OpEqualTo:
		return t.equal(a, yes, no)
	case specs.OpNotEqual:
		return t.equal(a, no, yes)
	case specs.OpGreaterThan:
		return t.above(a, jmpGT, yes, no)
	case specs.OpLessEqual:
		return t.above(a, jmpGT, no, yes)
	case specs.OpGreaterEqual:
		return t.above(a, jmpGE, yes, no)
	case specs.OpLessThan:
		return t.above(a, jmpGE, no, yes)
	default: // OpMaskedEqual: split lets no other through
		return t.masked(a, yes, no)
	}
}

// All architectures of coble are little-endian.
func loword(index uint) uint32 { return offArgs + 8*uint32(index) }

func hiword(index uint) uint32 { return loword(index) + 4 }

// upper compares the upper half of an argument, which is 0 where arguments have 32 bits.
func (t tree) upper(index uint, op uint16, v uint32, yes, no label) label {
	if !t.narrow {
		return t.load(hiword(index), t.jump(op, v, yes, no))
	}
	if op == jmpEq && v == 0 {
		return yes
	}
	return no
}

func (t tree) equal(a specs.LinuxSeccompArg, yes, no label) label {
	lo := t.load(loword(a.Index), t.jump(jmpEq, uint32(a.Value), yes, no))
	return t.upper(a.Index, jmpEq, uint32(a.Value>>32), lo, no)
}

// above is the comparison for "greater", or "greater or equal" if op is jmpGE.
func (t tree) above(a specs.LinuxSeccompArg, op uint16, yes, no label) label {
	hi := uint32(a.Value >> 32)
	lo := t.load(loword(a.Index), t.jump(op, uint32(a.Value), yes, no))
	if t.narrow {
		return t.upper(a.Index, jmpEq, hi, lo, no)
	}
	same := t.jump(jmpEq, hi, lo, no)
	return t.load(hiword(a.Index), t.jump(jmpGT, hi, yes, same))
}

func (t tree) masked(a specs.LinuxSeccompArg, yes, no label) label {
	want := a.ValueTwo & a.Value
	lo := t.half(loword(a.Index), uint32(a.Value), uint32(want), yes, no)
	if t.narrow {
		return t.upper(a.Index, jmpEq, uint32(want>>32), lo, no)
	}
	return t.half(hiword(a.Index), uint32(a.Value>>32), uint32(want>>32), lo, no)
}

// half compares what a mask leaves of a word.
func (t tree) half(off, mask, want uint32, yes, no label) label {
	if mask == 0 {
		return yes // and want is 0
	}
	next := t.jump(jmpEq, want, yes, no)
	if mask != 0xffffffff {
		next = t.then(Instr{Code: andK, K: mask}, next)
	}
	return t.load(off, next)
}
