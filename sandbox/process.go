package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/sandbox/spawn"
)

// ErrGone is a process that does not exist any more: dead and reaped, or its pid is now another's.
var ErrGone = errors.New("process is gone")

// Process is a started or adopted process. Its methods may be called from several goroutines.
type Process struct {
	Pid       int
	PidFD     *os.File // the caller closes it when done with the process (Close)
	StartTime uint64   // field 22 of /proc/PID/stat, in clock ticks since boot
	Console   *os.File // master of the terminal, or nil; the caller's to close
}

// Exit is how a process ended.
type Exit struct {
	Code   int         // exit status, if Signal is 0
	Signal unix.Signal // that killed it, or 0
	Core   bool        // it dumped core
}

// Status is the exit status as a shell, and Docker, report it: 128 and the signal if there was one.
func (e Exit) Status() int {
	if e.Signal != 0 {
		return 128 + int(e.Signal)
	}
	return e.Code
}

// Adopt takes over a process known by its pid and start time. It opens the pidfd first and compares then, so that a
// reused pid is noticed. A process that is dead but not reaped counts as there. WaitNoReap and Reap work only if it is
// a child of this process.
func Adopt(pid int, startTime uint64) (*Process, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err == unix.ESRCH || err == unix.EINVAL {
		return nil, fmt.Errorf("adopt process %d: %w", pid, ErrGone)
	}
	if err != nil {
		return nil, fmt.Errorf("adopt process %d: %w", pid, err)
	}
	st, err := spawn.ReadStat(pid)
	if err != nil || st.StartTime != startTime {
		unix.Close(fd)
		return nil, fmt.Errorf("adopt process %d: %w", pid, ErrGone)
	}
	return newProcess(pid, fd, startTime)
}

// newProcess makes a Process that the runtime's poller can wait for. It owns fd.
func newProcess(pid, fd int, startTime uint64) (*Process, error) {
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("prepare pidfd: %w", err)
	}
	return &Process{Pid: pid, PidFD: os.NewFile(uintptr(fd), "pidfd"), StartTime: startTime}, nil
}

// Signal sends a signal through the pidfd. A process that has ended gives an error wrapping ErrGone.
func (p *Process) Signal(sig unix.Signal) error {
	err := p.control(func(fd int) error { return unix.PidfdSendSignal(fd, sig, nil, 0) })
	if err == unix.ESRCH {
		return fmt.Errorf("signal process %d: %w", p.Pid, ErrGone)
	}
	if err != nil {
		return fmt.Errorf("signal process %d with %s: %w", p.Pid, unix.SignalName(sig), err)
	}
	return nil
}

// control runs f with the descriptor, which cannot be closed meanwhile, and does not change its mode.
func (p *Process) control(f func(fd int) error) error {
	rc, err := p.PidFD.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := rc.Control(func(fd uintptr) { inner = f(int(fd)) }); err != nil {
		return err
	}
	return inner
}

// WaitNoReap waits until the process ends and leaves it a zombie, so that an engine which dies now loses nothing.
// It holds no thread. Only the parent can: for others it is an error wrapping ErrGone.
func (p *Process) WaitNoReap() (Exit, error) { return p.wait(unix.WEXITED | unix.WNOWAIT) }

// Reap waits for the end too, and lets the kernel forget the process.
func (p *Process) Reap() (Exit, error) { return p.wait(unix.WEXITED) }

// WaitEnd waits until the process has ended, be it a child of this process or not, or ctx ends. It holds no thread.
func (p *Process) WaitEnd(ctx context.Context) error {
	fd := -1
	err := p.control(func(pidfd int) error {
		var err error
		fd, err = unix.FcntlInt(uintptr(pidfd), unix.F_DUPFD_CLOEXEC, 3)
		return err
	})
	if err != nil {
		return fmt.Errorf("wait for process %d: %w", p.Pid, err)
	}
	f := os.NewFile(uintptr(fd), "pidfd") // of its own, for a deadline that others do not meet
	defer f.Close()
	stop := context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Unix(1, 0)) }) // fails only for a closed file
	defer stop()
	rc, err := f.SyscallConn()
	if err != nil {
		return err
	}
	err = rc.Read(func(fd uintptr) bool {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return err == nil && n > 0
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// siginfoChild is siginfo_t of a SIGCHLD (sigaction(2)) on the architectures of coble.
type siginfoChild struct {
	signo, a, b int32 // errno and code; on MIPS code and errno
	_           [unsafe.Sizeof(uintptr(0)) - 4]byte
	pid, uid    int32
	status      int32
	_           [128]byte
}

// wait tries whenever the pidfd becomes readable, which is when the process ends.
func (p *Process) wait(options int) (Exit, error) {
	rc, err := p.PidFD.SyscallConn()
	if err != nil {
		return Exit{}, err
	}
	var info siginfoChild
	var waitErr error
	err = rc.Read(func(fd uintptr) bool {
		info = siginfoChild{}
		waitErr = unix.Waitid(unix.P_PIDFD, int(fd), (*unix.Siginfo)(unsafe.Pointer(&info)), options|unix.WNOHANG, nil)
		return waitErr != unix.EINTR && (waitErr != nil || info.signo != 0)
	})
	if err == nil {
		err = waitErr
	}
	if err == unix.ECHILD {
		err = ErrGone
	}
	if err != nil {
		return Exit{}, fmt.Errorf("wait for process %d: %w", p.Pid, err)
	}
	return info.exit(), nil
}

func (s *siginfoChild) exit() Exit {
	code := s.b
	if mips {
		code = s.a
	}
	const exited, dumped = 1, 3 // CLD_EXITED, CLD_DUMPED
	if code == exited {
		return Exit{Code: int(s.status)}
	}
	return Exit{Signal: unix.Signal(s.status), Core: code == dumped}
}

// Close closes the pidfd, and the console if there is one. The process runs on.
func (p *Process) Close() error {
	var err error
	if p.Console != nil {
		err = p.Console.Close()
	}
	return errors.Join(p.PidFD.Close(), err)
}

// destroy kills, reaps and closes.
func (p *Process) destroy() error {
	err := p.Signal(unix.SIGKILL)
	if errors.Is(err, ErrGone) {
		err = nil
	}
	_, werr := p.Reap()
	return errors.Join(err, werr, p.Close())
}
