package cgroup

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// memory sets the limits of memory, in bytes. 0 is no limit given, as other runtimes have it; -1 none. The limit of
// kernel memory alone is ignored, as the spec lets runtimes do: no kernel since 5.4 keeps one that can be relied on.
func (g *Group) memory(r *specs.LinuxResources) error {
	m := r.Memory
	if m == nil {
		return nil
	}
	if err := g.checkUsage(m); err != nil {
		return err
	}
	if g.layout.Unified {
		return g.memory2(m)
	}
	return g.memory1(m)
}

// checkUsage refuses a limit below what the group uses now, if the spec wants that looked at: to the kernel it is a
// wish to reclaim, and to kill.
func (g *Group) checkUsage(m *specs.LinuxMemory) error {
	if m.CheckBeforeUpdate == nil || !*m.CheckBeforeUpdate || m.Limit == nil || *m.Limit <= 0 {
		return nil
	}
	name := map[bool]string{false: "memory.usage_in_bytes", true: "memory.current"}[g.layout.Unified]
	s, err := g.read("memory", name)
	if err != nil {
		return err
	}
	used, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return fmt.Errorf("parse %s: %w", name, err)
	}
	if used > *m.Limit {
		return fmt.Errorf("checkBeforeUpdate: %d bytes are in use, more than the limit %d", used, *m.Limit)
	}
	return nil
}

// given drops a limit of 0.
func given(v *int64) *int64 {
	if !isSetInt(v) {
		return nil
	}
	return v
}

// memory1 sets the v1 limits.
func (g *Group) memory1(m *specs.LinuxMemory) error {
	if err := g.useHierarchy(m); err != nil {
		return err
	}
	if err := g.limitAndSwap1(given(m.Limit), given(m.Swap)); err != nil {
		return err
	}
	if err := g.writeInt("memory", "memory.soft_limit_in_bytes", given(m.Reservation)); err != nil {
		return err
	}
	if err := g.writeInt("memory", "memory.kmem.tcp.limit_in_bytes", given(m.KernelTCP)); err != nil {
		return err
	}
	if err := g.writeUint("memory", "memory.swappiness", m.Swappiness); err != nil {
		return err
	}
	if m.DisableOOMKiller != nil && *m.DisableOOMKiller {
		return g.write("memory", "memory.oom_control", "1")
	}
	return nil
}

// useHierarchy: groups count what is below them since 5.11, always.
func (g *Group) useHierarchy(m *specs.LinuxMemory) error {
	switch {
	case m.UseHierarchy == nil:
		return nil
	case *m.UseHierarchy && !g.exists("memory", "memory.use_hierarchy"):
		return nil
	case *m.UseHierarchy:
		return g.write("memory", "memory.use_hierarchy", "1")
	}
	return errors.New("useHierarchy: false is not supported: no kernel since 5.11 does that")
}

// limitAndSwap1 sets two limits of which memsw must never be below the other, so that the order depends on which way
// they move (memory.rst, section 5).
func (g *Group) limitAndSwap1(limit, swap *int64) error {
	const limitFile, swapFile = "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"
	first := func() error { return g.writeInt("memory", limitFile, limit) }
	second := func() error { return g.writeInt("memory", swapFile, swap) }
	if limit != nil && swap != nil && g.exists("memory", swapFile) {
		now, err := g.read("memory", swapFile)
		if err != nil {
			return err
		}
		old, err := strconv.ParseUint(now, 10, 64)
		if err != nil {
			return fmt.Errorf("parse %s: %w", swapFile, err)
		}
		if *limit == -1 || *swap == -1 || uint64(*limit) > old {
			first, second = second, first
		}
	}
	if err := first(); err != nil {
		return err
	}
	return second()
}

// memory2 sets the v2 limits. The spec's swap is memory and swap together, v2's is swap alone.
func (g *Group) memory2(m *specs.LinuxMemory) error {
	switch {
	case m.Swappiness != nil:
		return fmt.Errorf("swappiness: %w", errNone)
	case m.DisableOOMKiller != nil && *m.DisableOOMKiller:
		return fmt.Errorf("disableOOMKiller: %w", errNone)
	case given(m.KernelTCP) != nil:
		return fmt.Errorf("kernelTCP: %w", errNone)
	case m.UseHierarchy != nil && !*m.UseHierarchy:
		return errors.New("useHierarchy: cgroup v2 has no other way")
	}
	if err := g.swap2(m); err != nil {
		return err
	}
	if err := g.writeInt("memory", "memory.max", given(m.Limit)); err != nil {
		return err
	}
	return g.writeInt("memory", "memory.low", given(m.Reservation))
}

func (g *Group) swap2(m *specs.LinuxMemory) error {
	unlimited := m.Limit != nil && *m.Limit == -1 && given(m.Swap) == nil // swap follows, as it does on v1
	if given(m.Swap) == nil && !unlimited {
		return nil
	}
	v := "max"
	if !unlimited {
		var err error
		if v, err = swapAlone(m); err != nil {
			return err
		}
	}
	err := g.write("memory", "memory.swap.max", v)
	if errors.Is(err, os.ErrNotExist) && (v == "max" || v == "0") {
		return nil // a kernel without swap has no such file, and no swap to limit or to allow
	}
	return err
}

func swapAlone(m *specs.LinuxMemory) (string, error) {
	switch {
	case *m.Swap == -1:
		return "max", nil
	case given(m.Limit) == nil || *m.Limit == -1:
		return "", errors.New("swap: needs a limit of memory")
	case *m.Swap < *m.Limit:
		return "", fmt.Errorf("swap: %d is less than the limit of memory %d", *m.Swap, *m.Limit)
	}
	return strconv.FormatInt(*m.Swap-*m.Limit, 10), nil
}
