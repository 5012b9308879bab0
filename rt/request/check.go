package request

import (
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/configs"
	"github.com/coble-os/coble/rt/fault"
	"github.com/coble-os/coble/rt/ocispec"
	"github.com/coble-os/coble/rt/store"
)

// Machine is what a request is checked against.
type Machine struct {
	CPUs                   int
	OnlineCPUs, OnlineMems string // such as "0-3"; empty: not known
}

// Check refuses what can never work on this machine, before anything is made.
func Check(in Create, m Machine) error {
	if in.Name != "" && !ValidName(in.Name) {
		return fault.New(fault.Invalid, "Invalid container name (%s), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed", in.Name)
	}
	if in.Config.Image == "" {
		return fault.New(fault.Invalid, "no image given: the field Image is empty")
	}
	if w := in.Config.WorkingDir; w != "" && !path.IsAbs(w) {
		return fault.New(fault.Invalid, "the working directory '%s' is invalid, it needs to be an absolute path", w)
	}
	if s := in.Config.StopSignal; s != "" {
		if _, err := ParseSignal(s); err != nil {
			return err
		}
	}
	if err := CheckRestartPolicy(in.Host.RestartPolicy, in.Host.AutoRemove); err != nil {
		return err
	}
	if err := CheckLimits(in.Host.Resources, m); err != nil {
		return err
	}
	if _, err := DiskLimit(in.Host); err != nil {
		return err
	}
	if err := CheckBandwidth(in.Bandwidth, in.Host.NetworkMode); err != nil {
		return err
	}
	for _, r := range in.Host.DeviceCgroupRules {
		if _, err := ocispec.ParseDeviceRule(r); err != nil {
			return err
		}
	}
	return checkSupported(in)
}

// CheckBandwidth refuses limits that cannot be kept.
func CheckBandwidth(b store.Bandwidth, mode container.NetworkMode) error {
	for _, bits := range []uint64{b.In, b.Out} {
		if bits > 0 && bits < configs.MinRate {
			return fault.New(fault.Invalid, "a bandwidth of %d bit/s cannot be kept: the least is 8kbit", bits)
		}
	}
	if b != (store.Bandwidth{}) && (mode.IsHost() || mode.IsContainer()) {
		return fault.New(fault.Invalid, "a container that shares the network of the host or of another container has no link of its own that could be limited")
	}
	return nil
}

// DiskLimit is what a container may write into its own layer, in bytes, by the storage option size; 0 is no limit.
func DiskLimit(h container.HostConfig) (int64, error) {
	for k := range h.StorageOpt {
		if !strings.EqualFold(k, "size") {
			return 0, fault.New(fault.Invalid, "unknown storage option %s: there is size", k)
		}
	}
	for _, v := range h.StorageOpt {
		n, err := units.RAMInBytes(v)
		if err != nil || n <= 0 {
			return 0, fault.New(fault.Invalid, "invalid storage option size %q: write it as 64MiB", v)
		}
		return n, nil
	}
	return 0, nil
}

// ValidName tells whether a container may be called so.
func ValidName(s string) bool {
	ok, _ := regexp.MatchString(`^[a-zA-Z0-9][a-zA-Z0-9_.-]+$`, s)
	return ok
}

// checkSupported names every field that this engine does not honour, rather than ignoring it.
func checkSupported(in Create) error {
	h := in.Host
	no := func(field string, set bool) string {
		if set {
			return field
		}
		return ""
	}
	fields := []string{
		no("VolumesFrom", len(h.VolumesFrom) > 0), no("VolumeDriver", h.VolumeDriver != "" && h.VolumeDriver != "local"),
		no("UsernsMode", h.UsernsMode != "" && h.UsernsMode != "host"),
		no("DeviceRequests", len(h.DeviceRequests) > 0), no("CgroupParent", h.CgroupParent != ""), no("Runtime", h.Runtime != "" && h.Runtime != "coble" && h.Runtime != "runc"),
		no("Isolation", h.Isolation != "" && h.Isolation != "default"), no("Volumes", len(in.Config.Volumes) > 0),
		no("Healthcheck", in.Config.Healthcheck != nil && len(in.Config.Healthcheck.Test) > 0 && in.Config.Healthcheck.Test[0] != "NONE"),
	}
	fields = slices.DeleteFunc(fields, func(s string) bool { return s == "" })
	if len(fields) > 0 {
		return fault.New(fault.Unsupported, "this engine does not support %s yet: leave it out", strings.Join(fields, ", "))
	}
	return checkModes(h)
}

// checkModes refuses namespaces that there are none of, and options that no part of a container's security is.
func checkModes(h container.HostConfig) error {
	if h.NetworkMode.IsContainer() && len(h.PortBindings) > 0 {
		return fault.New(fault.Invalid, "conflicting options: port publishing and the container type network mode")
	}
	if !h.PidMode.Valid() || !h.IpcMode.Valid() || !h.UTSMode.Valid() || !h.CgroupnsMode.Valid() {
		return fault.New(fault.Invalid, "invalid namespace mode: pid %q, ipc %q, uts %q, cgroup %q", h.PidMode, h.IpcMode, h.UTSMode, h.CgroupnsMode)
	}
	sec, err := ocispec.ParseSecurity(h.SecurityOpt)
	if err == nil {
		_, err = ocispec.Filter(sec, h.Privileged, nil, ocispec.KernelVersion{})
	}
	return err
}

// CheckRestartPolicy refuses policies that there are none of, and those that contradict autoRemove.
func CheckRestartPolicy(p container.RestartPolicy, autoRemove bool) error {
	switch p.Name {
	case "", container.RestartPolicyDisabled, container.RestartPolicyAlways, container.RestartPolicyUnlessStopped:
		if p.MaximumRetryCount != 0 {
			return fault.New(fault.Invalid, "invalid restart policy: maximum retry count can only be used with 'on-failure'")
		}
	case container.RestartPolicyOnFailure:
		if p.MaximumRetryCount < 0 {
			return fault.New(fault.Invalid, "invalid restart policy: maximum retry count cannot be negative")
		}
	default:
		return fault.New(fault.Invalid, "invalid restart policy: unknown policy '%s'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'", p.Name)
	}
	if autoRemove && p.Name != "" && p.Name != container.RestartPolicyDisabled {
		return fault.New(fault.Invalid, "can't create 'AutoRemove' container with restart policy")
	}
	return nil
}

// ParseSignal reads USR1, SIGUSR1, usr1 or 10.
func ParseSignal(s string) (unix.Signal, error) {
	if n, err := strconv.Atoi(s); err == nil {
		if n < 1 || n > 64 {
			return 0, fault.New(fault.Invalid, "Invalid signal: %s", s)
		}
		return unix.Signal(n), nil
	}
	name := strings.ToUpper(s)
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	if base, plus, ok := strings.Cut(name, "+"); ok && base == "SIGRTMIN" {
		if n, err := strconv.Atoi(plus); err == nil && n >= 0 && n <= 30 {
			return unix.Signal(34 + n), nil
		}
	}
	if sig := unix.SignalNum(name); sig != 0 {
		return sig, nil
	}
	return 0, fault.New(fault.Invalid, "Invalid signal: %s", s)
}
