package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/sandbox/compiler"
	"github.com/coble-os/coble/sandbox/spawn"
)

// Placeholder is a process that does nothing, for something that is not made without one, such as a unit of systemd. It
// ends with this process at the latest.
type Placeholder struct {
	Pid  int
	fd   int      // pidfd
	hold *os.File // it ends when this is closed
}

// NewPlaceholder makes one: a copy of this process that reads from a pipe whose end nobody writes to.
func NewPlaceholder() (*Placeholder, error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return nil, fmt.Errorf("make placeholder: %w", err)
	}
	child, hold := os.NewFile(uintptr(p[0]), "placeholder"), os.NewFile(uintptr(p[1]), "placeholder")
	defer child.Close()
	report, err := newMemFile("report")
	if err != nil {
		hold.Close()
		return nil, err
	}
	defer report.Close()
	if err = report.Truncate(int64(os.Getpagesize())); err == nil {
		var c spawn.Child
		c, err = spawn.Run(context.Background(), compiler.Placeholder(), spawn.Options{
			Inputs: map[string]uintptr{compiler.Gate: child.Fd()}, Report: report,
		})
		if err == nil {
			return &Placeholder{c.Pid, c.PidFD, hold}, nil
		}
	}
	hold.Close()
	return nil, fmt.Errorf("make placeholder: %w", err)
}

// End ends and reaps it.
func (p *Placeholder) End() error {
	err := unix.PidfdSendSignal(p.fd, unix.SIGKILL, nil, 0)
	if err == unix.ESRCH {
		err = nil
	}
	for {
		_, werr := unix.Wait4(p.Pid, nil, unix.WALL, nil)
		if werr != unix.EINTR {
			err = errors.Join(err, werr)
			break
		}
	}
	return errors.Join(err, unix.Close(p.fd), p.hold.Close())
}
