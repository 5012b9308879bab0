// Package procs lists processes as ps(1) does, for `top`: a machine that has no ps shows its containers' processes all
// the same. It reads a procfs and changes nothing.
package procs

import (
	"bytes"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"time"
)

// Process is what ps shows of one, as proc_pid_stat(5) and proc_pid_status(5) have it.
type Process struct {
	Pid, Parent, Group, Session int
	UID                         uint32 // effective
	Name                        string // at most 15 bytes
	Args                        []string
	State                       string // R, S, D, Z, T, …
	TTY                         int    // device number, 0: none
	CPU                         time.Duration
	Started                     time.Duration // since boot
	Threads, Nice, Priority     int
	Virtual, Resident           int64 // bytes
}

// tick is the unit of times in procfs: USER_HZ is 100 on all of coble's architectures.
const tick = 10 * time.Millisecond

// Read reads one process; an error is a process that is gone. pageSize is in bytes.
func Read(proc fs.FS, pid int, pageSize int64) (Process, error) {
	dir := strconv.Itoa(pid)
	stat, err := fs.ReadFile(proc, dir+"/stat")
	if err != nil {
		return Process{}, err
	}
	p, err := parseStat(stat, pageSize)
	if err != nil {
		return p, fmt.Errorf("read process %d: %w", pid, err)
	}
	if p.UID, err = readUID(proc, dir); err != nil {
		return p, err
	}
	line, err := fs.ReadFile(proc, dir+"/cmdline")
	for arg := range bytes.SplitSeq(bytes.TrimRight(line, "\x00"), []byte{0}) {
		if len(line) > 0 {
			p.Args = append(p.Args, string(arg))
		}
	}
	return p, err
}

// parseStat reads the fields behind the command's name, which is in brackets and may hold anything.
func parseStat(b []byte, pageSize int64) (p Process, err error) {
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 0 || end < open {
		return p, fmt.Errorf("parse stat %q: no command name", b)
	}
	f := strings.Fields(string(b[end+1:])) // f[0] is field 3
	if len(f) < 22 {
		return p, fmt.Errorf("parse stat %q: too few fields", b)
	}
	number := func(field int) int64 {
		n, nerr := strconv.ParseInt(f[field-3], 10, 64)
		if nerr != nil && err == nil {
			err = fmt.Errorf("parse stat, field %d: %w", field, nerr)
		}
		return n
	}
	pid, perr := strconv.Atoi(strings.TrimSpace(string(b[:open])))
	p = Process{
		Pid: pid, Name: string(b[open+1 : end]), State: f[0], Parent: int(number(4)), Group: int(number(5)), Session: int(number(6)), TTY: int(number(7)),
		CPU: time.Duration(number(14)+number(15)) * tick, Priority: int(number(18)), Nice: int(number(19)), Threads: int(number(20)),
		Started: time.Duration(number(22)) * tick, Virtual: number(23), Resident: number(24) * pageSize,
	}
	if perr != nil {
		err = perr
	}
	return p, err
}

// readUID reads the effective user id.
func readUID(proc fs.FS, dir string) (uint32, error) {
	b, err := fs.ReadFile(proc, dir+"/status")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 2 && f[0] == "Uid:" {
			n, err := strconv.ParseUint(f[2], 10, 32)
			return uint32(n), err
		}
	}
	return 0, fmt.Errorf("read %s/status: no user id", dir)
}
