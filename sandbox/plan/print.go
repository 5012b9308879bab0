package plan

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// String prints the plan, one call a line. The format is for people and goldens; it may grow.
func (p *Plan) String() string {
	var b strings.Builder
	if p.Prepare != nil {
		b.WriteString(p.Prepare.String())
	}
	fmt.Fprintf(&b, "clone3(%s)\n", cloneText(p))
	stops := 0
	for i := range p.Calls {
		b.WriteString(p.Format(&p.Calls[i]))
		b.WriteByte('\n')
		if p.isStop(i) && stops < len(p.Stops) {
			fmt.Fprintf(&b, "# parent: %s\n", p.Stops[stops].String())
			stops++
		}
	}
	return b.String()
}

// isStop tells whether call i tells the parent that the child has stopped.
func (p *Plan) isStop(i int) bool {
	c := &p.Calls[i]
	return c.Name == "write" && c.Args[0].Kind == Value && p.Slots[c.Args[0].Slot] == "sync"
}

// Format prints one call of the plan without a line end.
func (p *Plan) Format(c *Call) string {
	var b strings.Builder
	if c.To != 0 {
		fmt.Fprintf(&b, "$%s = ", p.Slots[c.To])
	}
	b.WriteString(c.Name)
	b.WriteByte('(')
	for i := range c.Args {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(p.arg(&c.Args[i]))
	}
	b.WriteByte(')')
	p.conditions(&b, c)
	return b.String()
}

func (p *Plan) conditions(b *strings.Builder, c *Call) {
	if c.Want != Any {
		fmt.Fprintf(b, " want %d", c.Want)
	}
	for _, k := range c.Checks {
		fmt.Fprintf(b, " check [%d]&%#x==%#x", k.Off, k.Mask, k.Want)
	}
	if c.SkipOK > 0 {
		fmt.Fprintf(b, " ok: skip %d", c.SkipOK)
	}
	if len(c.Ignore) == 0 {
		return
	}
	names := make([]string, len(c.Ignore))
	for i, e := range c.Ignore {
		names[i] = unix.ErrnoName(e)
	}
	if c.SkipOn > 0 {
		fmt.Fprintf(b, " %s: skip %d", strings.Join(names, "|"), c.SkipOn)
		return
	}
	fmt.Fprintf(b, " %s: go on", strings.Join(names, "|"))
}

func (p *Plan) arg(a *Arg) string {
	if a.Text != "" {
		return a.Text
	}
	if a.Bits == OpenHow {
		return openHow(a.Mem)
	}
	if a.Bits != NoBits {
		return a.Bits.Text(uint64(a.Int))
	}
	switch a.Kind {
	case Str:
		return strconv.Quote(a.Str)
	case Vector:
		q := make([]string, len(a.Strs))
		for i, s := range a.Strs {
			q[i] = strconv.Quote(s)
		}
		return "[" + strings.Join(q, " ") + "]"
	case Value:
		return "$" + p.Slots[a.Slot]
	case FdPath:
		return `"/proc/self/fd/$` + p.Slots[a.Slot] + `"`
	case Mem:
		return fmt.Sprintf("<%d bytes>", len(a.Mem))
	default:
		return strconv.FormatInt(int64(int(a.Int)), 10)
	}
}

// openHow prints a struct open_how {flags, mode, resolve}.
func openHow(b []byte) string {
	word := func(i int) uint64 { return binary.NativeEndian.Uint64(b[8*i:]) }
	s := "{" + OpenBits.Text(word(0))
	if word(1) != 0 {
		s += fmt.Sprintf(", %#o", word(1))
	}
	return s + ", " + bitNames(word(2), resolveNames()) + "}"
}

func cloneText(p *Plan) string {
	s := "CLONE_VM|CLONE_VFORK|CLONE_PIDFD"
	if p.Copy {
		s = "CLONE_VFORK|CLONE_PIDFD"
	}
	if p.CloneFlags != 0 {
		s += "|" + CloneBits.Text(p.CloneFlags)
	}
	if p.PidNS != "" {
		s += ", pid namespace " + p.PidNS
	}
	for _, j := range p.Enter {
		s += ", " + CloneBits.Text(j.Flag) + " " + j.Path
	}
	return s
}

type jsonCall struct {
	Call   string   `json:"call"`
	Args   []string `json:"args"`
	Result string   `json:"result,omitempty"`
	Ignore []string `json:"ignore,omitempty"`
	SkipOK int      `json:"skipOnSuccess,omitempty"`
	SkipOn int      `json:"skipOnIgnored,omitempty"`
	Doc    string   `json:"for"`
}

// MarshalJSON writes the plan with its arguments as they are printed; it is for reading, not for running.
func (p *Plan) MarshalJSON() ([]byte, error) {
	out := struct {
		Prepare *Plan      `json:"prepare,omitempty"`
		Clone   string     `json:"clone"`
		Inputs  []string   `json:"inputs"`
		Stops   []string   `json:"stops,omitempty"`
		Calls   []jsonCall `json:"calls"`
	}{Prepare: p.Prepare, Clone: cloneText(p), Inputs: p.Inputs}
	for i := range p.Stops {
		out.Stops = append(out.Stops, p.Stops[i].String())
	}
	for i := range p.Calls {
		c := &p.Calls[i]
		j := jsonCall{Call: c.Name, SkipOK: c.SkipOK, SkipOn: c.SkipOn, Doc: c.Doc, Args: []string{}}
		for k := range c.Args {
			j.Args = append(j.Args, p.arg(&c.Args[k]))
		}
		if c.To != 0 {
			j.Result = p.Slots[c.To]
		}
		for _, e := range c.Ignore {
			j.Ignore = append(j.Ignore, unix.ErrnoName(e))
		}
		out.Calls = append(out.Calls, j)
	}
	return json.Marshal(out)
}
