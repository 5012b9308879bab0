package seccomp

import (
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"

	"github.com/coble-os/coble/sandbox/seccomp/syscalls"
)

// dice makes choices out of the fuzzer's bytes, and when they are used up, goes on with what follows from them.
type dice struct {
	b    []byte
	more uint64
}

// roll returns a number below n.
func (d *dice) roll(n int) int {
	if len(d.b) == 0 {
		d.more = d.more*6364136223846793005 + 1442695040888963407
		return int(d.more>>33) % n
	}
	v := d.b[0]
	d.b, d.more = d.b[1:], d.more*31+uint64(v)+1
	return int(v) % n
}

func (d *dice) value() uint64 {
	base := []uint64{0, 1, 5, 0x7f, 1 << 31, 1<<32 - 1, 1 << 32, 1<<32 + 5, 1 << 63, ^uint64(0)}[d.roll(10)]
	return base + uint64(d.roll(3)) - 1
}

func (d *dice) action() (specs.LinuxSeccompAction, *uint) {
	switch a := []specs.LinuxSeccompAction{
		specs.ActAllow, specs.ActErrno, specs.ActTrap, specs.ActTrace, specs.ActKill, specs.ActKillProcess, specs.ActLog, specs.ActNotify,
	}[d.roll(8)]; {
	case (a == specs.ActErrno || a == specs.ActTrace) && d.roll(2) == 1:
		return a, ptr(uint(d.roll(40)))
	default:
		return a, nil
	}
}

func (d *dice) names() []string {
	pool := []string{
		"read", "write", "open", "openat", "close", "ptrace", "socket", "personality", "clone", "clone3", "sendmsg", "set_tls",
		"breakpoint", "arm_sync_file_range", "sync_file_range2", "clock_gettime64", "cachestat", "rt_sigaction", "no_such_call",
	}
	out := make([]string, 1+d.roll(3))
	for i := range out {
		if d.roll(3) == 0 {
			out[i] = syscalls.Name(d.roll(256) * syscalls.Len / 256)
			continue
		}
		out[i] = pool[d.roll(len(pool))]
	}
	return out
}

func (d *dice) args() []specs.LinuxSeccompArg {
	out := make([]specs.LinuxSeccompArg, d.roll(4))
	for i := range out {
		out[i] = arg(uint(d.roll(6)), operators()[d.roll(7)], d.value(), d.value())
	}
	return out
}

func (d *dice) spec() *specs.LinuxSeccomp {
	s := &specs.LinuxSeccomp{ListenerPath: "/x"}
	s.DefaultAction, s.DefaultErrnoRet = d.action()
	for _, a := range syscalls.Architectures() {
		if d.roll(2) == 1 {
			s.Architectures = append(s.Architectures, a.Name)
		}
	}
	for range 1 + d.roll(12) {
		r := specs.LinuxSyscall{Names: d.names(), Args: d.args()}
		r.Action, r.ErrnoRet = d.action()
		s.Syscalls = append(s.Syscalls, r)
	}
	return s
}

// FuzzCompile compares the program for a random spec with what the spec means, on numbers that it names, their
// neighbours and others, and with arguments around the values that it compares with.
func FuzzCompile(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{1, 0, 1, 1, 1, 3, 0, 2, 0, 3, 2, 0, 0, 1, 4, 1, 1, 0, 5, 5, 2, 7, 7, 1})
	for i := range byte(8) {
		seed := make([]byte, 160)
		for k := range seed {
			seed[k] = byte(k*k)*7 + i*31 + byte(k)
		}
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		d := &dice{b: b}
		s := d.spec()
		p, err := Compile(s)
		if err != nil {
			require.ErrorIs(t, err, ErrHandOver)
			return
		}
		wellFormed(t, p.Filter)
		o := newOracle(s)
		for column, a := range syscalls.Architectures() {
			for _, nr := range o.numbers(column, a) {
				for range 6 {
					c := data{audit: a.Audit, nr: nr}
					for i := range c.args {
						c.args[i] = d.value()
					}
					got, _ := simulate(t, p.Filter, c)
					if want := o.expect(c); got != want {
						t.Fatalf("%s %d%#x: %#x, want %#x\n%+v", a.Name, nr, c.args, got, want, s)
					}
				}
			}
		}
	})
}

// numbers are those that the spec names, and their neighbours, and some others.
func (o *oracle) numbers(column int, a syscalls.Arch) []uint32 {
	out := []uint32{0, a.Base, a.Base + 1, a.Base + 300, a.Base + syscalls.Ordinary, syscalls.X32Bit - 1, syscalls.X32Bit, 1 << 31, 1<<32 - 1}
	for nr := range o.rules[column] {
		out = append(out, a.Base+nr-1, a.Base+nr, a.Base+nr+1)
	}
	return out
}
