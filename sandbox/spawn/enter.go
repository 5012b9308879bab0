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

// enterAll puts this thread into namespaces whose children are to be in them too. The returned function goes back; if
// it cannot, the thread stays locked and so dies with its goroutine.
func enterAll(joins []plan.Join) (func(), error) {
	var undo []func()
	back := func() {
		for i := len(undo) - 1; i >= 0; i-- {
			undo[i]()
		}
	}
	for _, j := range joins {
		f, err := enterOne(j)
		if err != nil {
			back()
			return nil, fmt.Errorf("enter namespace %s: %w", j.Path, err)
		}
		undo = append(undo, f)
	}
	return back, nil
}

func enterOne(j plan.Join) (func(), error) {
	name := map[uint64]string{
		unix.CLONE_NEWNET: "net", unix.CLONE_NEWIPC: "ipc", unix.CLONE_NEWUTS: "uts", unix.CLONE_NEWCGROUP: "cgroup",
	}[j.Flag]
	if name == "" {
		return nil, errors.New("a thread cannot enter one of this kind")
	}
	there, err := os.Open(j.Path)
	if err != nil {
		return nil, err
	}
	defer there.Close()
	own, err := os.Open("/proc/thread-self/ns/" + name)
	if err != nil {
		return nil, err
	}
	if err := unix.Setns(int(there.Fd()), int(j.Flag)); err != nil {
		own.Close()
		return nil, err
	}
	return func() {
		defer own.Close()
		if unix.Setns(int(own.Fd()), int(j.Flag)) != nil {
			runtime.LockOSThread()
		}
	}, nil
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
