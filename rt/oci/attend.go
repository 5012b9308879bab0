package oci

import (
	"errors"
	"io"
	"os"
	"os/signal"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/coble-os/coble/sandbox"
)

// forwarder collects the signals that this process gets, for the program that it stands for.
type forwarder struct{ c chan os.Signal }

// forward catches what terminals, shells and service managers send.
func forward() *forwarder {
	f := &forwarder{make(chan os.Signal, 64)}
	signal.Notify(f.c, unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2, unix.SIGWINCH)
	return f
}

// settled is how old a program is when the rarer signals are caught for it too: the Go runtime takes a change of
// threads for each, together as long as half a start.
const settled = 20 * time.Millisecond

// all catches the other signals that can be caught, but those that are about this process: its children, its pipes, its
// faults and its runtime's own.
func (f *forwarder) all() {
	for n := unix.Signal(1); n < 65; n++ {
		switch n {
		case unix.SIGCHLD, unix.SIGPIPE, unix.SIGURG, unix.SIGKILL, unix.SIGSTOP, unix.SIGSEGV, unix.SIGBUS, unix.SIGFPE,
			unix.SIGILL, unix.SIGTTIN, unix.SIGTTOU:
		default:
			signal.Notify(f.c, n)
		}
	}
}

// deliver passes signals on until done is closed. A change of the window's size goes to the terminal.
func (f *forwarder) deliver(p *sandbox.Process, done chan struct{}) {
	late := time.NewTimer(settled)
	defer late.Stop()
	for {
		select {
		case <-done:
			return
		case <-late.C:
			f.all()
		case s := <-f.c:
			if s == unix.SIGWINCH && p.Console != nil {
				resize(p.Console)
				continue
			}
			_ = p.Signal(s.(unix.Signal)) // it fails only for one that has ended
		}
	}
}

// attend stands in for a program: it relays its terminal, passes signals on, waits for its end, and returns its status.
func (a *app) attend(p *sandbox.Process, signals *forwarder, spec *specs.Spec) (int, error) {
	done := make(chan struct{})
	defer close(done)
	go signals.deliver(p, done)
	copied := make(chan struct{})
	if p.Console != nil {
		restore := a.relay(p.Console, copied)
		defer restore()
	}
	exit, err := p.Reap()
	if err != nil {
		return 0, err
	}
	if p.Console != nil {
		drain(p.Console, copied, spec)
	}
	return exit.Status(), p.Close()
}

// relay connects a terminal with this process's own, which is put into raw mode. The returned function undoes that.
func (a *app) relay(master *os.File, copied chan struct{}) (restore func()) {
	restore = func() {}
	fd := int(a.in.Fd())
	if term.IsTerminal(fd) {
		resize(master)
		if old, err := term.MakeRaw(fd); err == nil {
			restore = func() { _ = term.Restore(fd, old) } // it worked a moment ago
		}
	}
	go func() { _, _ = io.Copy(master, a.in) }() // ends with this process
	go func() {
		defer close(copied)
		_, _ = io.Copy(a.out, master) // ends with EIO when the last slave is closed
	}()
	return restore
}

// drain waits for the rest of a terminal's output. With a PID namespace of its own nobody is left to hold the slave.
func drain(master *os.File, copied chan struct{}, spec *specs.Spec) {
	if !ownPidNamespace(spec) {
		if err := master.SetReadDeadline(time.Now().Add(time.Second)); errors.Is(err, os.ErrNoDeadline) {
			return
		}
	}
	<-copied
}

// ownSize gives a terminal to be, of which nothing is said, the size of this process's.
func ownSize(p *specs.Process) {
	if !p.Terminal || p.ConsoleSize != nil {
		return
	}
	if ws, err := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ); err == nil {
		p.ConsoleSize = &specs.Box{Height: uint(ws.Row), Width: uint(ws.Col)}
	}
}

// resize gives a terminal the size of this process's.
func resize(master *os.File) {
	ws, err := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ)
	if err != nil {
		return // it is no terminal
	}
	rc, err := master.SyscallConn()
	if err != nil {
		return
	}
	_ = rc.Control(func(fd uintptr) { _ = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, ws) }) // the slave may be gone
}

func ownPidNamespace(spec *specs.Spec) bool {
	for _, n := range spec.Linux.Namespaces {
		if n.Type == specs.PIDNamespace {
			return n.Path == ""
		}
	}
	return false
}
