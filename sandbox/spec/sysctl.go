package spec

import (
	"fmt"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// SysctlPath turns net.ipv4.ip_forward, or net/ipv4/ip_forward, into a path below /proc/sys (sysctl.d(5)).
func SysctlPath(key string) string {
	if i := strings.IndexAny(key, "./"); i >= 0 && key[i] == '/' {
		return key
	}
	return strings.Map(func(r rune) rune {
		switch r {
		case '.':
			return '/'
		case '/':
			return '.'
		}
		return r
	}, key)
}

// CheckSysctl allows only what belongs to a namespace that the container has for itself.
func CheckSysctl(s *specs.Spec, key string, host map[string]bool) error {
	p := SysctlPath(key)
	own := func(t specs.LinuxNamespaceType) error {
		n := Namespace(s, t)
		if n == nil || n.Path != "" && t != specs.NetworkNamespace && t != specs.IPCNamespace {
			return fmt.Errorf("linux.sysctl: %s needs a %s namespace", key, t)
		}
		if host[n.Path] {
			return fmt.Errorf("linux.sysctl: %s: %s is the machine's own", key, n.Path)
		}
		return nil
	}
	switch {
	case strings.HasPrefix(p, "net/"):
		return own(specs.NetworkNamespace)
	case strings.HasPrefix(p, "fs/mqueue/"), strings.HasPrefix(p, "kernel/msg"), strings.HasPrefix(p, "kernel/shm"),
		p == "kernel/sem":
		return own(specs.IPCNamespace)
	case p == "kernel/domainname" || p == "kernel/hostname":
		return own(specs.UTSNamespace)
	default:
		return fmt.Errorf("linux.sysctl: %s does not belong to a namespace", key)
	}
}
