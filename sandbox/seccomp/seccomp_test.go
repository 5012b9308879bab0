package seccomp

import (
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"

	"github.com/coble-os/coble/sandbox/caps"
	"github.com/coble-os/coble/sandbox/seccomp/syscalls"
)

func ptr(v uint) *uint { return &v }

// TestAll runs a filter over all numbers with all interesting arguments.
func TestAll(t *testing.T) {
	args := []uint64{0, 2, 8, 37, 38, 39, 40, 41, 45, 46, 0x20000, 0x20008, 0x10000000, 0xffffffff, 1 << 32, 1<<32 + 2, 1<<32 + 40, ^uint64(0)}
	for _, set := range [][]string{caps.Default(), nil, caps.All().Names()} {
		s := Default(set)
		p, err := Compile(s)
		require.NoError(t, err)
		wellFormed(t, p.Filter)
		oracle := newOracle(s)
		for column, a := range syscalls.Architectures() {
			for _, nr := range numbers(column) {
				for _, v := range args {
					d := data{audit: a.Audit, nr: nr, args: [6]uint64{v, 7, v}}
					got, _ := simulate(t, p.Filter, d)
					if want := oracle.expect(d); got != want {
						t.Fatalf("%s %d(%#x): %#x, want %#x", a.Name, nr, v, got, want)
					}
				}
			}
		}
		got, _ := simulate(t, p.Filter, data{audit: 0x12345678})
		require.Equal(t, uint32(retKillProcess), got, "an unknown architecture")
	}
}

// TestSize holds the length and depth of the default filter.
func TestSize(t *testing.T) {
	for _, one := range []struct {
		archs        int
		length, most int
	}{{1, 110, 17}, {inDefault, 330, 18}} {
		s := Default(caps.Default())
		s.Architectures = s.Architectures[:one.archs]
		p, err := Compile(s)
		require.NoError(t, err)
		most, sum, n := 0, 0, 0
		for column, a := range syscalls.Architectures() {
			for c := range syscalls.Len {
				if syscalls.Number(c, column) >= 0 {
					_, steps := simulate(t, p.Filter, data{audit: a.Audit, nr: a.Base + uint32(syscalls.Number(c, column))})
					most, sum, n = max(most, steps), sum+steps, n+1
				}
			}
		}
		t.Logf("%v: %d instructions, %.1f of them run for a call in the mean, at most %d", s.Architectures, len(p.Filter), float64(sum)/float64(n), most)
		require.LessOrEqual(t, len(p.Filter), one.length)
		require.LessOrEqual(t, most, one.most)
	}
}

// TestActions: what each action becomes, with and without a number.
func TestActions(t *testing.T) {
	for _, c := range []struct {
		action specs.LinuxSeccompAction
		errno  *uint
		want   uint32
		err    string
	}{
		{specs.ActAllow, nil, 0x7fff0000, ""},
		{specs.ActErrno, nil, 0x00050001, ""},
		{specs.ActErrno, ptr(0), 0x00050000, ""},
		{specs.ActErrno, ptr(38), 0x00050026, ""},
		{specs.ActErrno, ptr(4096), 0, "errnoRet 4096: above 4095"},
		{specs.ActTrace, nil, 0x7ff00001, ""},
		{specs.ActTrace, ptr(0xffff), 0x7ff0ffff, ""},
		{specs.ActTrace, ptr(0x10000), 0, "errnoRet 65536: above 65535"},
		{specs.ActKill, nil, 0, ""},
		{specs.ActKillThread, nil, 0, ""},
		{specs.ActKillProcess, nil, 0x80000000, ""},
		{specs.ActTrap, nil, 0x00030000, ""},
		{specs.ActLog, nil, 0x7ffc0000, ""},
		{specs.ActNotify, nil, 0x7fc00000, ""},
		{specs.ActAllow, ptr(1), 0, "action SCMP_ACT_ALLOW takes no errnoRet"},
		{"SCMP_ACT_X", nil, 0, `action "SCMP_ACT_X": not supported`},
		{"", nil, 0, `action "": not supported`},
	} {
		s := &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, ListenerPath: "/run/x", Syscalls: []specs.LinuxSyscall{
			{Names: []string{"getpid"}, Action: c.action, ErrnoRet: c.errno},
		}}
		p, err := Compile(s)
		if c.err != "" {
			require.EqualError(t, err, "syscalls[0]: "+c.err)
			continue
		}
		require.NoError(t, err)
		got, _ := simulate(t, p.Filter, native(t, "getpid"))
		require.Equal(t, c.want, got, c.action)
		require.Equal(t, c.action == specs.ActNotify, p.Notifies())
		got, _ = simulate(t, p.Filter, native(t, "getppid"))
		require.Equal(t, uint32(retAllow), got)
	}
	_, err := Compile(&specs.LinuxSeccomp{DefaultAction: specs.ActAllow, DefaultErrnoRet: ptr(1)})
	require.EqualError(t, err, "defaultAction: action SCMP_ACT_ALLOW takes no errnoRet")
	_, err = Compile(&specs.LinuxSeccomp{})
	require.EqualError(t, err, `defaultAction: action "": not supported`)
}

func operators() []specs.LinuxSeccompOperator {
	return []specs.LinuxSeccompOperator{
		specs.OpEqualTo, specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual,
		specs.OpGreaterThan, specs.OpGreaterEqual, specs.OpMaskedEqual,
	}
}

// TestOperators compares 64-bit values on both sides of every boundary, on every architecture.
func TestOperators(t *testing.T) {
	values := []uint64{0, 1, 7, 1<<31 - 1, 1 << 31, 1<<32 - 1, 1 << 32, 1<<32 + 7, 1<<40 + 7, 1<<40 + 8, 1<<63 - 1, 1 << 63, ^uint64(0)}
	for _, op := range operators() {
		for _, value := range values {
			s := &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{
				Names: []string{"read"}, Action: specs.ActTrap,
				Args: []specs.LinuxSeccompArg{{Index: 2, Value: value, ValueTwo: value & (1<<40 + 7), Op: op}},
			}}}
			for _, a := range syscalls.Architectures() {
				s.Architectures = append(s.Architectures, a.Name)
			}
			p, err := Compile(s)
			require.NoError(t, err)
			wellFormed(t, p.Filter)
			oracle := newOracle(s)
			for column, a := range syscalls.Architectures() {
				for _, v := range values {
					d := data{a.Audit, a.Base + uint32(syscalls.Number(syscalls.Find("read"), column)), [6]uint64{9, 9, v}}
					got, _ := simulate(t, p.Filter, d)
					require.Equal(t, oracle.expect(d), got, "%s %s %#x, argument %#x", a.Name, op, value, v)
				}
			}
		}
	}
}

func arg(index uint, op specs.LinuxSeccompOperator, v uint64, two ...uint64) specs.LinuxSeccompArg {
	a := specs.LinuxSeccompArg{Index: index, Op: op, Value: v}
	if len(two) > 0 {
		a.ValueTwo = two[0]
	}
	return a
}

func rule(action specs.LinuxSeccompAction, args ...specs.LinuxSeccompArg) specs.LinuxSyscall {
	return specs.LinuxSyscall{Names: []string{"read"}, Action: action, Args: args}
}

// TestRules: how rules for one call, and conditions of one rule, go together, as with runc.
func TestRules(t *testing.T) {
	const allow, trap, log = specs.ActAllow, specs.ActTrap, specs.ActLog
	eq, ne, gt, lt := specs.OpEqualTo, specs.OpNotEqual, specs.OpGreaterThan, specs.OpLessThan
	for _, c := range []struct {
		name  string
		rules []specs.LinuxSyscall
		args  [6]uint64
		want  uint32
	}{
		{"conditions on two arguments: both", []specs.LinuxSyscall{rule(allow, arg(0, eq, 3), arg(1, gt, 5))}, [6]uint64{3, 6}, retAllow},
		{"conditions on two arguments: first only", []specs.LinuxSyscall{rule(allow, arg(0, eq, 3), arg(1, gt, 5))}, [6]uint64{3, 5}, retErrno | 1},
		{"conditions on two arguments: second only", []specs.LinuxSyscall{rule(allow, arg(0, eq, 3), arg(1, gt, 5))}, [6]uint64{4, 6}, retErrno | 1},
		{"conditions on one argument are ored", []specs.LinuxSyscall{rule(allow, arg(0, eq, 3), arg(0, eq, 5))}, [6]uint64{5}, retAllow},
		{"conditions on one argument: none", []specs.LinuxSyscall{rule(allow, arg(0, eq, 3), arg(0, eq, 5))}, [6]uint64{4}, retErrno | 1},
		{"a doubled argument ors all", []specs.LinuxSyscall{rule(allow, arg(0, eq, 3), arg(1, eq, 4), arg(0, eq, 5))}, [6]uint64{9, 4}, retAllow},
		{"two unequals on one argument let all through", []specs.LinuxSyscall{rule(allow, arg(0, ne, 3), arg(0, ne, 5))}, [6]uint64{3}, retAllow},
		{"two rules", []specs.LinuxSyscall{rule(allow, arg(0, lt, 3)), rule(log, arg(0, gt, 5))}, [6]uint64{6}, retLog},
		{"the first of two", []specs.LinuxSyscall{rule(allow, arg(0, lt, 9)), rule(log, arg(0, lt, 10))}, [6]uint64{6}, retAllow},
		{"no conditions beat some", []specs.LinuxSyscall{rule(trap, arg(0, eq, 6)), rule(log)}, [6]uint64{6}, retLog},
		{"no conditions beat some, before them", []specs.LinuxSyscall{rule(log), rule(trap, arg(0, eq, 6))}, [6]uint64{6}, retLog},
		{"the first without conditions", []specs.LinuxSyscall{rule(log), rule(trap)}, [6]uint64{}, retLog},
		{"the default action is no rule", []specs.LinuxSyscall{rule(specs.ActErrno), rule(trap, arg(0, eq, 6))}, [6]uint64{6}, retTrap},
		{"masked", []specs.LinuxSyscall{rule(allow, arg(0, specs.OpMaskedEqual, 0xf0, 0x30))}, [6]uint64{0x12f}, retErrno | 1},
		{"masked, and so is the value", []specs.LinuxSyscall{rule(allow, arg(0, specs.OpMaskedEqual, 0xf0, 0x33))}, [6]uint64{0x13f}, retAllow},
		{"masked by nothing", []specs.LinuxSyscall{rule(allow, arg(0, specs.OpMaskedEqual, 0, 1))}, [6]uint64{5}, retAllow},
	} {
		s := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: c.rules}
		p, err := Compile(s)
		require.NoError(t, err)
		d := native(t, "read", c.args[:]...)
		got, _ := simulate(t, p.Filter, d)
		require.Equal(t, c.want, got, c.name)
		require.Equal(t, c.want, newOracle(s).expect(d), "%s: what the test expects elsewhere", c.name)
	}
}

// TestNewer: numbers above those of the profile get ENOSYS, those among them the default action.
func TestNewer(t *testing.T) {
	s := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{
		{Names: []string{"read", "statx", "call_of_the_future"}, Action: specs.ActAllow},
	}}
	for _, c := range []struct {
		def  specs.LinuxSeccompAction
		want uint32
	}{
		{specs.ActErrno, retErrno | 38},
		{specs.ActKillProcess, retErrno | 38},
		{specs.ActTrap, retErrno | 38},
		{specs.ActAllow, retAllow},
		{specs.ActLog, retLog},
		{specs.ActTrace, retTrace | 1},
	} {
		s.DefaultAction = c.def
		p, err := Compile(s)
		require.NoError(t, err)
		for _, name := range []string{"clone3", "openat2", "faccessat2"} {
			got, _ := simulate(t, p.Filter, native(t, name))
			require.Equal(t, c.want, got, "%s by %s", name, c.def)
		}
		def, _ := action(c.def, nil)
		got, _ := simulate(t, p.Filter, native(t, "mount"))
		require.Equal(t, def, got, "a call that the profile's author knew")
	}
}

// TestTime64: an old profile makes programs fall back to the old clocks of 32-bit machines, and does not stop them.
func TestTime64(t *testing.T) {
	i := syscalls.Find("clock_gettime64")
	if i < 0 {
		t.Skip("no 32-bit programs here")
	}
	for column, a := range syscalls.Architectures() {
		nr := syscalls.Number(i, column)
		if nr < 0 {
			continue
		}
		s := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Architectures: []specs.Arch{a.Name}, Syscalls: []specs.LinuxSyscall{
			{Names: []string{"clock_gettime", "statx", "set_tls"}, Action: specs.ActAllow},
		}}
		p, err := Compile(s)
		require.NoError(t, err)
		got, _ := simulate(t, p.Filter, data{audit: a.Audit, nr: a.Base + uint32(nr)})
		require.Equal(t, uint32(retErrno|enosys), got, a.Name)
	}
}

func TestFlags(t *testing.T) {
	const tsync, log, ssb, wait = "SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"
	for _, c := range []struct {
		flags  []specs.LinuxSeccompFlag
		notify bool
		want   uint32
		err    string
	}{
		{nil, false, 0, ""},
		{[]specs.LinuxSeccompFlag{tsync, log, ssb}, false, 7, ""},
		{nil, true, 8, ""},
		{[]specs.LinuxSeccompFlag{wait}, true, 8 + 32, ""},
		{[]specs.LinuxSeccompFlag{tsync}, true, 1 + 8 + 16, ""},
		{[]specs.LinuxSeccompFlag{wait}, false, 0, "flags: SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV: needs an action SCMP_ACT_NOTIFY"},
		{[]specs.LinuxSeccompFlag{"X"}, false, 0, "flags: X: unknown"},
	} {
		s := &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Flags: c.flags, ListenerPath: "/x"}
		if c.notify {
			s.Syscalls = []specs.LinuxSyscall{rule(specs.ActNotify)}
		}
		p, err := Compile(s)
		if c.err != "" {
			require.EqualError(t, err, c.err)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, c.want, p.Flags)
	}
}

// TestSiblings: what is not listed is killed; x32 gets ENOSYS; the native architecture is always there.
func TestSiblings(t *testing.T) {
	for _, list := range [][]specs.Arch{nil, {specs.ArchS390X}} {
		p, err := Compile(&specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Architectures: list})
		require.NoError(t, err)
		for column, a := range syscalls.Architectures() {
			got, _ := simulate(t, p.Filter, data{audit: a.Audit, nr: a.Base + 1})
			switch {
			case column == 0:
				require.Equal(t, uint32(retAllow), got)
			case a.Base == syscalls.X32Bit:
				require.Equal(t, uint32(retErrno|enosys), got)
			default:
				require.Equal(t, uint32(retKillProcess), got)
			}
		}
	}
}

func TestErrors(t *testing.T) {
	one := func(f func(*specs.LinuxSeccomp)) error {
		s := &specs.LinuxSeccomp{DefaultAction: specs.ActAllow}
		f(s)
		_, err := Compile(s)
		return err
	}
	read := func(r ...specs.LinuxSyscall) func(*specs.LinuxSeccomp) {
		return func(s *specs.LinuxSeccomp) { s.Syscalls = r }
	}
	require.EqualError(t, one(func(s *specs.LinuxSeccomp) { s.DefaultAction = "X" }), `defaultAction: action "X": not supported`)
	require.EqualError(t, one(func(s *specs.LinuxSeccomp) { s.Architectures = []specs.Arch{"SCMP_ARCH_VAX"} }), "architectures: SCMP_ARCH_VAX: unknown")
	require.EqualError(t, one(read(specs.LinuxSyscall{Names: []string{"read", ""}, Action: specs.ActAllow})), "syscalls[0]: names: an empty name")
	require.EqualError(t, one(read(rule(specs.ActTrap, arg(6, specs.OpEqualTo, 0)))), "syscalls[0]: args[0]: index 6: a call has arguments 0 to 5")
	require.EqualError(t, one(read(rule(specs.ActTrap, arg(0, "SCMP_CMP_X", 0)))), `syscalls[0]: args[0]: operator "SCMP_CMP_X": unknown`)
	require.EqualError(t, one(read(rule(specs.ActNotify))), "listenerPath: missing, and an action is SCMP_ACT_NOTIFY")
	require.NoError(t, one(read(specs.LinuxSyscall{Names: []string{"raed"}, Action: specs.ActErrno})), "runc ignores unknown names")
	require.NoError(t, one(func(s *specs.LinuxSeccomp) { s.ListenerPath = "/x" }), "a listener without notifications is ignored")
}

// TestHandOver: a filter that would keep its own listener's descriptor from being sent is refused.
func TestHandOver(t *testing.T) {
	s := &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, ListenerPath: "/x", Syscalls: []specs.LinuxSyscall{
		{Names: []string{"mkdirat", "sendmsg"}, Action: specs.ActNotify},
	}}
	_, err := Compile(s)
	require.ErrorIs(t, err, ErrHandOver)
	s.Syscalls[0].Names = []string{"mkdirat"}
	_, err = Compile(s)
	require.NoError(t, err)
	s.DefaultAction = specs.ActErrno
	_, err = Compile(s)
	require.ErrorIs(t, err, ErrHandOver)
	s.Syscalls = append(s.Syscalls, specs.LinuxSyscall{Names: []string{"sendmsg"}, Action: specs.ActLog})
	_, err = Compile(s)
	require.NoError(t, err)
}

// TestTooLong: a filter of more than 4096 instructions is an error that says so, and a long one jumps right.
func TestTooLong(t *testing.T) {
	s := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno}
	for i := range 2000 {
		s.Syscalls = append(s.Syscalls, specs.LinuxSyscall{
			Names: []string{syscalls.Name(i % syscalls.Len)}, Action: specs.ActErrno, ErrnoRet: ptr(uint(i%100 + 2)),
			Args: []specs.LinuxSeccompArg{arg(uint(i%6), specs.OpGreaterThan, uint64(i+1)<<20)},
		})
		p, err := Compile(s)
		if err != nil {
			require.ErrorIs(t, err, ErrTooLong)
			require.Greater(t, i, 200)
			require.Regexp(t, `^filter is too long for the kernel: \d+ instructions, and at most 4096 are possible$`, err)
			return
		}
		if i%200 != 199 {
			continue
		}
		wellFormed(t, p.Filter)
		a, oracle := syscalls.Architectures()[0], newOracle(s)
		for c := range syscalls.Len {
			if syscalls.Number(c, 0) < 0 {
				continue
			}
			d := data{a.Audit, a.Base + uint32(syscalls.Number(c, 0)), [6]uint64{1 << 30, 1 << 30, 1 << 30, 1 << 30, 1 << 30, 1 << 30}}
			got, _ := simulate(t, p.Filter, d)
			require.Equal(t, oracle.expect(d), got, syscalls.Name(c))
		}
	}
	t.Fatal("2000 rules fit into 4096 instructions")
}

func BenchmarkCompile(b *testing.B) {
	s := Default(caps.Default())
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Compile(s); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDefault(b *testing.B) {
	set := caps.Default()
	b.ReportAllocs()
	for b.Loop() {
		Default(set)
	}
}
