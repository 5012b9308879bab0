package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// realtime sets how many microseconds of each period real-time processes may use (sched-rt-group.rst). A group's part
// of the time comes out of that of the group above it, and new groups have none: those on the way are raised.
func (g *Group) realtime(c *specs.LinuxCPU) error {
	if !isSet(c.RealtimePeriod) && !isSetInt(c.RealtimeRuntime) {
		return nil
	}
	path, err := g.file("cpu", "cpu.rt_runtime_us")
	if err != nil {
		return err
	}
	dir := filepath.Dir(path)
	if g.exists("cpu", "cpu.rt_runtime_us") && isSetInt(c.RealtimeRuntime) && *c.RealtimeRuntime > 0 {
		period, err := readInt(filepath.Join(dir, "cpu.rt_period_us"))
		if err != nil {
			return err
		}
		if isSet(c.RealtimePeriod) {
			period = int64(*c.RealtimePeriod)
		}
		depth := strings.Count(g.Path, "/") - 1 // groups above this one that are not the hierarchy's root
		if err := raiseAbove(dir, float64(*c.RealtimeRuntime)/float64(period), depth); err != nil {
			return err
		}
	}
	if isSet(c.RealtimePeriod) {
		if err := g.writeUint("cpu", "cpu.rt_period_us", c.RealtimePeriod); err != nil {
			return err
		}
	}
	return g.writeInt("cpu", "cpu.rt_runtime_us", given(c.RealtimeRuntime))
}

// raiseAbove makes sure that the folder above dir has enough for all its children, of which dir shall get this part.
func raiseAbove(dir string, part float64, depth int) error {
	if depth <= 0 {
		return nil
	}
	parent := filepath.Dir(dir)
	entries, err := os.ReadDir(parent)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() && e.Name() != filepath.Base(dir) {
			p, _, err := realtimePart(filepath.Join(parent, e.Name()))
			if err != nil && !errors.Is(err, fs.ErrNotExist) { // gone while we looked
				return err
			}
			part += p
		}
	}
	have, period, err := realtimePart(parent)
	if err != nil || have >= part {
		return err
	}
	if err := raiseAbove(parent, part, depth-1); err != nil {
		return err
	}
	runtime := int64(part*float64(period)) + 1
	return writeFile(filepath.Join(parent, "cpu.rt_runtime_us"), strconv.FormatInt(runtime, 10))
}

// realtimePart returns a group's part of the time and its period in microseconds.
func realtimePart(dir string) (part float64, period int64, err error) {
	runtime, err := readInt(filepath.Join(dir, "cpu.rt_runtime_us"))
	if err != nil {
		return 0, 0, err
	}
	if period, err = readInt(filepath.Join(dir, "cpu.rt_period_us")); err != nil {
		return 0, 0, err
	}
	if runtime < 0 {
		return 1, period, nil
	}
	return float64(runtime) / float64(period), period, nil
}

func readInt(path string) (int64, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	v, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("parse %s: %w", path, err)
	}
	return v, nil
}
