package oci

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/sandbox"
)

// endLimit is how long the end of a killed container may take.
const endLimit = 10 * time.Second

func setupKill(a *app, f *pflag.FlagSet) func(context.Context, []string) error {
	all := f.BoolP("all", "a", false, "send it to all processes of the container")
	return func(_ context.Context, args []string) error {
		r, err := a.load(args[0])
		if err != nil {
			return err
		}
		name := "TERM"
		if len(args) > 1 {
			name = args[1]
		}
		sig, err := parseSignal(name)
		if err != nil {
			return err
		}
		if *all {
			return r.signalAll(sig)
		}
		return r.signal(sig)
	}
}

// parseSignal reads a number or a name with or without SIG.
func parseSignal(s string) (unix.Signal, error) {
	if n, err := strconv.Atoi(s); err == nil {
		if n < 0 || n > 64 {
			return 0, fmt.Errorf("unknown signal %q", s)
		}
		return unix.Signal(n), nil
	}
	name := strings.ToUpper(s)
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	if sig := unix.SignalNum(name); sig != 0 {
		return sig, nil
	}
	return 0, fmt.Errorf("unknown signal %q", s)
}

// signal goes to the first process. KILL ends a paused container and one whose processes nothing else would end.
func (r *record) signal(sig unix.Signal) error {
	p, err := sandbox.Adopt(r.Pid, r.StartTime)
	if err != nil || r.status() == specs.StateStopped {
		return errNotRunning
	}
	defer p.Close()
	if err := p.Signal(sig); errors.Is(err, sandbox.ErrGone) {
		return errNotRunning
	} else if err != nil {
		return err
	}
	if sig != unix.SIGKILL {
		return nil
	}
	if !ownPidNamespace(r.Spec) {
		return r.signalAll(sig)
	}
	return r.thaw()
}

// thaw lets a killed process of cgroup v1 die.
func (r *record) thaw() error {
	if !r.frozen() {
		return nil
	}
	g, err := r.group()
	if err != nil {
		return err
	}
	return g.Thaw()
}

// signalAll goes to all processes in the container's cgroup.
func (r *record) signalAll(sig unix.Signal) error {
	g, err := r.group()
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if sig == unix.SIGKILL {
		ctx, cancel := context.WithTimeout(context.Background(), endLimit)
		defer cancel()
		return g.Kill(ctx)
	}
	pids, err := g.Pids()
	if err != nil {
		return err
	}
	for _, pid := range pids {
		if err := signalPid(pid, sig); err != nil {
			return fmt.Errorf("signal process %d: %w", pid, err)
		}
	}
	return nil
}

func signalPid(pid int, sig unix.Signal) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err == nil {
		defer unix.Close(fd)
		err = unix.PidfdSendSignal(fd, sig, nil, 0)
	}
	if err == unix.ESRCH || err == unix.EINVAL {
		return nil // gone meanwhile
	}
	return err
}

func setupDelete(a *app, f *pflag.FlagSet) func(context.Context, []string) error {
	force := f.BoolP("force", "f", false, "kill it if it still runs")
	return func(ctx context.Context, args []string) error {
		err := a.remove(ctx, args[0], *force)
		if *force && errors.Is(err, errNotExist) {
			return nil
		}
		return err
	}
}

// remove deletes a container. One that was never started is killed; one that runs only with force.
func (a *app) remove(ctx context.Context, id string, force bool) error {
	r, err := a.load(id)
	if errors.Is(err, errNotExist) && force {
		return a.removeUnfinished(id)
	}
	if err != nil {
		return err
	}
	if err := a.endFor(ctx, r, force); err != nil {
		return err
	}
	unlock, err := a.lock(id)
	if err != nil {
		return err
	}
	defer unlock()
	if r, err = a.load(id); err != nil { // its creator may have gone on until we had the lock
		return err
	}
	if err := a.endFor(ctx, r, force); err != nil {
		return err
	}
	return a.destroy(r)
}

// endFor ends the first process for a removal, where that may.
func (a *app) endFor(ctx context.Context, r *record, force bool) error {
	switch s := r.status(); {
	case s == specs.StateStopped:
		return nil
	case !force && s != specs.StateCreated:
		return fmt.Errorf("cannot delete container %s that is not stopped: %s", r.ID, s)
	}
	return a.end(ctx, r)
}

// removeUnfinished removes the folder of a creator that was killed before it had a process.
func (a *app) removeUnfinished(id string) error {
	unlock, err := a.lock(id)
	if err != nil {
		return err
	}
	defer unlock()
	if r, err := a.load(id); err == nil {
		return fmt.Errorf("container %s was made meanwhile: %s", id, r.status())
	}
	return os.RemoveAll(a.dir(id))
}

// end kills the first process and waits for its end.
func (a *app) end(ctx context.Context, r *record) error {
	p, err := sandbox.Adopt(r.Pid, r.StartTime)
	if errors.Is(err, sandbox.ErrGone) {
		return nil
	}
	if err != nil {
		return err
	}
	defer p.Close()
	if err := r.signal(unix.SIGKILL); err != nil && !errors.Is(err, errNotRunning) {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, endLimit)
	defer cancel()
	if err := p.WaitEnd(ctx); err != nil {
		return fmt.Errorf("wait for the end of container %s: %w", r.ID, err)
	}
	return nil
}

// destroy removes what a container without a first process has left: processes, cgroup, unit, and at last its state.
// The lock is held. A destroyer that is killed can be followed by another; poststop hooks may then run twice.
func (a *app) destroy(r *record) error {
	g, err := r.group()
	if err == nil && g.Remove() != nil { // nearly always there is nobody left
		ctx, cancel := context.WithTimeout(context.Background(), endLimit)
		defer cancel()
		err = errors.Join(g.Kill(ctx), g.Remove())
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove container %s: %w", r.ID, err)
	}
	if err := stopUnit(r.Scope); err != nil {
		return fmt.Errorf("remove container %s: %w", r.ID, err)
	}
	if err := sandbox.UnmountRoot(r.Rootfs, r.RootMount); err != nil {
		return fmt.Errorf("remove container %s: %w", r.ID, err)
	}
	if rdt := r.Spec.Linux.IntelRdt; rdt != nil {
		if err := sandbox.RemoveResctrl(r.ID, rdt); err != nil {
			return fmt.Errorf("remove container %s: %w", r.ID, err)
		}
	}
	if h := r.Spec.Hooks; h != nil {
		s := r.state()
		s.Status, s.Pid = specs.StateStopped, 0
		for _, hook := range h.Poststop {
			if err := sandbox.RunHooks(context.Background(), "poststop", []specs.Hook{hook}, s); err != nil {
				a.log.warn("%v", err)
			}
		}
	}
	if err := os.RemoveAll(a.dir(r.ID)); err != nil {
		return fmt.Errorf("remove state of container %s: %w", r.ID, err)
	}
	return nil
}
