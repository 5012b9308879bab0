package oci

import (
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/sandbox"
)

// consoleSocket is where the master of a terminal is sent: a unix stream socket that the caller listens on.
type consoleSocket struct{ fd int }

func dialConsole(path string) (*consoleSocket, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make socket: %w", err)
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("connect to console socket %s: %w", path, err)
	}
	return &consoleSocket{fd}, nil
}

// send sends the master, with the slave's name as the message, and closes both.
func (c *consoleSocket) send(master *os.File) error {
	defer unix.Close(c.fd)
	defer master.Close()
	rc, err := master.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	err = rc.Control(func(fd uintptr) {
		var n int
		if n, serr = unix.IoctlGetInt(int(fd), unix.TIOCGPTN); serr != nil {
			return
		}
		// The receiver's file is this one: it does not expect it to be non-blocking.
		if serr = unix.SetNonblock(int(fd), false); serr != nil {
			return
		}
		serr = unix.Sendmsg(c.fd, []byte("/dev/pts/"+strconv.Itoa(n)), unix.UnixRights(int(fd)), nil, unix.MSG_NOSIGNAL)
	})
	if err == nil {
		err = serr
	}
	if err != nil {
		return fmt.Errorf("send terminal: %w", err)
	}
	return nil
}

// kill ends a process; one that has ended is none.
func kill(p *sandbox.Process) { _ = p.Signal(unix.SIGKILL) }
