package configs

import (
	"net/netip"
	"strings"
)

// Listen says from where published ports are reached: names of links, aliases or zones, or addresses. A single one may
// stand without brackets.
type Listen []string

// UnmarshalText reads a single one.
func (l *Listen) UnmarshalText(b []byte) error {
	*l = Listen{string(b)}
	return nil
}

// maxAltName is the longest name that a link may have beside its own, in bytes (linux/if.h, ALTIFNAMSIZ less its NUL).
const maxAltName = 127

// checkListen finds what can be neither a link nor an address.
func (d *document) checkListen(section, key string, l Listen) bool {
	for _, s := range l {
		if _, err := netip.ParseAddr(s); err == nil {
			continue
		}
		if s == "" || len(s) > maxAltName || s == "." || s == ".." || strings.ContainsAny(s, "/: \t\n") {
			return d.bad(section, key, "listen %q is neither an address nor a link, such as \"br-lan\"", s)
		}
	}
	return true
}

// Uplinks are the links of the file that lead to the world: where there are others too, ports are not published on them
// unless the file says so.
func (c Config) Uplinks() []string {
	var names []string
	others := false
	all := c.Links()
	for _, name := range sortedKeys(all) {
		l := all[name]
		_, uplink := c.Uplink[name]
		switch {
		case uplink && (l.DHCP || l.DHCP6 || l.Gateway != "" || l.Gateway6 != "" || l.AcceptRA != nil && *l.AcceptRA):
			names = append(names, name)
		case l.DHCP || l.DHCP6 || l.Address != "" || len(l.Addresses) > 0: // else it is a part of another link
			others = true
		}
	}
	if !others {
		return nil
	}
	return names
}
