package spawn

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// pfForkNoExec is PF_FORKNOEXEC of include/linux/sched.h: forked, and no execve since.
const pfForkNoExec = 0x40

// Stat is a part of /proc/PID/stat (proc_pid_stat(5)).
type Stat struct {
	State     byte   // field 3: R, S, D, Z, T, …
	Flags     uint64 // field 9, PF_ bits
	Threads   uint64 // field 20; 0 or 1 where only the first is left
	StartTime uint64 // field 22, clock ticks since boot
}

// Ended tells whether nothing of the process runs any more: one whose first thread has ended looks like a zombie while
// others run.
func (s Stat) Ended() bool { return (s.State == 'Z' || s.State == 'X') && s.Threads <= 1 }

// Forked tells whether the process has not passed an execve since its birth.
func (s Stat) Forked() bool { return s.Flags&pfForkNoExec != 0 }

// ReadStat reads /proc/pid/stat, also of a zombie.
func ReadStat(pid int) (Stat, error) {
	path := "/proc/" + strconv.Itoa(pid) + "/stat"
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return Stat{}, fmt.Errorf("open %s: %w", path, err)
	}
	defer unix.Close(fd)
	buf := make([]byte, 1024)
	n, err := unix.Read(fd, buf)
	if err != nil {
		return Stat{}, fmt.Errorf("read %s: %w", path, err)
	}
	return parseStat(buf[:n])
}

// parseStat parses the text of a stat file. The command's name, between brackets, may hold anything.
func parseStat(b []byte) (Stat, error) {
	end := bytes.LastIndexByte(b, ')')
	if end < 0 {
		return Stat{}, fmt.Errorf("parse stat %q: no command name", b)
	}
	f := strings.Fields(string(b[end+1:])) // f[0] is field 3
	if len(f) < 20 || len(f[0]) != 1 {
		return Stat{}, fmt.Errorf("parse stat %q: too few fields", b)
	}
	flags, err := strconv.ParseUint(f[6], 10, 64)
	if err != nil {
		return Stat{}, fmt.Errorf("parse stat flags: %w", err)
	}
	threads, err := strconv.ParseUint(f[17], 10, 64)
	if err != nil {
		return Stat{}, fmt.Errorf("parse stat threads: %w", err)
	}
	start, err := strconv.ParseUint(f[19], 10, 64)
	if err != nil {
		return Stat{}, fmt.Errorf("parse stat start time: %w", err)
	}
	return Stat{State: f[0][0], Flags: flags, Threads: threads, StartTime: start}, nil
}
