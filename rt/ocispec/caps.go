package ocispec

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/coble-os/coble/rt/fault"
	"github.com/coble-os/coble/sandbox/caps"
)

func (in *Input) containerCaps() (*specs.LinuxCapabilities, error) {
	set, err := resolveCaps(in.Spec.Host.CapAdd, in.Spec.Host.CapDrop, in.all())
	if err != nil {
		return nil, fault.As(fault.Invalid, err)
	}
	return capsFor(set, in.User.UID == 0), nil
}

// allCaps is what a privileged process has.
func (in *Input) allCaps() *specs.LinuxCapabilities {
	return capsFor(in.all().Names(), in.User.UID == 0)
}

func (in *Input) all() caps.Set {
	if in.Available == 0 {
		return caps.All()
	}
	return caps.All() & in.Available
}

// capsFor gives a set to root; another user can only get them back by executing what has them.
func capsFor(set []string, root bool) *specs.LinuxCapabilities {
	c := &specs.LinuxCapabilities{Bounding: set, Effective: []string{}, Permitted: []string{}, Inheritable: []string{}, Ambient: []string{}}
	if root {
		c.Effective, c.Permitted = set, set
	}
	return c
}

// resolveCaps is pure: Docker's default set, with ALL and names in either spelling added and dropped.
func resolveCaps(add, drop []string, every caps.Set) ([]string, error) {
	named := func(list []string) (caps.Set, error) {
		var all caps.Set
		for _, n := range list {
			n = strings.ToUpper(n)
			if n == "ALL" {
				all |= every
				continue
			}
			s, err := caps.Parse([]string{"CAP_" + strings.TrimPrefix(n, "CAP_")})
			if err != nil {
				return 0, fmt.Errorf("unknown capability %q", n)
			}
			all |= s
		}
		return all, nil
	}
	set, err := caps.Parse(caps.Default())
	if err != nil {
		return nil, err
	}
	plus, err1 := named(add)
	minus, err2 := named(drop)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	// "--cap-drop ALL --cap-add X" gives X, and "--cap-add ALL --cap-drop X" all but X, as docker has it.
	if slices.ContainsFunc(drop, func(d string) bool { return strings.EqualFold(d, "ALL") }) {
		return plus.Names(), nil
	}
	return ((set | plus) &^ minus).Names(), nil
}
