package cgroup

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// CreateDelegated is CreateIn for a group that somebody else, such as systemd, has made in some of the hierarchies and
// removes again. Those in holders may be in it. After an error the caller sees to the group's end.
func CreateDelegated(l Layout, path string, r *specs.LinuxResources, holders []int) (*Group, error) {
	g, err := newGroup(path, l, r)
	if err != nil {
		return nil, err
	}
	pids, err := g.Pids()
	if err != nil {
		return nil, err
	}
	for _, p := range pids {
		if !slices.Contains(holders, p) {
			return nil, fmt.Errorf("use cgroup %s: it holds process %d: %w", path, p, os.ErrExist)
		}
	}
	for _, h := range g.layout.Hierarchies {
		if err := g.makeDir(h, r); err != nil {
			return nil, fmt.Errorf("use cgroup %s: %w", path, err)
		}
	}
	if err := g.Update(r); err != nil {
		return nil, fmt.Errorf("use cgroup %s: %w", path, err)
	}
	if err := g.devices(r); err != nil {
		return nil, fmt.Errorf("use cgroup %s: %w", path, err)
	}
	return g, nil
}

// Followed lists where the hierarchies are mounted that have no controllers on a machine with cgroup v1: systemd's own,
// named ones, and v2 beside v1. On a v2 machine there are none.
func Followed() ([]string, error) {
	l, err := Detect()
	if err != nil || l.Unified {
		return nil, err
	}
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var out []string
	for line := range strings.Lines(string(b)) {
		m, ok := mountLine(strings.TrimSpace(line))
		if ok && m.root == "/" && (m.fstype == "cgroup2" || len(v1Controllers(m.super)) == 0) {
			out = append(out, filepath.Clean(m.at))
		}
	}
	return out, nil
}

// Weight maps v1 shares (2 to 262144, default 1024) to a v2 weight.
func Weight(shares uint64) uint64 { return weight(shares) }
