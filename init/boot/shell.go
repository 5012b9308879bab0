package boot

import (
	"fmt"
	"os"
	"syscall"
)

// Shell starts argv (argv[0] is a path) as the leader of a session of its own
// whose terminal is console, for instance /dev/console's real device /dev/ttyS0.
// Waiting for pid is the caller's.
func Shell(console string, argv, env []string) (pid int, err error) {
	tty, err := os.OpenFile(console, os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		return 0, err
	}
	defer tty.Close()
	pid, err = syscall.ForkExec(argv[0], argv, &syscall.ProcAttr{
		Dir: "/", Env: env, Files: []uintptr{tty.Fd(), tty.Fd(), tty.Fd()},
		Sys: &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0},
	})
	if err != nil {
		return 0, fmt.Errorf("start %s on %s: %w", argv[0], console, err)
	}
	return pid, nil
}
