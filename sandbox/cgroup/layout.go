package cgroup

import (
	"bufio"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Detect reads the layout of this mount namespace. A v2 hierarchy counts only if no v1 controller is mounted.
func Detect() (Layout, error) {
	m, err := mounted.get()
	switch {
	case err != nil:
		return Layout{}, err
	case len(m.v1) > 0:
		return Layout{Hierarchies: slices.Clone(m.v1)}, nil
	case m.v2 == "":
		return Layout{}, errors.New("no cgroup hierarchy is mounted: mount cgroup2 on /sys/fs/cgroup (CONFIG_CGROUPS)")
	}
	b, err := os.ReadFile(filepath.Join(m.v2, "cgroup.controllers"))
	if err != nil {
		return Layout{}, err
	}
	return Layout{true, []Hierarchy{{m.v2, strings.Fields(string(b))}}}, nil
}

// mounts are the mounted hierarchies.
type mounts struct {
	v1 []Hierarchy // with controllers, in the order of mountinfo
	v2 string      // the first mount point of v2, or ""
}

func readMounts() (mounts, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return mounts{}, err
	}
	defer f.Close()
	return findMounts(f)
}

// findMounts prefers mounts of whole hierarchies, as this process's cgroup namespace has them: those of a part are a
// container's. Only where there are no others, within a container, do they count.
func findMounts(mountinfo io.Reader) (mounts, error) {
	var whole, parts mounts
	sc := bufio.NewScanner(mountinfo)
	for sc.Scan() {
		if l, ok := mountLine(sc.Text()); ok && l.root == "/" {
			whole.add(l)
		} else if ok {
			parts.add(l)
		}
	}
	if len(whole.v1) == 0 && whole.v2 == "" {
		return parts, sc.Err()
	}
	return whole, sc.Err()
}

func (m *mounts) add(l cgroupMount) {
	switch {
	case l.fstype == "cgroup2" && m.v2 == "":
		m.v2 = l.at
	case l.fstype == "cgroup":
		if c := v1Controllers(l.super); len(c) > 0 && !listed(m.v1, c[0]) {
			m.v1 = append(m.v1, Hierarchy{l.at, c})
		}
	}
}

// mounted remembers the mounts for as long as nothing was mounted or unmounted in this process's namespace: every
// start and every end of a container asks, and reading mountinfo takes longer than all else of it.
var mounted mountCache

type mountCache struct {
	mu    sync.Mutex
	ready bool   // fd is open, and found is what was so then or later
	fd    int    // of /proc/self/mountinfo; not an os.File, whose poller would take the kernel's word in our place
	found mounts // never written to
}

// get looks again if the kernel says that the mounts have changed: poll(2) on an open mountinfo answers with an error
// once after each change (proc_pid_mountinfo(5)).
func (c *mountCache) get() (mounts, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.ready {
		fd, err := unix.Open("/proc/self/mountinfo", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return mounts{}, &os.PathError{Op: "open", Path: "/proc/self/mountinfo", Err: err}
		}
		c.fd = fd
	} else if !changed(c.fd) {
		return c.found, nil
	}
	found, err := readMounts()
	if c.ready = err == nil; !c.ready {
		unix.Close(c.fd) // the next call looks again, changed or not
	}
	c.found = found
	return found, err
}

// changed tells whether the mounts have changed since the file was opened, or since the last call.
func changed(fd int) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLPRI}}
	n, err := unix.Poll(fds, 0)
	return n != 0 || err != nil
}
