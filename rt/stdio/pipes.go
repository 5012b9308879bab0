package stdio

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Ends of a pipe.
const (
	ReadEnd  = 0
	WriteEnd = 1
)

// Pipe makes a pipe whose engine's end does not block, so that waiting for it costs no thread. The other end blocks, as
// programs expect of their standard streams.
func Pipe(engineEnd int) (r, w *os.File, err error) {
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

// Resize gives a terminal another size.
func Resize(tty *os.File, rows, cols int) error {
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

// AfterGrace ends reading from files that are still open when the grace time is over. Stop it when they have ended.
func AfterGrace(files []*os.File) *time.Timer {
	return time.AfterFunc(grace, func() {
		for _, f := range files {
			if f != nil {
				f.SetReadDeadline(time.Unix(1, 0))
			}
		}
	})
}

// grace bounds the wait for output after a container's end: a process that left its pid namespace's end behind, such
// as one with the host's, may hold the pipe for ever.
const grace = 2 * time.Second

// CloseAll closes those that are not nil.
func CloseAll(files [3]*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}
