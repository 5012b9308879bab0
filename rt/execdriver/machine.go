package execdriver

import (
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/rt/request"
	"github.com/coble-os/coble/sandbox/caps"
)

// Machine is what a request is checked against.
func Machine() request.Machine {
	m := request.Machine{CPUs: runtime.NumCPU()}
	if b, err := os.ReadFile("/sys/devices/system/cpu/online"); err == nil {
		m.OnlineCPUs = strings.TrimSpace(string(b))
	}
	if b, err := os.ReadFile("/sys/devices/system/node/online"); err == nil {
		m.OnlineMems = strings.TrimSpace(string(b))
	}
	return m
}

// availableCaps are this process's own: a root without one cannot give it away.
func availableCaps() caps.Set {
	set, err := caps.Permitted()
	if err != nil {
		return 0
	}
	return set
}

// Memory is the machine's, in bytes.
func Memory() int64 { return meminfo("MemTotal") }

// meminfo reads a line of /proc/meminfo, in bytes.
func meminfo(key string) int64 {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == key+":" {
			n, _ := strconv.ParseInt(f[1], 10, 64)
			return n * 1024
		}
	}
	return 0
}

// Uname returns the kernel's release and its name for the machine.
func Uname() (release, machine string) {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return "", ""
	}
	return unix.ByteSliceToString(u.Release[:]), unix.ByteSliceToString(u.Machine[:])
}
