package seccomp

import (
	"errors"
	"fmt"
	"slices"
	"sort"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/coble-os/coble/sandbox/seccomp/syscalls"
)

// verdict is what to do with a call: the first test that fits, or else ret. Verdicts without tests are interned, so
// that two of them are the same if their pointers are.
type verdict struct {
	ret   uint32
	tests []test
}

// test is a set of conditions, all of which must hold.
type test struct {
	args []specs.LinuxSeccompArg
	ret  uint32
}

// rules collects what a spec says by call.
type rules struct {
	def      *verdict
	plain    []*verdict // those without tests
	of       [syscalls.Len]*verdict
	notifies bool
}

func newRules(def uint32) *rules {
	r := &rules{notifies: def == retNotify}
	r.def = r.simply(def)
	return r
}

// simply interns the verdict without tests.
func (r *rules) simply(ret uint32) *verdict {
	for _, v := range r.plain {
		if v.ret == ret {
			return v
		}
	}
	v := &verdict{ret: ret}
	r.plain = append(r.plain, v)
	return v
}

// add adds a rule of the spec.
func (r *rules) add(s *specs.LinuxSyscall) error {
	ret, err := action(s.Action, s.ErrnoRet)
	if err != nil {
		return err
	}
	tests, err := split(s.Args, ret)
	if err != nil {
		return err
	}
	r.notifies = r.notifies || ret == retNotify
	v := r.simply(ret)
	if len(tests) > 0 {
		v = &verdict{r.def.ret, tests}
	}
	i := -1
	for _, name := range s.Names {
		if name == "" {
			return errors.New("names: an empty name")
		}
		if i = syscalls.FindAfter(i, name); i >= 0 {
			r.of[i] = r.combine(r.of[i], v, ret == r.def.ret)
		}
	}
	return nil
}

// combine adds verdict v of a rule to what is known of a call; redundant rules have the default action. The result
// shares nothing that will change.
func (r *rules) combine(old, v *verdict, redundant bool) *verdict {
	switch {
	case redundant && old == nil:
		return r.def // the call is one that the profile knows
	case redundant:
		return old
	case old == nil, old == r.def, len(old.tests) > 0 && len(v.tests) == 0:
		return v
	case len(old.tests) == 0:
		return old
	default:
		return &verdict{old.ret, slices.Concat(old.tests, v.tests)}
	}
}

// lets tells whether the native call is allowed whatever its arguments are.
func (r *rules) lets(name string) bool {
	v := r.of[syscalls.Find(name)]
	if v == nil {
		v = r.def
	}
	return len(v.tests) == 0 && (v.ret == retAllow || v.ret == retLog)
}

// split makes tests of a rule's conditions: one, or one each if two look at the same argument.
func split(args []specs.LinuxSeccompArg, ret uint32) ([]test, error) {
	if len(args) == 0 {
		return nil, nil
	}
	seen, twice := uint(0), false
	for i, a := range args {
		if a.Index > 5 {
			return nil, fmt.Errorf("args[%d]: index %d: a call has arguments 0 to 5", i, a.Index)
		}
		if !knownOperator(a.Op) {
			return nil, fmt.Errorf("args[%d]: operator %q: unknown", i, a.Op)
		}
		twice = twice || seen>>a.Index&1 == 1
		seen |= 1 << a.Index
	}
	if !twice {
		return []test{{args, ret}}, nil
	}
	out := make([]test, len(args))
	for i := range args {
		out[i] = test{args[i : i+1], ret}
	}
	return out, nil
}

func knownOperator(op specs.LinuxSeccompOperator) bool {
	switch op {
	case specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpEqualTo, specs.OpGreaterEqual,
		specs.OpGreaterThan, specs.OpMaskedEqual:
		return true
	default:
		return false
	}
}

// span is a run of numbers, from start to the next span, that are treated alike.
type span struct {
	start uint32
	v     *verdict
}

// spans covers all numbers of the architecture in column a.
func (r *rules) spans(column int, a syscalls.Arch) []span {
	var table [syscalls.Ordinary]*verdict // by number
	var own []span                        // private calls
	top := -1                             // the highest number that the profile knows
	for i, v := range r.of {
		nr := syscalls.Number(i, column)
		switch {
		case v == nil || nr < 0:
		case nr >= syscalls.Private:
			own = append(own, span{uint32(nr), v})
		default:
			table[nr] = v
			top = max(top, int(nr))
		}
	}
	out := appendSpan(make([]span, 0, 192), 0, r.def)
	for nr, v := range table[:top+1] {
		if v == nil {
			v = r.def
		}
		out = appendSpan(out, a.Base+uint32(nr), v)
	}
	beyond := r.beyond(top)
	out = appendSpan(out, a.Base+uint32(top+1), beyond)
	sort.Slice(own, func(i, j int) bool { return own[i].start < own[j].start })
	for _, s := range own {
		out = appendSpan(out, a.Base+s.start, s.v)
		out = appendSpan(out, a.Base+s.start+1, beyond)
	}
	return out
}

// beyond is the verdict on numbers above all that the profile knows.
func (r *rules) beyond(top int) *verdict {
	switch r.def.ret &^ 0xffff {
	case retAllow, retLog, retTrace:
		return r.def
	}
	if top < 0 {
		return r.def // it knows nothing of this architecture
	}
	return r.simply(retErrno | enosys)
}

// appendSpan begins a span at start, or goes on with the last one if it is treated alike.
func appendSpan(list []span, start uint32, v *verdict) []span {
	if n := len(list); n > 0 && list[n-1].start == start {
		list = list[:n-1]
	}
	if n := len(list); n > 0 && list[n-1].v == v {
		return list
	}
	return append(list, span{start, v})
}
