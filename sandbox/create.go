package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/sandbox/compiler"
	"github.com/coble-os/coble/sandbox/plan"
	"github.com/coble-os/coble/sandbox/spawn"
)

// Gate is where a container that is made now waits for a later start, perhaps by another process.
type Gate struct {
	// Dir is a folder for two files, exec.fifo and exec.report, which the caller removes with the container.
	Dir string
	// Ready runs when nothing but the start is left to do; the caller writes the state that others will read. An
	// error, or the end of this process before it returns, ends the child.
	Ready func(Waiting) error
}

// Waiting is what a starter must know: plain data, to be kept as JSON.
type Waiting struct {
	Pid       int          `json:"pid"`
	StartTime uint64       `json:"startTime"` // as in Process
	Gate      int          `json:"gate"`
	Steps     []spawn.Step `json:"steps"`
	ExecName  string       `json:"execName"`
	Lookup    bool         `json:"lookup"`
}

const (
	fifoName   = "exec.fifo"
	reportName = "exec.report"
)

// Create makes a container as Start does, but for its program, which StartCreated lets run. Its process is a copy of
// this one, which it outlives: it becomes the child of whoever reaps this process's orphans. It waits with the
// container's user and rights, in its root, and holds no memory or descriptor of this process that it could change.
//
// A creator that is killed leaves nothing running, unless g.Ready had returned: then the container is made. The
// program not being there is an error of Create, an *ExecError.
func Create(ctx context.Context, c Config, g Gate) (*Process, error) {
	c.gate = &g
	return Start(ctx, c)
}

// gateFiles makes the FIFO and the report, which stays open in r.
func (r *runner) gateFiles(dir string) error {
	fifo := filepath.Join(dir, fifoName)
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		return fmt.Errorf("make %s: %w", fifo, err)
	}
	fd, err := unix.Open(fifo, unix.O_RDWR|unix.O_CLOEXEC, 0) // not by os, which would make reads return at once
	if err != nil {
		return fmt.Errorf("open %s: %w", fifo, err)
	}
	r.keep(compiler.Gate, os.NewFile(uintptr(fd), fifo))
	f, err := os.OpenFile(filepath.Join(dir, reportName), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("make report: %w", err)
	}
	r.files, r.report = append(r.files, f), f
	if err := f.Truncate(int64(os.Getpagesize())); err != nil {
		return fmt.Errorf("make report: %w", err)
	}
	return nil
}

// waiting describes a child at its gate.
func waiting(p *plan.Plan, c spawn.Child) Waiting {
	return Waiting{
		Pid: c.Pid, StartTime: c.StartTime, Gate: p.Gate, Steps: spawn.Steps(p), ExecName: p.ExecName, Lookup: p.Lookup,
	}
}

// ErrStarted is a container that was started before.
var ErrStarted = errors.New("container was started already")

// StartCreated lets a container that waits in dir run, and returns when its program runs. An error of the program's
// execve, an *ExecError, or of a startContainer hook is its error, and the container is dead then. A starter that is
// killed leaves a container that waits or one that runs, nothing in between. Its poststart hooks are the caller's.
func StartCreated(ctx context.Context, dir string, w Waiting) error {
	fd, err := unix.Open(filepath.Join(dir, fifoName), unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err == unix.ENOENT {
		return ErrStarted
	}
	if err == unix.ENXIO { // nobody has it open for reading: released before, or dead
		return errors.Join(w.failure(dir), ErrStarted)
	}
	if err != nil {
		return fmt.Errorf("open gate: %w", err)
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, []byte{1}); err != nil && err != unix.EPIPE {
		return fmt.Errorf("open gate: %w", err)
	}
	if err := waitNoReader(ctx, fd); err != nil {
		return fmt.Errorf("wait for the start: %w", err)
	}
	if err := w.failure(dir); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(dir, fifoName)); err != nil {
		return fmt.Errorf("remove gate: %w", err)
	}
	return nil
}

// waitNoReader waits until nobody has the other end of a FIFO open any more (POLLERR, poll(2)), or ctx ends.
func waitNoReader(ctx context.Context, fd int) error {
	for {
		p := []unix.PollFd{{Fd: int32(fd)}}
		n, err := unix.Poll(p, int(time.Second/time.Millisecond))
		switch {
		case err != nil && err != unix.EINTR:
			return err
		case n > 0 && p[0].Revents&unix.POLLERR != 0:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		}
	}
}

// failure reads what went wrong from the report.
func (w *Waiting) failure(dir string) error {
	f, err := os.Open(filepath.Join(dir, reportName))
	if err != nil {
		return fmt.Errorf("open report: %w", err)
	}
	defer f.Close()
	return execError(w.ExecName, w.Lookup, spawn.ReadReport(f, w.Gate, w.Steps))
}

// Status is what the kernel says of a container's first process.
func Status(pid int, startTime uint64) specs.ContainerState {
	st, err := spawn.ReadStat(pid)
	switch {
	case err != nil || st.StartTime != startTime || st.Ended():
		return specs.StateStopped
	case st.Forked():
		return specs.StateCreated
	default:
		return specs.StateRunning
	}
}
