package daemon

import (
	"bufio"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// settleTime is how long after its start a process looks back at what it needed only for that.
	settleTime = 2 * time.Second
	// quietTime is how often it looks again.
	quietTime = 10 * time.Second
)

// giveBackWhenQuiet gives memory back soon after the start, and later whenever work was done since.
func giveBackWhenQuiet(worked func() uint64) {
	time.Sleep(settleTime)
	giveBack()
	for last := worked(); ; time.Sleep(quietTime) {
		if now := worked(); now != last {
			last = now
			giveBack()
		}
	}
}

// giveBack returns free heap to the kernel and lets go of the program's own pages: they are clean copies of the file,
// and those that are still used come back by themselves, 16 at a time. What only the start needed stays away.
func giveBack() {
	debug.FreeOSMemory()
	for _, m := range programPages() {
		// MADV_DONTNEED on a private mapping of a file unmaps clean pages; nothing is lost (madvise(2)).
		_, _, _ = syscall.Syscall(unix.SYS_MADVISE, m[0], m[1]-m[0], unix.MADV_DONTNEED)
	}
}

// programPages are the read-only mappings of the executable (proc_pid_maps(5)).
func programPages() (ranges [][2]uintptr) {
	exe, err := os.Readlink("/proc/self/exe")
	f, ferr := os.Open("/proc/self/maps")
	if err != nil || ferr != nil {
		return nil
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		var from, to uintptr
		var perms string
		if !strings.HasSuffix(s.Text(), exe) {
			continue
		}
		if _, err := fmt.Sscanf(s.Text(), "%x-%x %s", &from, &to, &perms); err == nil && perms[1] == '-' {
			ranges = append(ranges, [2]uintptr{from, to})
		}
	}
	return ranges
}
