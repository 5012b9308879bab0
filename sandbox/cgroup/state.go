package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Stats are the figures of a group; what the machine does not count is 0.
type Stats struct {
	MemoryUsage uint64 // bytes, page cache included
	MemoryCache uint64 // bytes of inactive page cache, which docker stats leaves out
	MemoryLimit uint64 // bytes; 0 if there is none
	MemoryPeak  uint64 // bytes
	OOMKills    uint64
	CPUUsage    time.Duration // user and system together
	CPUUser     time.Duration
	CPUSystem   time.Duration
	Throttled   time.Duration // time that a quota took away
	Pids        uint64
	PidsLimit   uint64  // 0 if there is none
	Blocks      []Block // disks that it read from or wrote to
}

// Stats reads the figures. Files that do not exist count as 0.
func (g *Group) Stats() (Stats, error) {
	r := reader{g: g}
	var s Stats
	if g.layout.Unified {
		r.unified(&s)
	} else {
		r.legacy(&s)
	}
	s.Pids = r.number("pids", "pids.current")
	s.PidsLimit = r.number("pids", "pids.max")
	s.OOMKills = r.oomKills()
	s.Blocks = r.blocks()
	return s, r.err
}

// OOMKills returns how many processes of the group the kernel has killed for lack of memory.
func (g *Group) OOMKills() (uint64, error) {
	r := reader{g: g}
	return r.oomKills(), r.err
}

// LimitHits returns how often the group ran into its memory limit, whether or not something could be reclaimed.
func (g *Group) LimitHits() (uint64, error) {
	r := reader{g: g}
	if g.layout.Unified {
		return r.field("memory", "memory.events", "max"), r.err
	}
	return r.number("memory", "memory.failcnt"), r.err
}

// reader collects figures, and keeps the first error that is not a missing file or controller.
type reader struct {
	g   *Group
	err error
}

func (r *reader) text(controller, name string) string {
	path, err := r.g.file(controller, name)
	if err != nil {
		return ""
	}
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && r.err == nil {
		r.err = err
	}
	return strings.TrimSpace(string(b))
}

// number reads a file that holds one number; "max" and no file are 0.
func (r *reader) number(controller, name string) uint64 { return parse(r.text(controller, name)) }

func parse(s string) uint64 {
	v, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0
	}
	return v
}

// field reads one line "key number" out of a file.
func (r *reader) field(controller, name, key string) uint64 {
	for line := range strings.Lines(r.text(controller, name)) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), " "); ok && k == key {
			return parse(v)
		}
	}
	return 0
}

func (r *reader) oomKills() uint64 {
	if r.g.layout.Unified {
		return r.field("memory", "memory.events", "oom_kill")
	}
	return r.field("memory", "memory.oom_control", "oom_kill")
}

func (r *reader) unified(s *Stats) {
	s.MemoryUsage = r.number("memory", "memory.current")
	s.MemoryLimit = r.number("memory", "memory.max")
	s.MemoryPeak = r.number("memory", "memory.peak") // Linux 5.19
	s.MemoryCache = r.field("memory", "memory.stat", "inactive_file")
	us := func(key string) time.Duration {
		return time.Duration(r.field("cpu", "cpu.stat", key)) * time.Microsecond
	}
	s.CPUUsage, s.CPUUser, s.CPUSystem = us("usage_usec"), us("user_usec"), us("system_usec")
	s.Throttled = us("throttled_usec")
}

func (r *reader) legacy(s *Stats) {
	s.MemoryUsage = r.number("memory", "memory.usage_in_bytes")
	s.MemoryPeak = r.number("memory", "memory.max_usage_in_bytes")
	s.MemoryCache = r.field("memory", "memory.stat", "total_inactive_file")
	if v := r.number("memory", "memory.limit_in_bytes"); v < 1<<62 {
		s.MemoryLimit = v // without a limit it is the highest multiple of a page
	}
	s.CPUUsage = time.Duration(r.number("cpuacct", "cpuacct.usage"))
	const tick = 10 * time.Millisecond // USER_HZ is 100 on all of coble's architectures
	s.CPUUser = time.Duration(r.field("cpuacct", "cpuacct.stat", "user")) * tick
	s.CPUSystem = time.Duration(r.field("cpuacct", "cpuacct.stat", "system")) * tick
	s.Throttled = time.Duration(r.field("cpu", "cpu.stat", "throttled_time"))
}

// Pids lists the processes in the group and in groups below it, in this PID namespace. The order is the kernel's.
func (g *Group) Pids() ([]int, error) {
	var out []int
	for _, d := range g.Dirs() {
		err := filepath.WalkDir(d, func(path string, e fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // gone while we looked
			}
			if err != nil || !e.IsDir() {
				return err
			}
			pids, err := readPids(filepath.Join(path, "cgroup.procs"))
			for _, p := range pids {
				if !slices.Contains(out, p) {
					out = append(out, p)
				}
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Children lists the names of the groups directly below path, in any hierarchy, sorted: what an engine that starts
// compares with its records. A path that does not exist has none.
func Children(path string) ([]string, error) {
	l, err := Detect()
	if err != nil {
		return nil, err
	}
	var out []string
	for _, h := range l.Hierarchies {
		entries, err := os.ReadDir(filepath.Join(h.Mount, path))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for _, e := range entries {
			if e.IsDir() && !slices.Contains(out, e.Name()) {
				out = append(out, e.Name())
			}
		}
	}
	slices.Sort(out)
	return out, nil
}

func readPids(path string) ([]int, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []int
	for f := range strings.FieldsSeq(string(b)) {
		if p, err := strconv.Atoi(f); err == nil && p > 0 {
			out = append(out, p)
		}
	}
	return out, nil
}

// Freeze stops all processes of the group and returns when they stand still, or when ctx ends (then they run again).
func (g *Group) Freeze(ctx context.Context) error {
	if err := g.setFrozen(true); err != nil {
		return err
	}
	for wait := 50 * time.Microsecond; ; wait = min(2*wait, time.Millisecond) {
		done, err := g.frozen()
		if done {
			return nil
		}
		if err == nil {
			select {
			case <-ctx.Done():
				err = ctx.Err()
			case <-time.After(wait):
				continue
			}
		}
		return errors.Join(fmt.Errorf("freeze cgroup %s: %w", g.Path, err), g.Thaw())
	}
}

// Thaw lets the processes run on.
func (g *Group) Thaw() error { return g.setFrozen(false) }

// Frozen tells whether the group stands still.
func (g *Group) Frozen() (bool, error) { return g.frozen() }

func (g *Group) setFrozen(on bool) error {
	if g.layout.Unified {
		return g.write("", "cgroup.freeze", map[bool]string{true: "1", false: "0"}[on])
	}
	return g.write("freezer", "freezer.state", map[bool]string{true: "FROZEN", false: "THAWED"}[on])
}

func (g *Group) frozen() (bool, error) {
	if g.layout.Unified {
		r := reader{g: g}
		return r.field("", "cgroup.events", "frozen") == 1, r.err
	}
	s, err := g.read("freezer", "freezer.state")
	return s == "FROZEN", err
}

// Kill sends SIGKILL to all processes of the group, until none but zombies is left or ctx ends. Zombies are for their
// parents to reap.
func (g *Group) Kill(ctx context.Context) error {
	for wait := 100 * time.Microsecond; ; wait = min(2*wait, 20*time.Millisecond) {
		alive, err := g.killOnce()
		if err != nil {
			return fmt.Errorf("kill cgroup %s: %w", g.Path, err)
		}
		if !alive {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("kill cgroup %s: %w", g.Path, ctx.Err())
		case <-time.After(wait):
		}
	}
}

// killOnce kills what is there and tells whether there was something alive. cgroup.kill (Linux 5.14) leaves no
// gap for forks; elsewhere the loop of Kill closes it.
func (g *Group) killOnce() (bool, error) {
	if g.layout.Unified {
		if err := g.write("", "cgroup.kill", "1"); err == nil {
			return (&reader{g: g}).populated(), nil
		}
	}
	pids, err := g.Pids()
	if err != nil {
		return false, err
	}
	alive := false
	for _, pid := range pids {
		if killMember(g, pid) {
			alive = true
		}
	}
	if alive && !g.layout.Unified {
		_ = g.Thaw() // a frozen v1 process does not die; without a freezer there is nothing to thaw
	}
	return alive, nil
}

func (r *reader) populated() bool { return r.field("", "cgroup.events", "populated") == 1 }

// killMember kills by pidfd, after a look that the pid is still a member, and tells whether it was alive.
func killMember(g *Group, pid int) bool {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	pids, err := g.Pids()
	if err != nil || !slices.Contains(pids, pid) {
		return false
	}
	if zombie(pid) {
		return false
	}
	return unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) == nil
}

// zombie tells whether nothing of a process runs any more. One whose first thread has ended looks like a zombie while
// other threads run, or are on their way out and still in the group: num_threads of /proc/PID/stat counts them.
func zombie(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:])) // from field 3, state, on
	return len(f) > 17 && (f[0] == "Z" || f[0] == "X") && (f[17] == "0" || f[17] == "1")
}

// Remove removes the group's folders and those below them. A group with processes is an error wrapping EBUSY; one that
// is gone already is none. Folders above the group stay.
func (g *Group) Remove() error {
	var errs []error
	for _, d := range g.Dirs() {
		if err := removeTree(d); err != nil {
			errs = append(errs, fmt.Errorf("remove cgroup: %w", err))
		}
	}
	return errors.Join(errs...)
}

// removeTree removes folders from below. For a moment after the last exit rmdir may still say EBUSY.
func removeTree(dir string) error {
	if err := unix.Rmdir(dir); err == nil || err == unix.ENOENT {
		return nil // no group below it, nobody in it: nearly always
	}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeTree(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	for wait := time.Millisecond; ; wait *= 2 {
		err := unix.Rmdir(dir)
		if err == nil || err == unix.ENOENT {
			return nil
		}
		if pids, perr := readPids(filepath.Join(dir, "cgroup.procs")); perr != nil || len(pids) > 0 {
			return fmt.Errorf("%s: %w", dir, err)
		}
		if err != unix.EBUSY || wait > 64*time.Millisecond {
			return fmt.Errorf("%s: %w", dir, err)
		}
		time.Sleep(wait)
	}
}
