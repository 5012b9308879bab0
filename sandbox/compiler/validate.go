package compiler

import (
	"errors"
	"fmt"
	"path"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// validate refuses what no plan does. It also makes sure that the pointers that the compiler follows are there.
func validate(s *specs.Spec) error {
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
	if s.Hostname != "" && ns(s, specs.UTSNamespace) == nil {
		return errors.New("hostname: needs a uts namespace")
	}
	if s.Domainname != "" && ns(s, specs.UTSNamespace) == nil {
		return errors.New("domainname: needs a uts namespace")
	}
	return validateProcess(s.Process)
}

func validateLinux(l *specs.Linux) error {
	switch {
	}
	seen := make([]string, 0, len(l.Namespaces))
	for _, n := range l.Namespaces {
		if cloneFlag(n.Type) == 0 {
			return fmt.Errorf("linux.namespaces: %s: not supported", n.Type)
		}
		if strings.Contains(strings.Join(seen, " ")+" ", string(n.Type)+" ") {
			return fmt.Errorf("linux.namespaces: %s twice", n.Type)
		}
		seen = append(seen, string(n.Type))
	}
	return nil
}

func validateProcess(p *specs.Process) error {
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
