package cgroup

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func (g *Group) cpu(r *specs.LinuxResources) error {
	c := r.CPU
	if c == nil {
		return nil
	}
	var err error
	if g.layout.Unified {
		err = g.cpu2(c)
	} else {
		err = g.cpu1(c)
	}
	if err == nil && c.Cpus != "" {
		err = g.write("cpuset", "cpuset.cpus", c.Cpus)
	}
	if err == nil && c.Mems != "" {
		err = g.write("cpuset", "cpuset.mems", c.Mems)
	}
	return err
}

func (g *Group) cpu1(c *specs.LinuxCPU) error {
	if err := g.realtime(c); err != nil {
		return err
	}
	if err := g.writeInt("cpu", "cpu.idle", c.Idle); err != nil {
		return err
	}
	if isSet(c.Shares) {
		if err := g.writeUint("cpu", "cpu.shares", c.Shares); err != nil {
			return err
		}
	}
	return g.bandwidth1(c)
}

// bandwidth1 sets quota, period and burst, in microseconds. The kernel checks them against each other after each write:
// what it refuses first may be right once another is set.
func (g *Group) bandwidth1(c *specs.LinuxCPU) error {
	writes := []func() error{
		func() error { return g.writeUint("cpu", "cpu.cfs_burst_us", c.Burst) },
		func() error {
			if !isSet(c.Period) {
				return nil
			}
			return g.writeUint("cpu", "cpu.cfs_period_us", c.Period)
		},
		func() error { return g.writeInt("cpu", "cpu.cfs_quota_us", given(c.Quota)) },
	}
	for try := range len(writes) {
		var again []func() error
		for _, w := range writes {
			err := w()
			switch {
			case errors.Is(err, unix.EINVAL) && try < 2:
				again = append(again, w)
			case err != nil:
				return err
			}
		}
		writes = again
	}
	return nil
}

func (g *Group) cpu2(c *specs.LinuxCPU) error {
	if isSet(c.RealtimePeriod) || isSetInt(c.RealtimeRuntime) {
		return fmt.Errorf("realtimeRuntime, realtimePeriod: %w", errNone)
	}
	if err := g.writeInt("cpu", "cpu.idle", c.Idle); err != nil {
		return err
	}
	if isSet(c.Shares) {
		if err := g.write("cpu", "cpu.weight", strconv.FormatUint(weight(*c.Shares), 10)); err != nil {
			return err
		}
	}
	burst := func() error { return g.writeUint("cpu", "cpu.max.burst", c.Burst) }
	err := burst()
	late := errors.Is(err, unix.EINVAL) // more than the quota of before
	if err != nil && !late {
		return err
	}
	if err := g.max2(c); err != nil || !late {
		return err
	}
	return burst()
}

// max2 sets quota and period; the one that is not given stays.
func (g *Group) max2(c *specs.LinuxCPU) error {
	if !isSetInt(c.Quota) && !isSet(c.Period) {
		return nil
	}
	quota, period := "max", "100000"
	if now, err := g.read("cpu", "cpu.max"); err == nil {
		if f := strings.Fields(now); len(f) == 2 {
			quota, period = f[0], f[1]
		}
	}
	switch {
	case !isSetInt(c.Quota):
	case *c.Quota > 0:
		quota = strconv.FormatInt(*c.Quota, 10)
	default:
		quota = "max"
	}
	if isSet(c.Period) {
		period = strconv.FormatUint(*c.Period, 10)
	}
	return g.write("cpu", "cpu.max", quota+" "+period)
}

// weight maps v1 shares (2 to 262144, default 1024) to a v2 weight (1 to 10000), linearly, as runtimes do.
func weight(shares uint64) uint64 {
	shares = min(max(shares, 2), 262144)
	return 1 + (shares-2)*9999/262142
}
