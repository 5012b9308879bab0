package cgroup

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// makeDir makes the group's folder in h. On v2 the controllers are enabled in each folder above it; on v1 a new
// cpuset must be filled before any process can enter.
func (g *Group) makeDir(h Hierarchy, r *specs.LinuxResources) error {
	dir := h.Mount
	for _, part := range strings.Split(strings.TrimPrefix(g.Path, "/"), "/") {
		if g.layout.Unified {
			if err := enable(dir, h.Controllers, neededIn(r, true)); err != nil {
				return err
			}
		}
		parent := dir
		dir = filepath.Join(dir, part)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		if !g.layout.Unified && slices.Contains(h.Controllers, "cpuset") {
			if err := fillCpuset(parent, dir); err != nil {
				return err
			}
		}
	}
	return nil
}

// enable turns on, for the children of dir, the controllers that coble watches and those that limits need. The first
// are tried one by one: a machine may forbid one of them.
func enable(dir string, have, need []string) error {
	path := filepath.Join(dir, "cgroup.subtree_control")
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	on := strings.Fields(string(b))
	for _, c := range append([]string{"cpu", "memory", "pids", "cpuset", "io"}, need...) {
		if slices.Contains(on, c) || !slices.Contains(have, c) {
			continue
		}
		err := writeFile(path, "+"+c)
		if err != nil && slices.Contains(need, c) {
			if errors.Is(err, unix.EBUSY) {
				err = fmt.Errorf("%w (a cgroup that holds processes cannot pass controllers on: move them to a child of it)", err)
			}
			return err
		}
	}
	return nil
}

func fillCpuset(parent, dir string) error {
	for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		if strings.TrimSpace(string(b)) != "" {
			continue
		}
		if b, err = os.ReadFile(filepath.Join(parent, name)); err != nil {
			return err
		}
		if err := writeFile(filepath.Join(dir, name), strings.TrimSpace(string(b))); err != nil {
			return err
		}
	}
	return nil
}

// Update changes limits. What is nil in r stays as it is; r may be nil. Device rules are not changed.
func (g *Group) Update(r *specs.LinuxResources) error {
	if r == nil {
		return nil
	}
	for _, step := range []struct {
		name string
		set  func(*specs.LinuxResources) error
	}{
		{"memory", g.memory},
		{"cpu", g.cpu},
		{"pids", g.pids},
		{"blockIO", g.blockIO},
		{"hugepageLimits", g.hugetlb},
		{"network", g.network},
		{"rdma", g.rdma},
		{"unified", g.unified},
	} {
		if err := step.set(r); err != nil {
			return fmt.Errorf("resources.%s: %w", step.name, err)
		}
	}
	return nil
}

// unified writes files of v2 as they are given, in the order of their names.
func (g *Group) unified(r *specs.LinuxResources) error {
	if len(r.Unified) > 0 && !g.layout.Unified {
		return errors.New("needs cgroup v2")
	}
	for _, k := range slices.Sorted(maps.Keys(r.Unified)) {
		if strings.Contains(k, "/") {
			return fmt.Errorf("%q is no file name", k)
		}
		if err := g.write("", k, r.Unified[k]); err != nil {
			return err
		}
	}
	return nil
}

// errNone is what v2 has no counterpart for.
var errNone = errors.New("cgroup v2 has none")

// writeInt writes a limit; -1 is none. Nothing happens if v is nil.
func (g *Group) writeInt(controller, name string, v *int64) error {
	if v == nil {
		return nil
	}
	s := strconv.FormatInt(*v, 10)
	if *v == -1 && g.layout.Unified {
		s = "max"
	}
	return g.write(controller, name, s)
}

// writeUint writes a number. Nothing happens if v is nil.
func (g *Group) writeUint(controller, name string, v *uint64) error {
	if v == nil {
		return nil
	}
	return g.write(controller, name, strconv.FormatUint(*v, 10))
}

func (g *Group) pids(r *specs.LinuxResources) error {
	if r.Pids == nil || r.Pids.Limit == nil {
		return nil
	}
	v := "max"
	if *r.Pids.Limit > 0 {
		v = strconv.FormatInt(*r.Pids.Limit, 10)
	}
	return g.write("pids", "pids.max", v)
}
