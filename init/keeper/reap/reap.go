// Package reap collects ended children together with their start times, which is
// what makes a pid mean one process for ever. It is a part of the keeper that has
// a folder of its own to be read by itself. A process that uses it must not wait
// for children in any other way.
package reap

import (
	"bytes"
	"os"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Exit is one reaped child.
type Exit struct {
	PID    int
	Start  uint64 // field 22 of proc_pid_stat(5), clock ticks after boot; 0: unknown
	Status uint32 // as in wait(2)
}

// One reaps one ended child of this process, if there is one, without waiting. The start time is read while
// the child is still a zombie: afterwards its pid may be somebody else's. For the same reason last, if not nil,
// is called with the child's pid before it is reaped.
func One(last func(pid int)) (Exit, bool) {
	var info [128]byte // siginfo_t
	for {
		err := waitid((*unix.Siginfo)(unsafe.Pointer(&info)))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return Exit{}, false
		}
		break
	}
	e := Exit{PID: siginfoPid(&info)}
	if e.PID == 0 {
		return Exit{}, false
	}
	stat, _ := os.ReadFile("/proc/" + strconv.Itoa(e.PID) + "/stat")
	e.Start = StartTime(stat)
	if last != nil {
		last(e.PID)
	}
	var status unix.WaitStatus
	for {
		_, err := unix.Wait4(e.PID, &status, 0, nil)
		if err == unix.EINTR {
			continue
		}
		e.Status = uint32(status)
		return e, err == nil
	}
}

func waitid(info *unix.Siginfo) error {
	return unix.Waitid(unix.P_ALL, 0, info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
}

// siginfoPid reads si_pid, the first field of the union that follows three ints
// (sigaction(2)); the union is aligned like a pointer.
func siginfoPid(info *[128]byte) int {
	const word = unsafe.Sizeof(uintptr(0))
	offset := (12 + word - 1) / word * word
	return int(*(*int32)(unsafe.Pointer(&info[offset])))
}

// StartTime is field 22 of proc_pid_stat(5), 0 when stat is not one. The name in
// field 2 may hold anything, so counting begins after the last parenthesis.
func StartTime(stat []byte) uint64 {
	end := bytes.LastIndexByte(stat, ')')
	if end < 0 {
		return 0
	}
	fields := bytes.Fields(stat[end+1:])
	if len(fields) < 20 {
		return 0
	}
	n, err := strconv.ParseUint(string(fields[19]), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// HasChildren tells whether this process has any, ended or not.
func HasChildren() bool {
	var info unix.Siginfo
	for {
		err := waitid(&info)
		if err != unix.EINTR {
			return err == nil
		}
	}
}
