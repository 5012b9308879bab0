package sandbox

import (
	"runtime"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/sandbox/spawn"
	"github.com/coble-os/coble/sandbox/spec"
)

// Ahead are a network and an IPC namespace that another thread makes while this one does the rest of what comes before a
// container's process. Of all that is new in a container they take the kernel longest: for the superblock of a namespace's
// message queues, and for that of its sysfs, which that thread makes too, the kernel looks through those of all other
// namespaces (sget_fc), under a lock that each mount needs; with a thousand containers that takes a third of a start. The
// child's own mount of sysfs finds it at once. If the thread is late the child does the work itself, and nothing but time is
// lost.
type Ahead struct {
	kind  aheadKind
	made  chan []spawn.Namespace // once; none if the kernel refused, which the plan's own clone will explain
	sysfs chan int               // context (fsopen(2)) that keeps the superblock, once; -1 is none
}

// aheadKind is which namespaces are made, and how sysfs is mounted in them.
type aheadKind struct {
	flags             uint64 // CLONE_NEWNET, CLONE_NEWIPC
	mounted, readOnly bool   // sysfs
}

// MakeAhead begins with the namespaces that a container will get, of whose spec it needs the namespaces and the mount of sysfs
// alone. The caller ends them, after Start has returned or instead of it. It returns nil, which ends as well, if there are none
// to make, or if they belong to a user namespace, which this process cannot make them for.
func MakeAhead(s *specs.Spec) *Ahead {
	k := newAheadKind(s)
	if k.flags == 0 {
		return nil
	}
	a := &Ahead{kind: k, made: make(chan []spawn.Namespace, 1), sysfs: make(chan int, 1)}
	go a.make()
	return a
}

// newAheadKind is pure.
func newAheadKind(s *specs.Spec) (k aheadKind) {
	if s.Linux == nil {
		return k
	}
	all := spec.NewNamespaces(s)
	if all&unix.CLONE_NEWUSER != 0 {
		return k
	}
	k.flags = all & (unix.CLONE_NEWNET | unix.CLONE_NEWIPC)
	k.readOnly, k.mounted = sysfsMount(s.Mounts)
	return k
}

func (a *Ahead) make() {
	runtime.LockOSThread()
	made, back, err := spawn.NewNamespaces(a.kind.flags)
	a.made <- made
	close(a.made)
	context := -1
	if err == nil && a.kind.mounted && a.kind.flags&unix.CLONE_NEWNET != 0 {
		context = newSysfs(a.kind.readOnly)
	}
	if err == nil && back() == nil {
		runtime.UnlockOSThread() // else the thread ends with its goroutine
	}
	a.sysfs <- context
}

// sysfsMount finds a mount of sysfs whose superblock is an ordinary one, or a read-only one: who mounts first decides.
func sysfsMount(mounts []specs.Mount) (readOnly, ok bool) {
	i := slices.IndexFunc(mounts, func(m specs.Mount) bool { return m.Type == "sysfs" })
	if i < 0 {
		return false, false
	}
	for _, o := range mounts[i].Options {
		switch o {
		case "sync", "dirsync", "mand", "lazytime":
			return false, false
		case "ro", "rw":
			readOnly = o == "ro"
		}
	}
	return readOnly, true
}

// newSysfs makes the superblock of the sysfs of this thread's network namespace. It returns a context that keeps it,
// or -1.
func newSysfs(readOnly bool) int {
	context, err := unix.Fsopen("sysfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1
	}
	if readOnly {
		err = unix.FsconfigSetFlag(context, "ro")
	}
	if err == nil {
		err = unix.FsconfigCreate(context)
	}
	if err != nil {
		unix.Close(context)
		return -1
	}
	return context
}

// namespaces waits for them, and returns them once. The caller closes them.
func (a *Ahead) namespaces() []spawn.Namespace {
	if a == nil {
		return nil
	}
	return <-a.made
}

// End lets go of the superblock, and of namespaces that nobody took. It is called once.
func (a *Ahead) End() {
	if a == nil {
		return
	}
	if context := <-a.sysfs; context >= 0 {
		unix.Close(context)
	}
	spawn.CloseNamespaces(<-a.made)
}
