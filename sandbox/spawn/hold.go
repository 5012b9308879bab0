package spawn

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// hold waits for the stop after execve of a traced child, calls f, and lets the child go. It must run on the thread
// that made the child.
func (c Child) hold(f func(pid int) error) error {
	var ws unix.WaitStatus
	for {
		_, err := unix.Wait4(c.Pid, &ws, unix.WALL, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			c.kill()
			return fmt.Errorf("wait for stop after execve: %w", err)
		}
		break
	}
	if !ws.Stopped() { // killed meanwhile, and reaped by the wait above
		unix.Close(c.PidFD)
		return &KilledError{Signal: ws.Signal(), Doc: "execve"}
	}
	if err := f(c.Pid); err != nil {
		c.kill()
		return err
	}
	if err := unix.PtraceDetach(c.Pid); err != nil {
		c.kill()
		return fmt.Errorf("let go of held child: %w", err)
	}
	return nil
}
