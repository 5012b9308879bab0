package seccomp

import (
	"encoding/binary"
	"slices"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"

	"github.com/coble-os/coble/sandbox/seccomp/syscalls"
)

// data is struct seccomp_data without the instruction pointer.
type data struct {
	audit, nr uint32
	args      [6]uint64
}

// simulate runs a filter on a call as the kernel would, and counts instructions.
func simulate(t testing.TB, prog []Instr, d data) (uint32, int) {
	raw := make([]byte, 64)
	binary.LittleEndian.PutUint32(raw[0:], d.nr)
	binary.LittleEndian.PutUint32(raw[4:], d.audit)
	for i, a := range d.args {
		binary.LittleEndian.PutUint64(raw[16+8*i:], a)
	}
	acc := uint32(0)
	for pc, steps := 0, 1; ; steps++ {
		if pc >= len(prog) {
			t.Fatal("the filter runs off its end")
		}
		in := prog[pc]
		pc++
		jump := func(cond bool) {
			if cond {
				pc += int(in.Jt)
			} else {
				pc += int(in.Jf)
			}
		}
		switch in.Code {
		case ldAbs:
			acc = binary.LittleEndian.Uint32(raw[in.K:])
		case andK:
			acc &= in.K
		case jmpAlways:
			pc += int(in.K)
		case jmpEq:
			jump(acc == in.K)
		case jmpGT:
			jump(acc > in.K)
		case jmpGE:
			jump(acc >= in.K)
		case retK:
			return in.K, steps
		default:
			t.Fatalf("unknown instruction %#x", in.Code)
		}
	}
}

// wellFormed is what the kernel checks before it takes a filter (bpf_check_classic and seccomp_check_filter).
func wellFormed(t testing.TB, prog []Instr) {
	require.NotEmpty(t, prog)
	require.LessOrEqual(t, len(prog), maxInstrs)
	for pc, in := range prog {
		switch in.Code {
		case jmpAlways:
			require.Less(t, pc+1+int(in.K), len(prog))
		case jmpEq, jmpGT, jmpGE:
			require.Less(t, pc+1+int(max(in.Jt, in.Jf)), len(prog))
		case ldAbs:
			require.True(t, in.K < 64 && in.K%4 == 0)
		case andK, retK:
		default:
			t.Fatalf("unknown instruction %#x", in.Code)
		}
	}
	require.Equal(t, uint16(retK), prog[len(prog)-1].Code)
}

// oracle says what a spec means, without any cleverness.
type oracle struct {
	spec  *specs.LinuxSeccomp
	rules [syscalls.Count]map[uint32][]specs.LinuxSyscall // by number, without its base
	top   [syscalls.Count]int64                           // the highest ordinary number that the spec knows
}

func newOracle(s *specs.LinuxSeccomp) *oracle {
	o := &oracle{spec: s}
	for column := range syscalls.Count {
		o.rules[column], o.top[column] = map[uint32][]specs.LinuxSyscall{}, -1
		for _, r := range s.Syscalls {
			for c := range syscalls.Len {
				nr := syscalls.Number(c, column)
				if nr < 0 || !slices.Contains(r.Names, syscalls.Name(c)) {
					continue
				}
				o.rules[column][uint32(nr)] = append(o.rules[column][uint32(nr)], r)
				if nr < syscalls.Private {
					o.top[column] = max(o.top[column], int64(nr))
				}
			}
		}
	}
	return o
}

func (o *oracle) expect(d data) uint32 {
	s := o.spec
	column, a := whose(d)
	if column < 0 {
		return retKillProcess
	}
	if column > 0 && !slices.Contains(s.Architectures, a.Name) {
		if a.Base == syscalls.X32Bit {
			return retErrno | enosys
		}
		return retKillProcess
	}
	if a.Narrow {
		for i := range d.args {
			d.args[i] &= 0xffffffff
		}
	}
	def, _ := action(s.DefaultAction, s.DefaultErrnoRet)
	rules := o.rules[column][d.nr-a.Base]
	for _, r := range rules {
		if ret, _ := action(r.Action, r.ErrnoRet); len(r.Args) == 0 && ret != def {
			return ret
		}
	}
	for _, r := range rules {
		if ret, _ := action(r.Action, r.ErrnoRet); ret != def && len(r.Args) > 0 && fits(r.Args, d.args) {
			return ret
		}
	}
	permissive := slices.Contains([]specs.LinuxSeccompAction{specs.ActAllow, specs.ActLog, specs.ActTrace}, s.DefaultAction)
	top := o.top[column]
	if len(rules) == 0 && !permissive && top >= 0 && int64(d.nr)-int64(a.Base) > top {
		return retErrno | enosys
	}
	return def
}

// whose tells whose call it is.
func whose(d data) (int, syscalls.Arch) {
	x32 := d.audit == 0xc000003e && d.nr >= syscalls.X32Bit
	for i, a := range syscalls.Architectures() {
		if a.Audit == d.audit && x32 == (a.Base == syscalls.X32Bit) {
			return i, a
		}
	}
	return -1, syscalls.Arch{}
}

func fits(args []specs.LinuxSeccompArg, v [6]uint64) bool {
	all, some := true, false
	var count [6]int
	for _, a := range args {
		x, ok := v[a.Index], false
		switch a.Op {
		case specs.OpEqualTo:
			ok = x == a.Value
		case specs.OpNotEqual:
			ok = x != a.Value
		case specs.OpLessThan:
			ok = x < a.Value
		case specs.OpLessEqual:
			ok = x <= a.Value
		case specs.OpGreaterThan:
			ok = x > a.Value
		case specs.OpGreaterEqual:
			ok = x >= a.Value
		case specs.OpMaskedEqual:
			ok = x&a.Value == a.ValueTwo&a.Value
		}
		all, some = all && ok, some || ok
		count[a.Index]++
	}
	if slices.Max(count[:]) > 1 {
		return some
	}
	return all
}

// native is a call of this machine's architecture.
func native(t testing.TB, name string, args ...uint64) data {
	i := syscalls.Find(name)
	require.GreaterOrEqual(t, i, 0, name)
	require.GreaterOrEqual(t, syscalls.Number(i, 0), int32(0), name)
	a := syscalls.Architectures()[0]
	d := data{audit: a.Audit, nr: a.Base + uint32(syscalls.Number(i, 0))}
	copy(d.args[:], args)
	return d
}

// numbers are all numbers of an architecture that may matter.
func numbers(column int) []uint32 {
	a := syscalls.Architectures()[column]
	out := []uint32{0, 1, a.Base - 1, syscalls.X32Bit - 1, syscalls.X32Bit, syscalls.X32Bit + 1, 1<<31 - 1, 1 << 31, 1<<32 - 1}
	for n := range uint32(syscalls.Ordinary + 2) {
		out = append(out, a.Base+n)
	}
	for n := range uint32(8) {
		out = append(out, a.Base+syscalls.Private+n-1)
	}
	return out
}
