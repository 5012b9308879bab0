// Package cgroup makes, limits, watches and removes control groups: cgroup v1, v2, and hybrid machines, where it uses
// the v1 controllers.
//
// A [Group] is one path, such as /coble/web, below the root of each hierarchy as it is mounted here. Create makes its
// folders and writes limits; a process is put in by the plan's list of calls (v1: through [Group.Joins]; v2:
// [Group.FD] and CLONE_INTO_CGROUP) or with Add. A limit whose controller the machine lacks is an error which names
// the controller and the kernel option. Nothing here keeps state: Open finds a group again after a restart.
package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Hierarchy is a mounted hierarchy of control groups.
type Hierarchy struct {
	Mount       string   // such as /sys/fs/cgroup/cpu,cpuacct
	Controllers []string // v1: what it controls; v2: what cgroup.controllers at its root lists
}

// Layout is how control groups are mounted.
type Layout struct {
	Unified     bool        // v2 holds the controllers
	Hierarchies []Hierarchy // v2: just one
}

func listed(hs []Hierarchy, controller string) bool {
	return slices.ContainsFunc(hs, func(h Hierarchy) bool { return slices.Contains(h.Controllers, controller) })
}

// cgroupMount is a line of mountinfo (proc_pid_mountinfo(5)) about a cgroup hierarchy.
type cgroupMount struct {
	root   string // of the mount within the hierarchy
	at     string // the mount point
	fstype string // cgroup or cgroup2
	super  string // options of the hierarchy
}

func mountLine(line string) (m cgroupMount, ok bool) {
	head, tail, found := strings.Cut(line, " - ")
	if !strings.HasPrefix(tail, "cgroup") {
		return m, false
	}
	f, t := strings.Fields(head), strings.Fields(tail)
	if !found || len(f) < 6 || len(t) < 3 {
		return m, false
	}
	return cgroupMount{f[3], f[4], t[0], t[2]}, true
}

// v1Controllers picks the controllers out of the options of a v1 superblock.
func v1Controllers(super string) []string {
	var out []string
	for _, o := range strings.Split(super, ",") {
		switch o {
		case "cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "net_cls", "net_prio",
			"hugetlb", "perf_event", "rdma", "misc":
			out = append(out, o)
		}
	}
	return out
}

// Group is one control group in all hierarchies that it uses.
type Group struct {
	Path   string // as given to Create or Open
	layout Layout
}

// Create makes the group's folders, those above it, and sets limits. r may be nil. A group that holds processes is an
// error wrapping fs.ErrExist, and is left alone; an empty one is used. On other errors nothing is left.
func Create(path string, r *specs.LinuxResources) (*Group, error) {
	l, err := Detect()
	if err != nil {
		return nil, err
	}
	return CreateIn(l, path, r)
}

// CreateIn is Create with a layout at hand.
func CreateIn(l Layout, path string, r *specs.LinuxResources) (*Group, error) {
	g, err := newGroup(path, l, r)
	if err != nil {
		return nil, err
	}
	pids, err := g.Pids()
	if err == nil && len(pids) > 0 {
		err = fmt.Errorf("create cgroup %s: it holds %d processes: %w", path, len(pids), os.ErrExist)
	}
	if err != nil {
		return nil, err
	}
	for _, h := range g.layout.Hierarchies {
		if err = g.makeDir(h, r); err != nil {
			break
		}
	}
	if err == nil {
		err = g.Update(r)
	}
	if err == nil {
		err = g.devices(r)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("create cgroup %s: %w", path, err), g.Remove())
	}
	return g, nil
}

// Open returns a group that exists.
func Open(path string) (*Group, error) {
	l, err := Detect()
	if err != nil {
		return nil, err
	}
	g := &Group{Path: path, layout: l}
	g.layout.Hierarchies = slices.DeleteFunc(g.layout.Hierarchies, func(h Hierarchy) bool {
		_, err := os.Stat(g.dir(h))
		return err != nil
	})
	if len(g.layout.Hierarchies) == 0 {
		return nil, fmt.Errorf("open cgroup %s: %w", path, os.ErrNotExist)
	}
	return g, nil
}

// Select returns the part of l that a group with these limits would be in. It changes nothing.
func Select(path string, l Layout, r *specs.LinuxResources) (Layout, error) {
	g, err := newGroup(path, l, r)
	if err != nil {
		return Layout{}, err
	}
	return g.layout, nil
}

// newGroup picks the hierarchies that a group is in: on v1 those that coble uses always, and those that r asks for.
func newGroup(path string, l Layout, r *specs.LinuxResources) (*Group, error) {
	if !filepath.IsAbs(path) || filepath.Clean(path) != path || path == "/" {
		return nil, fmt.Errorf("cgroup path %q is not absolute and clean", path)
	}
	need := neededIn(r, l.Unified)
	for _, c := range need {
		if !l.has(c) {
			return nil, fmt.Errorf("cgroup controller %q, which a limit needs, is missing: kernel option %s", c, kernelOption(c))
		}
	}
	g := &Group{Path: path, layout: Layout{Unified: l.Unified}}
	for _, h := range l.Hierarchies {
		use := l.Unified
		for _, c := range h.Controllers {
			use = use || always(c) || slices.Contains(need, c)
		}
		if use {
			g.layout.Hierarchies = append(g.layout.Hierarchies, h)
		}
	}
	return g, nil
}

func always(c string) bool {
	switch c {
	case "cpu", "cpuacct", "memory", "devices", "freezer", "pids", "blkio":
		return true
	}
	return false
}

func (l Layout) has(c string) bool {
	if l.Unified && (c == "devices" || c == "freezer") {
		return true // v2 has them in its core
	}
	return listed(l.Hierarchies, c)
}

// Has tells whether the machine has a controller, such as "memory".
func (l Layout) Has(controller string) bool { return l.has(controller) }

func (g *Group) dir(h Hierarchy) string { return filepath.Join(h.Mount, g.Path) }

// Dirs lists the group's folders.
func (g *Group) Dirs() []string {
	out := make([]string, len(g.layout.Hierarchies))
	for i, h := range g.layout.Hierarchies {
		out[i] = g.dir(h)
	}
	return out
}

// Hierarchies lists where the group is.
func (g *Group) Hierarchies() []Hierarchy { return g.layout.Hierarchies }

// Unified tells whether the group is a v2 one.
func (g *Group) Unified() bool { return g.layout.Unified }

// file returns the path of a control file of a controller; on v2 the controller does not matter.
func (g *Group) file(controller, name string) (string, error) {
	for _, h := range g.layout.Hierarchies {
		if g.layout.Unified || slices.Contains(h.Controllers, controller) {
			return filepath.Join(g.dir(h), name), nil
		}
	}
	return "", fmt.Errorf("%s: the group is not in a hierarchy of controller %q (kernel option %s)", name, controller, kernelOption(controller))
}

func (g *Group) write(controller, name, value string) error {
	p, err := g.file(controller, name)
	if err != nil {
		return err
	}
	if err = writeFile(p, value); errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w: this kernel has no %s%s", err, name, fileOption(name))
	}
	return err
}

// exists tells whether a control file is there.
func (g *Group) exists(controller, name string) bool {
	p, err := g.file(controller, name)
	if err == nil {
		_, err = os.Stat(p)
	}
	return err == nil
}

func (g *Group) read(controller, name string) (string, error) {
	p, err := g.file(controller, name)
	if err != nil {
		return "", err
	}
	b, err := os.ReadFile(p)
	return strings.TrimSpace(string(b)), err
}

// writeFile writes a control file in one write, without O_TRUNC or O_CREAT.
func writeFile(path, value string) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, []byte(value)); err != nil {
		return fmt.Errorf("write %q to %s: %w", value, path, err)
	}
	return nil
}

// FD opens the v2 folder for CLONE_INTO_CGROUP; the caller closes it. On v1 it returns nil.
func (g *Group) FD() (*os.File, error) {
	if !g.layout.Unified {
		return nil, nil
	}
	return os.Open(g.dir(g.layout.Hierarchies[0]))
}

// Join is an open tasks file of a v1 hierarchy. Writing "0" to it moves the writer.
type Join struct {
	Hierarchy
	Tasks *os.File
}

// Joins opens the tasks file of each v1 hierarchy; the caller closes them. On v2 there are none.
func (g *Group) Joins() ([]Join, error) {
	if g.layout.Unified {
		return nil, nil
	}
	var out []Join
	for _, h := range g.layout.Hierarchies {
		f, err := os.OpenFile(filepath.Join(g.dir(h), "tasks"), os.O_WRONLY, 0)
		if err != nil {
			CloseJoins(out)
			return nil, err
		}
		out = append(out, Join{h, f})
	}
	return out, nil
}

// CloseJoins closes what Joins opened.
func CloseJoins(js []Join) {
	for _, j := range js {
		j.Tasks.Close()
	}
}

// Add moves a process into the group.
func (g *Group) Add(pid int) error {
	for _, d := range g.Dirs() {
		if err := writeFile(filepath.Join(d, "cgroup.procs"), fmt.Sprint(pid)); err != nil {
			return err
		}
	}
	return nil
}
