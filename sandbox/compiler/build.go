package compiler

import (
	"encoding/binary"
	"fmt"
	"path"
	"strings"
	"syscall"
	"unsafe"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/sandbox/plan"
)

// builder collects calls. Its methods return the call just added, for its conditions to be set; the pointer is
// valid until the next call is added.
type builder struct {
	p    *plan.Plan
	doc  string
	dirs int // alternates the slots of makeDirs

	opened []string // inputs or slots that hold sources opened early
	// For the end of the plan:
	spec    *specs.Spec
	gated   bool // it waits there
	keep    int  // so many descriptors above 2 stay open
	keyring bool // it keeps its parent's
}

func newBuilder() *builder {
	return &builder{p: &plan.Plan{Slots: []string{""}, Calls: make([]plan.Call, 0, 512)}}
}

// about sets what the calls that follow are for.
func (b *builder) about(format string, a ...any) { b.doc = fmt.Sprintf(format, a...) }

func (b *builder) call(name string, args ...plan.Arg) *call {
	b.p.Calls = append(b.p.Calls, plan.Call{Name: name, Args: args, Want: plan.Any, Doc: b.doc})
	return (*call)(&b.p.Calls[len(b.p.Calls)-1])
}

func (b *builder) slot(name string) plan.Slot {
	if s := b.p.Slot(name); s != 0 {
		return s
	}
	b.p.Slots = append(b.p.Slots, name)
	return plan.Slot(len(b.p.Slots) - 1)
}

func (b *builder) input(name string) plan.Slot {
	if b.p.Slot(name) == 0 {
		b.p.Inputs = append(b.p.Inputs, name)
	}
	return b.slot(name)
}

// call is a call that was just added.
type call plan.Call

func (c *call) to(s plan.Slot) *call { c.To = s; return c }

func (c *call) ignore(e ...syscall.Errno) *call { c.Ignore = append(c.Ignore, e...); return c }

func (c *call) want(n int) *call { c.Want = n; return c }

func (c *call) check(k ...plan.Check) *call { c.Checks = append(c.Checks, k...); return c }

// field is the check of bytes of argument arg.
func field(arg, off, size int, mask, want uint32) plan.Check {
	return plan.Check{Arg: arg, Off: off, Size: size, Mask: mask, Want: want}
}

// skipOn makes call number at skip the calls from the next one to the end of the plan so far, on an ignored error.
func (b *builder) skipOn(at int) { b.p.Calls[at].SkipOn = len(b.p.Calls) - at - 1 }

// skipOK is skipOn for success.
func (b *builder) skipOK(at int) { b.p.Calls[at].SkipOK = len(b.p.Calls) - at - 1 }

// next is the number that the next call will have.
func (b *builder) next() int { return len(b.p.Calls) }

func num(v int) plan.Arg { return plan.Arg{Kind: plan.Int, Int: uintptr(v)} }

func named(v uint64, text string) plan.Arg {
	return plan.Arg{Kind: plan.Int, Int: uintptr(v), Text: text}
}

func flags(v uint64, names plan.Bits) plan.Arg {
	return plan.Arg{Kind: plan.Int, Int: uintptr(v), Bits: names}
}

func octal(v uint32) plan.Arg { return named(uint64(v), fmt.Sprintf("%#o", v)) }

func str(s string) plan.Arg { return plan.Arg{Kind: plan.Str, Str: s} }

func null() plan.Arg { return plan.Arg{Kind: plan.Int, Text: "NULL"} }

func cwd() plan.Arg {
	at := unix.AT_FDCWD
	return plan.Arg{Kind: plan.Int, Int: uintptr(at), Text: "AT_FDCWD"}
}

func value(s plan.Slot) plan.Arg { return plan.Arg{Kind: plan.Value, Slot: s} }

func fdPath(s plan.Slot) plan.Arg { return plan.Arg{Kind: plan.FdPath, Slot: s} }

func mem(b []byte, text string) plan.Arg { return plan.Arg{Kind: plan.Mem, Mem: b, Text: text} }

func strs(s []string) plan.Arg { return plan.Arg{Kind: plan.Vector, Strs: s} }

func u64(v ...uint64) []byte {
	var b []byte
	for _, x := range v {
		b = binary.NativeEndian.AppendUint64(b, x)
	}
	return b
}

func u32(v ...uint32) []byte {
	var b []byte
	for _, x := range v {
		b = binary.NativeEndian.AppendUint32(b, x)
	}
	return b
}

func (b *builder) close(s plan.Slot) { b.call("close", value(s)) }

// inRoot are the flags with which everything in a container's root is opened.
const inRoot = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS

// openat2 opens a path relative to the descriptor in dir.
func (b *builder) openat2(dir plan.Slot, name string, oflags, resolve, mode uint64) *call {
	how := plan.Arg{Kind: plan.Mem, Mem: u64(oflags, mode, resolve), Bits: plan.OpenHow}
	return b.call("openat2", value(dir), str(name), how, num(unix.SizeofOpenHow))
}

// relative cleans a path of the container and makes it relative to the root: never empty, without "..".
func relative(p string) string {
	if r := strings.TrimPrefix(path.Clean("/"+p), "/"); r != "" {
		return r
	}
	return "."
}

// makeDirs makes the folders of rel below the descriptor root that are missing, each by a descriptor of its parent,
// and leaves a descriptor of the last one in the returned slot. extra is added to the RESOLVE flags.
func (b *builder) makeDirs(root plan.Slot, rel string, extra uint64) plan.Slot {
	parent := root
	parts := strings.Split(rel, "/")
	for i, name := range parts {
		b.call("mkdirat", value(parent), str(name), octal(0o755)).ignore(unix.EEXIST)
		b.dirs++
		s := b.slot([2]string{"dir", "subdir"}[b.dirs%2])
		b.openat2(root, path.Join(parts[:i+1]...), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, inRoot|extra, 0).to(s)
		if parent != root {
			b.close(parent)
		}
		parent = s
	}
	return parent
}

// folder opens the folder at p in the root, making it if it is missing, and leaves it in the slot.
func (b *builder) folder(root plan.Slot, p string, s plan.Slot, extra uint64) {
	rel := relative(p)
	const oflags = unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC
	at := b.next()
	b.openat2(root, rel, oflags, inRoot|extra, 0).to(s).ignore(unix.ENOENT)
	if rel == "." {
		return
	}
	b.close(b.makeDirs(root, rel, extra))
	b.openat2(root, rel, oflags, inRoot|extra, 0).to(s)
	b.skipOK(at)
}

// file is folder for a file to mount something on.
func (b *builder) file(root plan.Slot, p string, s plan.Slot, extra uint64) {
	rel := relative(p)
	const oflags = unix.O_PATH | unix.O_CLOEXEC
	at := b.next()
	b.openat2(root, rel, oflags, inRoot|extra, 0).to(s).ignore(unix.ENOENT)
	parent := root
	if d := path.Dir(rel); d != "." {
		parent = b.makeDirs(root, d, extra)
	}
	if parent != root {
		b.close(parent)
	}
	made := b.slot("made") // by its path from the root, since the last part may be a link to what is not there yet
	b.openat2(root, rel, unix.O_WRONLY|unix.O_CREAT|unix.O_CLOEXEC|unix.O_NOCTTY, inRoot|extra, 0o644).to(made)
	b.close(made)
	b.openat2(root, rel, oflags, inRoot|extra, 0).to(s)
	b.skipOK(at)
}

// mount is mount(2) on a target given as an argument.
func (b *builder) mount(source string, target plan.Arg, fstype string, mflags uint64, data string) *call {
	d := null()
	if data != "" {
		d = str(data)
	}
	return b.call("mount", str(source), target, str(fstype), flags(mflags, plan.MountBits), d)
}

// wordSize is the size in bytes of a pointer.
const wordSize = int(unsafe.Sizeof(uintptr(0)))
