package engine

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/rt/fault"
	"github.com/coble-os/coble/rt/job"
)

// stdio is the container's side of its standard streams, until the child has them.
type stdio struct{ child [3]*os.File }

func (s *stdio) closeChildEnds() {
	for _, f := range s.child {
		if f != nil {
			f.Close()
		}
	}
}

// openStdio makes the pipes, hands copies of the engine's ends to the keeper and starts the pumps. A terminal has none:
// its master comes out of the sandbox.
func (c *ctr) openStdio(u *undo) (*stdio, error) {
	l, err := c.logOf()
	if err != nil {
		return nil, err
	}
	run := c.View().State.Run
	std := &stdio{}
	if c.Spec().Config.Tty {
		return std, l.Begin(run, 1)
	}
	if err := l.Begin(run, 1, 2); err != nil {
		return nil, err
	}
	for _, n := range []byte{1, 2} {
		r, w, err := pipe(readEnd)
		if err != nil {
			return nil, err
		}
		std.child[n] = w
		name := c.fdName(fmt.Sprint(n))
		if err := c.e.keeper.Store(name, r); err != nil {
			return nil, err
		}
		l.Pump(n, r)
	}
	if !c.Spec().Config.OpenStdin {
		return std, nil
	}
	r, w, err := pipe(writeEnd)
	if err != nil {
		return nil, err
	}
	std.child[0] = r
	c.mu.Lock()
	c.stdin = w
	c.mu.Unlock()
	u.add(c.closeStdin)
	return std, c.e.keeper.Store(c.fdName("0"), w)
}

const (
	readEnd  = 0
	writeEnd = 1
)

// pipe makes a pipe whose engine's end does not block, so that waiting for it costs no thread. The other end blocks, as
// programs expect of their standard streams.
func pipe(engineEnd int) (r, w *os.File, err error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, fmt.Errorf("make pipe: %w", err)
	}
	if err := unix.SetNonblock(p[engineEnd], true); err != nil {
		unix.Close(p[0])
		unix.Close(p[1])
		return nil, nil, fmt.Errorf("make pipe: %w", err)
	}
	return os.NewFile(uintptr(p[0]), "pipe"), os.NewFile(uintptr(p[1]), "pipe"), nil
}

// takeConsole keeps a terminal's master: one handle to write and resize, one for the pump, one at the keeper.
func (c *ctr) takeConsole(master *os.File) {
	c.mu.Lock()
	c.console = master
	l := c.log
	c.mu.Unlock()
	if err := c.e.keeper.Store(c.fdName("tty"), master); err != nil {
		c.e.log.Error("store terminal", "container", c.Spec().Name, "err", err)
	}
	if dup, err := dupFile(master); err == nil {
		l.Pump(1, dup)
	}
	if s := c.Spec().Host.ConsoleSize; s[0] > 0 && s[1] > 0 {
		resize(master, int(s[0]), int(s[1]))
	}
}

// dupFile copies a descriptor; both copies wait through the runtime's poller.
func dupFile(f *os.File) (*os.File, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd := -1
	cerr := raw.Control(func(old uintptr) {
		fd, err = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 3)
		if err == nil {
			err = unix.SetNonblock(fd, true)
		}
	})
	if cerr != nil {
		err = cerr
	}
	if err != nil {
		return nil, fmt.Errorf("copy descriptor: %w", err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

func resize(tty *os.File, rows, cols int) error {
	raw, err := tty.SyscallConn()
	if err != nil {
		return err
	}
	cerr := raw.Control(func(fd uintptr) {
		err = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: uint16(rows), Col: uint16(cols)})
	})
	if cerr != nil {
		return cerr
	}
	return err
}

// ResizeIn asks for another terminal size.
type ResizeIn struct {
	Ref        string
	Rows, Cols int
}

func (e *Engine) resize(j *job.Job, in ResizeIn) (any, error) {
	c, err := e.find(in.Ref)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	tty := c.console
	c.mu.Unlock()
	if tty == nil {
		return nil, fault.New(fault.Conflict, "container %s is not running, or has no terminal", in.Ref)
	}
	return nil, resize(tty, in.Rows, in.Cols)
}

// closeStdin ends the container's input. The keeper's copy goes first, or the container would never see the end.
func (c *ctr) closeStdin() {
	c.mu.Lock()
	f := c.stdin
	c.stdin = nil
	c.mu.Unlock()
	if f != nil {
		c.e.keeper.Drop(c.fdName("0"))
		f.Close()
	}
}

// closeHandles lets go of a run's descriptors. Called with mu held.
func (c *ctr) closeHandles() {
	for _, what := range []string{"0", "1", "2", "tty"} {
		c.e.keeper.Drop(c.fdName(what))
	}
	if c.stdin != nil {
		c.stdin.Close()
		c.stdin = nil
	}
	if c.console != nil {
		c.console.Close()
		c.console = nil
	}
}

// endLog waits until everything that the container printed is in its log.
func (c *ctr) endLog() {
	c.mu.Lock()
	l := c.log
	c.mu.Unlock()
	if l != nil {
		l.End(logGrace)
	}
}

// afterGrace ends reading from files that are still open when the grace time is over. Stop it when they have ended.
func afterGrace(files []*os.File) *time.Timer {
	return time.AfterFunc(logGrace, func() {
		for _, f := range files {
			if f != nil {
				f.SetReadDeadline(past)
			}
		}
	})
}

// logGrace bounds the wait for output after a container's end: a process that left its pid namespace's end behind, such
// as one with the host's, may hold the pipe for ever.
const logGrace = 2 * time.Second
