// Package spec reads an OCI runtime spec for the compiler (sandbox/compiler). It refuses what no plan does, with errors
// that name the field, and says in the kernel's terms what the rest asks for: namespaces, who is who in them, limits,
// scheduling, sysctls. It is pure, and which calls are made of that, and when, is not its business.
package spec

import (
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Validate refuses what no plan does. It also makes sure that the pointers that the compiler follows are there.
func Validate(s *specs.Spec) error {
	switch {
	case s == nil:
		return errors.New("no spec")
	case s.Linux == nil:
		return errors.New("linux: missing")
	case s.Root == nil || s.Root.Path == "":
		return errors.New("root.path: missing")
	case s.Solaris != nil || s.Windows != nil || s.VM != nil || s.ZOS != nil || s.FreeBSD != nil:
		return errors.New("a part of the spec is for another platform than linux")
	}
	if err := validateHooks(s.Hooks); err != nil {
		return err
	}
	if err := validateLinux(s.Linux); err != nil {
		return err
	}
	if err := validateUser(s); err != nil {
		return err
	}
	if err := validateNetDevices(s); err != nil {
		return err
	}
	if s.Hostname != "" && Namespace(s, specs.UTSNamespace) == nil {
		return errors.New("hostname: needs a uts namespace")
	}
	if s.Domainname != "" && Namespace(s, specs.UTSNamespace) == nil {
		return errors.New("domainname: needs a uts namespace")
	}
	return ValidateProcess(s.Process)
}

func validateLinux(l *specs.Linux) error {
	seen := make([]string, 0, len(l.Namespaces))
	for _, n := range l.Namespaces {
		if CloneFlag(n.Type) == 0 {
			return fmt.Errorf("linux.namespaces: %s: not supported", n.Type)
		}
		if strings.Contains(strings.Join(seen, " ")+" ", string(n.Type)+" ") {
			return fmt.Errorf("linux.namespaces: %s twice", n.Type)
		}
		seen = append(seen, string(n.Type))
	}
	return nil
}

// ValidateProcess is Validate for another process in a container.
func ValidateProcess(p *specs.Process) error {
	switch {
	case p == nil:
		return errors.New("process: missing")
	case len(p.Args) == 0:
		return errors.New("process.args: empty")
	case p.Args[0] == "":
		return errors.New("process.args: empty command")
	case p.Cwd != "" && !path.IsAbs(p.Cwd):
		return fmt.Errorf("process.cwd: %s is not absolute", p.Cwd)
	}
	if a := p.ExecCPUAffinity; a != nil { // for those who come later (OCI runtime spec, config.md); the first does without
		for _, l := range [][2]string{{"initial", a.Initial}, {"final", a.Final}} {
			if _, err := CPUMask(l[1]); l[1] != "" && err != nil {
				return fmt.Errorf("process.execCPUAffinity.%s: %w", l[0], err)
			}
		}
	}
	for _, s := range [][]string{p.Args, p.Env} {
		for _, v := range s {
			if strings.IndexByte(v, 0) >= 0 {
				return fmt.Errorf("process: %q has a NUL byte", v)
			}
		}
	}
	return nil
}

// validateHooks refuses what no runtime could run (OCI runtime spec, config.md, "POSIX-platform Hooks").
func validateHooks(h *specs.Hooks) error {
	if h == nil {
		return nil
	}
	for _, k := range []struct {
		name string
		list []specs.Hook
	}{
		//lint:ignore SA1019 the field is deprecated, and honoured
		{"prestart", h.Prestart},
		{"createRuntime", h.CreateRuntime},
		{"createContainer", h.CreateContainer},
		{"startContainer", h.StartContainer},
		{"poststart", h.Poststart},
		{"poststop", h.Poststop},
	} {
		for i, x := range k.list {
			if !filepath.IsAbs(x.Path) {
				return fmt.Errorf("hooks.%s[%d].path: %q is not absolute", k.name, i, x.Path)
			}
			if x.Timeout != nil && *x.Timeout <= 0 {
				return fmt.Errorf("hooks.%s[%d].timeout: %d is not above 0", k.name, i, *x.Timeout)
			}
		}
	}
	return nil
}

// validateUser checks the mappings, so that the user sees an error that the kernel would only call EINVAL or EPERM.
func validateUser(s *specs.Spec) error {
	l := s.Linux
	n := Namespace(s, specs.UserNamespace)
	switch {
	case n == nil && (len(l.UIDMappings) > 0 || len(l.GIDMappings) > 0):
		return errors.New("linux.uidMappings: need a user namespace")
	case n == nil || n.Path != "":
		return nil
	case len(l.UIDMappings) == 0 || len(l.GIDMappings) == 0:
		return errors.New("linux.namespaces: user: needs linux.uidMappings and linux.gidMappings")
	}
	if _, ok := HostID(l.UIDMappings, 0); !ok {
		return errors.New("linux.uidMappings: 0 is not mapped")
	}
	if _, ok := HostID(l.GIDMappings, 0); !ok {
		return errors.New("linux.gidMappings: 0 is not mapped")
	}
	if s.Process == nil {
		return nil
	}
	if _, ok := HostID(l.UIDMappings, s.Process.User.UID); !ok {
		return fmt.Errorf("process.user.uid: %d is not mapped", s.Process.User.UID)
	}
	for _, gid := range append([]uint32{s.Process.User.GID}, s.Process.User.AdditionalGids...) {
		if _, ok := HostID(l.GIDMappings, gid); !ok {
			return fmt.Errorf("process.user: group %d is not mapped", gid)
		}
	}
	return nil
}

func validateNetDevices(s *specs.Spec) error {
	if len(s.Linux.NetDevices) == 0 {
		return nil
	}
	if Namespace(s, specs.NetworkNamespace) == nil {
		return errors.New("linux.netDevices: need a network namespace")
	}
	seen := map[string]bool{}
	for _, d := range NetDevices(s) {
		for _, name := range []string{d.Host, d.Name} {
			if name == "" || len(name) > 15 || name == "." || name == ".." || strings.ContainsAny(name, "/: \t\n\x00%") {
				return fmt.Errorf("linux.netDevices: %q is no name of a link", name)
			}
		}
		if seen[d.Name] {
			return fmt.Errorf("linux.netDevices: two are to be named %s", d.Name)
		}
		seen[d.Name] = true
	}
	return nil
}
