package spawn

import (
	"fmt"
	"maps"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// A child gets a copy of its parent's table of descriptors, and closes nearly all of it: with the descriptors of a
// thousand containers that is a good part of a start. If all that a child needs has low numbers, it can share the table
// instead (CLONE_FILES) and copy only its beginning: close_range(2) with CLOSE_RANGE_UNSHARE leaves out what it is to
// close. The low numbers have to be held from early on, before others take them.

const lowNumbers = 64 // held: enough for several starts at once

// low are the numbers that ReserveLow holds: a property of the process, like its table of descriptors.
var low struct {
	sync.Mutex
	null int   // what the free ones refer to
	free []int // guarded by the mutex
}

// ReserveLow holds the lowest free descriptors of this process for its children, so that starts stay cheap however many
// descriptors there will be. Call it early, and once. Without it everything works too.
func ReserveLow() error {
	low.Lock()
	defer low.Unlock()
	null, err := unix.Open("/dev/null", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("reserve low descriptors: %w", err)
	}
	low.null = null
	for range lowNumbers {
		n, err := unix.FcntlInt(uintptr(null), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			return fmt.Errorf("reserve low descriptors: %w", err)
		}
		low.free = append(low.free, n)
	}
	return nil
}

// lendLow puts copies with low numbers in the place of all descriptors in in, if there are enough. The returned function
// takes the numbers back; it is nil if nothing was lent.
func lendLow(in map[string]uintptr) (back func()) {
	lent := takeLow(len(in))
	if lent == nil {
		return nil
	}
	copies := make(map[string]uintptr, len(in))
	for name, fd := range in {
		n := lent[len(copies)]
		if unix.Dup3(int(fd), n, unix.O_CLOEXEC) != nil { // fd is not open: the plan's own call will say so
			giveLow(lent)
			return nil
		}
		copies[name] = uintptr(n)
	}
	maps.Copy(in, copies)
	return func() { giveLow(lent) }
}

// takeLow takes n of the free numbers, or none if there are fewer.
func takeLow(n int) []int {
	low.Lock()
	defer low.Unlock()
	rest := len(low.free) - n
	if rest < 0 {
		return nil
	}
	taken := slices.Clone(low.free[rest:])
	low.free = low.free[:rest]
	return taken
}

func giveLow(numbers []int) {
	for _, n := range numbers {
		_ = unix.Dup3(low.null, n, unix.O_CLOEXEC) // both are open, which is all that it needs
	}
	low.Lock()
	defer low.Unlock()
	low.free = append(low.free, numbers...)
}
