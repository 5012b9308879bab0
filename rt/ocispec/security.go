package ocispec

import (
	"strconv"
	"strings"

	"github.com/coble-os/coble/rt/fault"
)

// Unconfined is the profile that confines nothing.
const Unconfined = "unconfined"

// Security is what the options of --security-opt say together.
type Security struct {
	NoNewPrivileges bool
	Seccomp         string // empty: the default; Unconfined; else the text of a profile
	AppArmor        string // a profile's name, or empty
	WritableCgroups bool
}

// ParseSecurity reads the options, in any of Docker's spellings. Clients send a seccomp profile's text, not its name.
func ParseSecurity(opts []string) (Security, error) {
	var s Security
	for _, o := range opts {
		key, value, given := strings.Cut(o, "=")
		if !given {
			key, value, given = strings.Cut(o, ":")
		}
		if err := s.set(key, value, given); err != nil {
			return s, err
		}
	}
	return s, nil
}

func (s *Security) set(key, value string, given bool) (err error) {
	on := func(to *bool) error {
		if *to = true; given {
			*to, err = strconv.ParseBool(value)
		}
		if err != nil {
			return fault.New(fault.Invalid, "invalid --security-opt %s=%q: want true or false", key, value)
		}
		return nil
	}
	switch {
	case key == "no-new-privileges":
		return on(&s.NoNewPrivileges)
	case key == "writable-cgroups":
		return on(&s.WritableCgroups)
	case key == "seccomp" && value == "builtin":
		s.Seccomp = ""
	case key == "seccomp" && given:
		s.Seccomp = value
	case key == "apparmor" && value == Unconfined:
		s.AppArmor = ""
	case key == "apparmor" && given:
		s.AppArmor = value
	case key == "label" && value == "disable":
	case key == "label":
		return fault.New(fault.Unsupported, "security option label=%s (SELinux) is not supported: use label=disable", value)
	default:
		return fault.New(fault.Invalid, "invalid --security-opt 1: %q", strings.TrimSuffix(key+"="+value, "="))
	}
	return nil
}
