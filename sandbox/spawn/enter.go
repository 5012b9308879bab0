package spawn

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/sandbox/plan"
)

// enterAll puts this thread into namespaces whose children are to be in them too: those of the plan, by path, and those that
// were made ahead. The returned function goes back; if it cannot, the thread stays locked and so dies with its goroutine.
func enterAll(joins []plan.Join, made []Namespace) (func(), error) {
	var w ways
	for _, j := range joins {
		back, err := enterOne(j)
		if err != nil {
			w.back()
			return nil, fmt.Errorf("enter namespace %s: %w", j.Path, err)
		}
		w = append(w, back)
	}
	for _, n := range made {
		back, err := enter(n)
		if err != nil {
			w.back()
			return nil, fmt.Errorf("enter new %s namespace: %w", kinds[n.flag], err)
		}
		w = append(w, back)
	}
	return w.back, nil
}

// ways lead back out of namespaces, the last first.
type ways []func()

func (w ways) back() {
	for i := len(w) - 1; i >= 0; i-- {
		w[i]()
	}
}

func enterOne(j plan.Join) (func(), error) {
	name := kinds[j.Flag]
	if name == "" {
		return nil, errors.New("a thread cannot enter one of this kind")
	}
	there, err := os.Open(j.Path)
	if err != nil {
		return nil, err
	}
	defer there.Close()
	return enter(Namespace{j.Flag, there})
}

// kinds are those of the namespaces that a thread can enter, as in /proc/thread-self/ns.
var kinds = map[uint64]string{
	unix.CLONE_NEWNET: "net", unix.CLONE_NEWIPC: "ipc", unix.CLONE_NEWUTS: "uts", unix.CLONE_NEWCGROUP: "cgroup",
}

func own(flag uint64) (*os.File, error) { return os.Open("/proc/thread-self/ns/" + kinds[flag]) }

// enter puts this thread into a namespace, and returns the way back, as enterAll does.
func enter(n Namespace) (func(), error) {
	own, err := own(n.flag)
	if err != nil {
		return nil, err
	}
	if err := unix.Setns(int(n.file.Fd()), int(n.flag)); err != nil {
		own.Close()
		return nil, err
	}
	return func() {
		defer own.Close()
		if unix.Setns(int(own.Fd()), int(n.flag)) != nil {
			runtime.LockOSThread()
		}
	}, nil
}

// Namespace is one that was made for a child which is still to come.
type Namespace struct {
	flag uint64 // CLONE_NEW…
	file *os.File
}

// CloseNamespaces lets go of them; their processes keep them.
func CloseNamespaces(all []Namespace) {
	for _, n := range all {
		n.file.Close()
	}
}

// NewNamespaces puts the calling thread, which must be locked, into new namespaces of the kinds in flags (CLONE_NEWNET,
// CLONE_NEWIPC), and returns them; the caller closes them. Back leads the thread out again. After an error, also of that,
// the thread must not run other goroutines.
func NewNamespaces(flags uint64) (made []Namespace, back func() error, err error) {
	var before []Namespace
	defer func() {
		if err != nil {
			CloseNamespaces(before)
			CloseNamespaces(made)
			made = nil
		}
	}()
	for _, flag := range []uint64{unix.CLONE_NEWNET, unix.CLONE_NEWIPC} {
		if flags&flag == 0 {
			continue
		}
		f, err := own(flag)
		if err != nil {
			return nil, nil, err
		}
		before = append(before, Namespace{flag, f})
	}
	if err := unix.Unshare(int(flags)); err != nil {
		return nil, nil, err
	}
	back = func() error {
		defer CloseNamespaces(before)
		for _, n := range before {
			if err := unix.Setns(int(n.file.Fd()), int(n.flag)); err != nil {
				return err
			}
		}
		return nil
	}
	for _, n := range before {
		f, err := own(n.flag)
		if err != nil {
			return made, nil, err
		}
		made = append(made, Namespace{n.flag, f})
	}
	return made, back, nil
}

// share makes the child borrow this process's memory or, if it is to be a copy, leave its report in a page that both
// have. The thread stands still until its execve either way.
func (m *machine) share(copied bool) (unmap func(), err error) {
	m.clone.flags |= unix.CLONE_VFORK
	if !copied {
		m.clone.flags |= unix.CLONE_VM
		return func() {}, nil
	}
	fd, err := unix.MemfdCreate("report", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make report: %w", err)
	}
	f := os.NewFile(uintptr(fd), "report")
	defer f.Close()
	if err := f.Truncate(int64(os.Getpagesize())); err != nil {
		return nil, fmt.Errorf("make report: %w", err)
	}
	return m.mapReport(f)
}

// RunToEnd runs a plan that executes nothing and ends in exit_group(2). The child is gone when it returns.
func RunToEnd(ctx context.Context, p *plan.Plan, o Options) error {
	if n := len(p.Calls); n == 0 || p.Calls[n-1].Name != "exit_group" {
		return errors.New("run plan to its end: it does not end in exit_group")
	}
	c, err := Run(ctx, p, o)
	var ended *KilledError
	if errors.As(err, &ended) && ended.Signal == 0 {
		return nil
	}
	if err == nil {
		c.kill()
		return errors.New("run plan to its end: the child lives on")
	}
	return err
}
