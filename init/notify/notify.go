// Package notify is the engine's side of the keeper's protocol (package keeper
// documents it): it takes over the descriptors that the keeper hands out, sends
// datagrams in the manner of sd_notify(3), and reads exits. It decides nothing.
// A Link is all of that for an engine that may also have no keeper.
package notify

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// File is one descriptor from the keeper, close-on-exec, owned by the caller.
type File struct {
	Name string
	FD   int
}

// Conn talks to a keeper. Its methods may be called by any goroutine.
type Conn struct {
	addr string
	sock int
	Exit *ExitReader // nil under systemd, which has no exits to report
}

// ErrNoKeeper means that the process was not started by a keeper.
var ErrNoKeeper = errors.New("not started by a keeper")

// Open takes over what the keeper put into environment and descriptors, and
// removes the variables so that children don't. It may be called once.
func Open() (*Conn, []File, error) {
	env := map[string]string{}
	for _, key := range []string{"NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PPID"} {
		env[key] = os.Getenv(key)
		os.Unsetenv(key)
	}
	if env["NOTIFY_SOCKET"] == "" || env["LISTEN_PPID"] != strconv.Itoa(os.Getppid()) {
		return nil, nil, ErrNoKeeper
	}
	n, err := strconv.Atoi(env["LISTEN_FDS"])
	names := strings.Split(env["LISTEN_FDNAMES"], ":")
	if err != nil || n != len(names) {
		return nil, nil, fmt.Errorf("keeper gave %q descriptors and %d names", env["LISTEN_FDS"], len(names))
	}
	c := &Conn{addr: env["NOTIFY_SOCKET"]}
	var files []File
	for i, name := range names {
		fd := 3 + i
		unix.CloseOnExec(fd)
		if name == "keeper" {
			c.Exit = &ExitReader{fd: fd}
			continue
		}
		if fd < lowest { // low numbers are for what is short-lived: see spawn.ReserveLow
			if fd, err = moveUp(fd); err != nil {
				return nil, nil, err
			}
		}
		files = append(files, File{name, fd})
	}
	c.sock, err = unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make notify socket: %w", err)
	}
	return c, files, nil
}

const lowest = 128 // number of a descriptor that was stored

func moveUp(fd int) (int, error) {
	to, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, lowest)
	if err != nil {
		return 0, fmt.Errorf("move descriptor %d of the keeper: %w", fd, err)
	}
	unix.Close(fd)
	return to, nil
}

// Send sends KEY=value lines and returns when the keeper's queue has them.
func (c *Conn) Send(lines ...string) error { return c.send(lines, nil) }

func (c *Conn) send(lines []string, fds []int) error {
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	for {
		err := unix.Sendmsg(c.sock, []byte(strings.Join(lines, "\n")), oob, &unix.SockaddrUnix{Name: c.addr}, unix.MSG_NOSIGNAL)
		if err == nil {
			return nil
		}
		if err != unix.EINTR {
			return fmt.Errorf("tell the keeper at %s: %w", c.addr, err)
		}
	}
}

// Store gives copies of up to 253 descriptors to the keeper under one name (printable
// ASCII without colon, at most 255 bytes; short is good). The caller keeps its own.
func (c *Conn) Store(name string, fds ...int) error {
	return c.send([]string{"FDSTORE=1", "FDNAME=" + name}, fds)
}

// Remove has the keeper close all descriptors stored as name.
func (c *Conn) Remove(name string) error {
	return c.Send("FDSTOREREMOVE=1", "FDNAME="+name)
}

// Forget has the keeper drop an exit.
func (c *Conn) Forget(pid int, start uint64) error {
	return c.Send(fmt.Sprintf("FORGET=%d %d", pid, start))
}

// Barrier returns once the keeper has handled all that was sent before.
func (c *Conn) Barrier(limit time.Duration) error {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return fmt.Errorf("make barrier pipe: %w", err)
	}
	defer unix.Close(p[0])
	err := c.send([]string{"BARRIER=1"}, p[1:])
	unix.Close(p[1])
	if err != nil {
		return err
	}
	end := time.Now().Add(limit)
	for {
		set := []unix.PollFd{{Fd: int32(p[0])}}
		n, err := unix.Poll(set, int(max(time.Until(end).Milliseconds(), 0)))
		if err != nil && err != unix.EINTR {
			return fmt.Errorf("wait for the keeper: %w", err)
		}
		if n > 0 {
			return nil
		}
		if !time.Now().Before(end) {
			return fmt.Errorf("the keeper did not answer within %v", limit)
		}
	}
}

// ExitReader reads the exits of adopted children. One goroutine may use it.
type ExitReader struct {
	fd  int
	buf [128]byte
}

// Exit is one exit that the keeper saw, or, when Ready, the mark after the last
// one that happened before this engine started.
type Exit struct {
	Ready  bool
	PID    int
	Start  uint64          // field 22 of proc_pid_stat(5), clock ticks; 0: unknown
	Status unix.WaitStatus // as in wait(2)
}

// Next waits for the next exit. An error means that the keeper is gone.
func (r *ExitReader) Next() (Exit, error) {
	for {
		n, err := unix.Read(r.fd, r.buf[:])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return Exit{}, fmt.Errorf("read exit: %w", err)
		}
		if n == 0 {
			return Exit{}, errors.New("read exit: the keeper is gone")
		}
		return parse(string(r.buf[:n]))
	}
}

func parse(s string) (Exit, error) {
	if s == "READY\n" {
		return Exit{Ready: true}, nil
	}
	var e Exit
	var status uint32
	if _, err := fmt.Sscanf(s, "EXIT %d %d %d\n", &e.PID, &e.Start, &status); err != nil {
		return Exit{}, fmt.Errorf("parse exit %q: %w", s, err)
	}
	e.Status = unix.WaitStatus(status)
	return e, nil
}
