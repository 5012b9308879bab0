package ocispec

import (
	"encoding/json"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/coble-os/coble/rt/fault"
	"github.com/coble-os/coble/sandbox/seccomp"
)

// KernelVersion is what rules with minKernel look at, such as {6, 1}.
type KernelVersion struct{ Major, Minor int }

// ParseKernel reads the start of a release such as "6.1.0-18-cloud-amd64".
func ParseKernel(release string) KernelVersion {
	number := func(s string) int {
		n, _ := strconv.Atoi(s[:len(s)-len(strings.TrimLeft(s, "0123456789"))])
		return n
	}
	major, rest, _ := strings.Cut(release, ".")
	return KernelVersion{number(major), number(rest)}
}

func (k KernelVersion) atLeast(want string) bool {
	w := ParseKernel(want)
	return k.Major > w.Major || k.Major == w.Major && k.Minor >= w.Minor
}

// profile is Docker's file format of seccomp profiles (moby, profiles/seccomp/seccomp.go): the OCI's, with rules that
// depend on capabilities, architecture and kernel.
type profile struct {
	DefaultAction    specs.LinuxSeccompAction
	DefaultErrnoRet  *uint
	Architectures    []specs.Arch
	ArchMap          []profileArch
	Flags            []specs.LinuxSeccompFlag
	ListenerPath     string
	ListenerMetadata string
	Syscalls         []profileRule
}

type profileArch struct {
	Architecture     specs.Arch
	SubArchitectures []specs.Arch
}

type profileRule struct {
	Name     string // the old spelling of one name
	Names    []string
	Action   specs.LinuxSeccompAction
	ErrnoRet *uint
	Args     []specs.LinuxSeccompArg
	Includes condition
	Excludes condition
}

type condition struct {
	Caps      []string
	Arches    []string
	MinKernel string
}

// parseProfile turns a profile's text into the filter for a container with these capabilities.
func parseProfile(text []byte, capabilities []string, kernel KernelVersion) (*specs.LinuxSeccomp, error) {
	var p profile
	if err := json.Unmarshal(text, &p); err != nil {
		return nil, fault.New(fault.Invalid, "decode seccomp profile: %w", err)
	}
	if p.DefaultAction == "" {
		return nil, fault.New(fault.Invalid, "decode seccomp profile: it has no defaultAction")
	}
	if p.ListenerPath != "" {
		return nil, fault.New(fault.Unsupported, "the seccomp profile names a listenerPath, which is not supported")
	}
	if len(p.Architectures) > 0 && len(p.ArchMap) > 0 {
		return nil, fault.New(fault.Invalid, "seccomp profile: both architectures and archMap are given: use one of them")
	}
	out := &specs.LinuxSeccomp{DefaultAction: p.DefaultAction, DefaultErrnoRet: p.DefaultErrnoRet, Flags: p.Flags, Architectures: p.Architectures}
	for _, a := range p.ArchMap {
		if slices.Contains(nativeArches(), string(a.Architecture)) {
			out.Architectures = append([]specs.Arch{a.Architecture}, a.SubArchitectures...)
		}
	}
	for i, r := range p.Syscalls {
		if r.Name != "" && len(r.Names) > 0 {
			return nil, fault.New(fault.Invalid, "seccomp profile: syscalls[%d] has both name and names: use one of them", i)
		}
		if r.Name != "" {
			r.Names = []string{r.Name}
		}
		if r.Includes.all(capabilities, kernel) && !r.Excludes.any(capabilities, kernel) {
			out.Syscalls = append(out.Syscalls, specs.LinuxSyscall{Names: r.Names, Action: r.Action, ErrnoRet: r.ErrnoRet, Args: r.Args})
		}
	}
	if _, err := seccomp.Compile(out); err != nil {
		return nil, fault.As(fault.Invalid, fmt.Errorf("seccomp profile: %w", err))
	}
	return out, nil
}

// nativeArches are the names of this architecture: the OCI's and the profiles' short one.
func nativeArches() []string {
	switch runtime.GOARCH {
	case "amd64":
		return []string{string(specs.ArchX86_64), "amd64"}
	case "arm64":
		return []string{string(specs.ArchAARCH64), "arm64"}
	case "mipsle":
		return []string{string(specs.ArchMIPSEL), "mipsel"}
	default:
		return []string{"SCMP_ARCH_" + strings.ToUpper(runtime.GOARCH), runtime.GOARCH}
	}
}

func (c condition) arch() bool {
	return slices.ContainsFunc(c.Arches, func(a string) bool { return slices.Contains(nativeArches(), a) })
}

// all tells whether everything that the condition names is so.
func (c condition) all(capabilities []string, kernel KernelVersion) bool {
	for _, want := range c.Caps {
		if !slices.Contains(capabilities, want) {
			return false
		}
	}
	return (len(c.Arches) == 0 || c.arch()) && (c.MinKernel == "" || kernel.atLeast(c.MinKernel))
}

// any tells whether something that the condition names is so.
func (c condition) any(capabilities []string, kernel KernelVersion) bool {
	for _, bad := range c.Caps {
		if slices.Contains(capabilities, bad) {
			return true
		}
	}
	return c.arch() || c.MinKernel != "" && kernel.atLeast(c.MinKernel)
}
