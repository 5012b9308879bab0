package sandbox

import (
	"runtime"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/sandbox/plan"
	"github.com/coble-os/coble/sandbox/spawn"
)

// ahead are a network and an IPC namespace that another thread makes, while this one compiles the plan and makes the cgroups:
// of all that is new in a container they take the kernel longest. For the superblock of a namespace's message queues, and for
// that of its sysfs, which that thread makes too, the kernel looks through those of all other namespaces (sget_fc): with a
// thousand containers that takes a third of a start. The child's own mount of sysfs finds it at once. If the thread is late
// the child does the work itself, and nothing but time is lost.
type ahead struct {
	made  chan []spawn.Namespace // once; none if the kernel refused, which the plan's own clone will explain
	sysfs chan int               // context (fsopen(2)) that keeps the superblock, once; -1 is none
}

// makeAhead starts with those that the plan will make. It returns nil if that are none, or if they belong to a user
// namespace, which this process cannot make them for.
func makeAhead(s *specs.Spec) *ahead {
	all := plan.NewNamespaces(s)
	flags := all & (unix.CLONE_NEWNET | unix.CLONE_NEWIPC)
	if flags == 0 || all&unix.CLONE_NEWUSER != 0 {
		return nil
	}
	a := &ahead{made: make(chan []spawn.Namespace, 1), sysfs: make(chan int, 1)}
	readOnly, mounted := sysfsMount(s.Mounts)
	go func() {
		runtime.LockOSThread()
		made, back, err := spawn.NewNamespaces(flags)
		a.made <- made
		context := -1
		if err == nil && mounted && flags&unix.CLONE_NEWNET != 0 {
			context = newSysfs(readOnly)
		}
		if err == nil && back() == nil {
			runtime.UnlockOSThread() // else the thread ends with its goroutine
		}
		a.sysfs <- context
	}()
	return a
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

// namespaces waits for them. The caller closes them.
func (a *ahead) namespaces() []spawn.Namespace {
	if a == nil {
		return nil
	}
	return <-a.made
}

// end lets go of the superblock, and of namespaces that nobody asked for.
func (a *ahead) end() {
	if a == nil {
		return
	}
	if context := <-a.sysfs; context >= 0 {
		unix.Close(context)
	}
	select {
	case made := <-a.made:
		spawn.CloseNamespaces(made)
	default:
	}
}
