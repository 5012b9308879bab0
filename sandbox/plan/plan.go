// Package plan is what starts a container: a flat list of system calls, as data. It makes no list and runs none:
// sandbox/compiler turns an OCI runtime spec into a [Plan], and sandbox/spawn runs it. A plan prints one call a line
// ([Plan.String]), marshals to JSON, and compares.
//
// A plan is a straight line with three small extras. Results of calls go to slots, named in Plan.Slots, for later
// calls to use. A call may tolerate listed errors, and may skip the next few calls on success or on a tolerated
// error. A call may check what it was given back (a byte count, a field of a struct) and fails with ErrCheck if
// that is not what the plan wants. Slot 0 means "no slot". Slots named in Inputs get their value from whoever
// runs the plan (descriptors opened before). At a barrier the child waits while the parent does what Plan.Stops says.
// A plan may need another one, Plan.Prepare, to run before it and open sources for it.
package plan

import "syscall"

// Slot is the index in Plan.Slots of a result; 0 means none.
type Slot uint16

// Kind says how an Arg is turned into a machine word.
type Kind uint8

const (
	Int    Kind = iota // the number itself
	Str                // pointer to a NUL-terminated string
	Mem                // pointer to bytes, private to this call, with Fixes applied
	Vector             // pointer to a NULL-terminated vector of strings (argv, envp)
	Value              // what is in Slot
	FdPath             // pointer to "/proc/self/fd/N", N being what is in Slot
)

// Arg is one argument of a call.
type Arg struct {
	Kind  Kind
	Int   uintptr
	Slot  Slot
	Str   string
	Strs  []string
	Mem   []byte
	Fixes []Fix
	Text  string // how it is printed, if not plainly
	Bits  Bits   // names for its bits when it is printed
}

// Bits says which names the bits of an argument have.
type Bits uint8

// The sets of flags that plans use. OpenHow is a struct open_how in Mem.
const (
	NoBits Bits = iota
	CloneBits
	MountBits
	OpenBits
	AttrBits
	OpenHow
)

// Fix writes a word into an Arg's bytes before the call: a slot's value, or the address of other bytes.
type Fix struct {
	Off  int // offset in Mem, aligned to the machine's word
	Slot Slot
	Sub  *Arg // of Kind Mem; if set, its address is written rather than the slot
	// Narrow writes the slot's value in 4 bytes.
	Narrow bool
}

// Check compares 1, 2 or 4 bytes in a Mem argument with what they must be after the call.
type Check struct {
	Arg  int    // index in Call.Args
	Off  int    // offset in its bytes
	Size int    // 1, 2 or 4
	Mask uint32 // bits that count
	Want uint32
}

// Call is one system call.
type Call struct {
	Name   string // its kernel name, such as "openat2"
	Args   []Arg
	To     Slot            // where the result goes
	Ignore []syscall.Errno // errors to go on after
	SkipOK int             // calls to skip after success
	SkipOn int             // calls to skip after an ignored error
	Want   int             // exact result needed; Any for every result that is no error
	Checks []Check
	Doc    string // what it is for, as it reads in an error: "mount proc on /proc"
}

// Any is the Want of a call whose result does not matter.
const Any = -1

// Fork is the name of a call that makes a child of the child: it does the next SkipOK calls, which end in execve, and
// the child goes on behind them with its pidfd in the slot To. The two share memory until the execve.
const Fork = "fork"

// ErrCheck is the error number of a call that succeeded in the kernel with a result other than the plan wants.
// No system call returns it.
const ErrCheck = syscall.Errno(4000)

// Plan is the whole program of one child.
type Plan struct {
	CloneFlags uint64   // namespaces to make, besides CLONE_VM|CLONE_VFORK|CLONE_PIDFD, which spawn adds
	PidNS      string   // path of a PID namespace to start in, or ""
	Copy       bool     // the child has memory of its own: the kernel lets no other into a time namespace
	Enter      []Join   // namespaces that the thread which makes the child is in
	Slots      []string // names; Slots[0] is ""
	Inputs     []string // names of the slots that are given by the runner
	Calls      []Call
	ExecName   string // args[0], for errors of the final execve
	Lookup     bool   // ExecName was looked up in PATH
	Barriers   int    // how often the child stops to be released
	Gate       int    // number of the call in which it waits for the start of a container that was made before; or 0
	Stops      []Stop // what the parent does at each of them

	// Prepare, if not nil, runs before, in a child of its own that ends in exit_group. Through its input sources, a
	// socket, it sends a descriptor for each of the inputs named in its Sends.
	Prepare *Plan
	Sends   []string
	UserNS  []UserNS // inputs that are user namespaces
}

// Slot returns the slot with this name, or 0.
func (p *Plan) Slot(name string) Slot {
	for i, n := range p.Slots {
		if n == name && i > 0 {
			return Slot(i)
		}
	}
	return 0
}
