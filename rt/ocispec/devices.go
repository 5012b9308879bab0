package ocispec

import (
	"os"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/coble-os/coble/rt/fault"
)

// Numbers are a device node's.
type Numbers struct{ Major, Minor int64 }

// Device is a node of the host that the container gets.
type Device struct {
	Path string // inside the container
	Type string // "c" or "b"
	Numbers
	Mode     os.FileMode // permission bits
	UID, GID uint32
	Access   string // of "rwm"
}

func (in *Input) devices() []specs.LinuxDevice {
	var out []specs.LinuxDevice
	for _, d := range in.Devices {
		out = append(out, specs.LinuxDevice{Path: d.Path, Type: d.Type, Major: d.Major, Minor: d.Minor, FileMode: &d.Mode, UID: &d.UID, GID: &d.GID})
	}
	return out
}

// deviceRules are Docker's: nothing but the harmless devices and mknod of any, then what the container is given.
func (in *Input) deviceRules() []specs.LinuxDeviceCgroup {
	if in.Spec.Host.Privileged {
		return []specs.LinuxDeviceCgroup{deviceRule(true, "a", -1, -1, "rwm")}
	}
	rules := []specs.LinuxDeviceCgroup{
		deviceRule(false, "a", -1, -1, "rwm"),
		deviceRule(true, "c", -1, -1, "m"), deviceRule(true, "b", -1, -1, "m"),
		deviceRule(true, "c", 1, 3, "rwm"), deviceRule(true, "c", 1, 5, "rwm"), deviceRule(true, "c", 1, 7, "rwm"), deviceRule(true, "c", 1, 8, "rwm"),
		deviceRule(true, "c", 1, 9, "rwm"), deviceRule(true, "c", 5, 0, "rwm"), deviceRule(true, "c", 5, 1, "rwm"), deviceRule(true, "c", 5, 2, "rwm"),
		deviceRule(true, "c", 136, -1, "rwm"),
	}
	for _, d := range in.Devices {
		rules = append(rules, deviceRule(true, d.Type, d.Major, d.Minor, d.Access))
	}
	for _, s := range in.Spec.Host.DeviceCgroupRules {
		if r, err := ParseDeviceRule(s); err == nil { // refused at creation
			rules = append(rules, r)
		}
	}
	return rules
}

func deviceRule(allow bool, kind string, major, minor int64, access string) specs.LinuxDeviceCgroup {
	d := specs.LinuxDeviceCgroup{Allow: allow, Type: kind, Access: access}
	if major >= 0 {
		d.Major = &major
	}
	if minor >= 0 {
		d.Minor = &minor
	}
	return d
}

// ParseDeviceRule reads "c 1:11 rmw" or "b *:* m".
func ParseDeviceRule(s string) (specs.LinuxDeviceCgroup, error) {
	bad := fault.New(fault.Invalid, "invalid device cgroup rule %q: want a, b or c, numbers or *, and r, w, m, as in \"c 1:11 rwm\"", s)
	f := strings.Fields(s)
	if len(f) != 3 || len(f[0]) != 1 || !strings.Contains("abc", f[0]) || !validAccess(f[2]) {
		return specs.LinuxDeviceCgroup{}, bad
	}
	major, minor, ok := strings.Cut(f[1], ":")
	a, ok1 := deviceNumber(major)
	b, ok2 := deviceNumber(minor)
	if !ok || !ok1 || !ok2 {
		return specs.LinuxDeviceCgroup{}, bad
	}
	return deviceRule(true, f[0], a, b, f[2]), nil
}

func deviceNumber(s string) (int64, bool) {
	if s == "*" {
		return -1, true
	}
	n, err := parseInt(s)
	return n, err == nil && n >= 0 && n < 1<<32
}

// validAccess tells whether s is made of r, w and m, each at most once.
func validAccess(s string) bool {
	return s != "" && strings.Trim(s, "rwm") == "" && strings.Count(s, "r") < 2 && strings.Count(s, "w") < 2 && strings.Count(s, "m") < 2
}

// ParseAccess gives the access of a device mapping; empty is all.
func ParseAccess(s string) (string, error) {
	if s == "" {
		return "rwm", nil
	}
	if !validAccess(s) {
		return "", fault.New(fault.Invalid, "invalid device mode: %s: want some of r, w and m", s)
	}
	return s, nil
}
