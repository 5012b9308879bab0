package compiler

import (
	"errors"
	"path"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/sandbox/plan"
)

// Gate is the name of the input that a container which is made now and started later waits at: a FIFO, open for
// reading and writing, so that the child never sees its end. One byte lets the child go on.
const Gate = "gate"

// gate makes sure that the program is there, lets the creator commit, and waits for the start. The descriptor stays
// open until the execve closes it: that is how the starter sees that it is over.
func (b *builder) gate(p *specs.Process) error {
	if !b.gated {
		return nil
	}
	if b.p.Barriers == 0 {
		return errors.New("a gate needs a barrier")
	}
	b.lookUp(p)
	sync, fifo := b.input("sync"), b.input(Gate)
	b.about("wait for the creator")
	b.release(sync)
	b.close(sync)
	b.about("wait for the start")
	b.p.Gate = b.next()
	b.call("read", value(fifo), mem(make([]byte, 8), "<byte>"), num(1)).want(1)
	b.about("keep the gate open until the execve")
	b.call("dup3", value(fifo), num(3+b.keep), named(unix.O_CLOEXEC, "O_CLOEXEC")).ignore(unix.EINVAL) // it is there already
	b.keep++
	return nil
}

// release is a stop at a barrier.
func (b *builder) release(sync plan.Slot) {
	b.call("write", value(sync), str("r"), num(1)).want(1)
	b.call("read", value(sync), mem(make([]byte, 8), "<byte>"), num(1)).want(1).check(field(1, 0, 1, 0xff, 1))
	b.p.Barriers++
}

// lookUp asks whether the program may be executed, so that one that is not there is an error of the create. A filter
// that forbids to ask is none: the execve will tell.
func (b *builder) lookUp(p *specs.Process) {
	b.about("exec %q", p.Args[0])
	list := candidates(p)
	var at []int
	for i, file := range list {
		if i > 0 {
			at = append(at, b.next()-1)
		}
		c := b.call("faccessat", cwd(), str(file), named(unix.X_OK, "X_OK"))
		if i < len(list)-1 {
			c.ignore(unix.ENOENT, unix.ENOTDIR, unix.EACCES)
		} else {
			c.ignore(unix.ENOSYS, unix.EPERM)
		}
	}
	for _, i := range at {
		b.skipOK(i)
	}
}

// candidates are the files that may be the program, in the order in which they are tried.
func candidates(p *specs.Process) []string {
	name := p.Args[0]
	if strings.Contains(name, "/") {
		return []string{name}
	}
	var out []string
	for _, dir := range strings.Split(searchPath(p.Env), ":") {
		out = append(out, path.Join(path.Clean("/"+dir), name))
	}
	return out
}

// Placeholder is the plan of a child that waits at its Gate until that is closed, and ends.
func Placeholder() *plan.Plan {
	b := newBuilder()
	b.about("wait for the end")
	sync := b.input("sync")
	b.call("close", value(b.input("sync.parent")))
	b.release(sync)
	b.close(sync)
	b.p.Gate = b.next()
	b.call("read", value(b.input(Gate)), mem(make([]byte, 8), "<byte>"), num(1))
	return b.p
}
