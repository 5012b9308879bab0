package configs

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/go-units"
)

// check looks at meanings. A container with a mistake is taken out of c.
func (d *document) check(c *Config) {
	d.checkGlobals(c)
	for _, name := range sortedKeys(c.Image) {
		if c.Image[name].Source == "" {
			d.bad("image."+name, "source", "image %s has no source: give the path of its archive or folder", name)
			delete(c.Image, name)
		}
	}
	for _, name := range sortedKeys(c.Container) {
		if !d.checkContainer(*c, name, c.Container[name]) {
			delete(c.Container, name)
		}
	}
	d.checkPorts(c)
	d.checkNeeds(c)
	d.checkAfter(c)
}

// bad notes a problem of a key in a section; where that is not there, of what would hold it.
func (d *document) bad(section, key, format string, args ...any) bool {
	at, ok := d.at[section+"."+key]
	for !ok && key != "" {
		i := strings.LastIndexByte(key, '.')
		key = key[:max(i, 0)]
		at, ok = d.at[strings.TrimSuffix(section+"."+key, ".")]
	}
	if !ok {
		at = d.at[section]
	}
	p := Problem{File: d.name, Line: at.line, Column: at.column, Text: fmt.Sprintf(format, args...)}
	if strings.HasPrefix(section, "container.") || strings.HasPrefix(section, "image.") {
		p.Section = section
	}
	d.problems = append(d.problems, p)
	return false
}

func (d *document) checkGlobals(c *Config) {
	d.checkListen("listen", "", c.Listen) // what is wrong in it matches nothing: ports stay closed there
	for _, name := range sortedKeys(c.Network) {
		n := c.Network[name]
		if name != "default" {
			d.bad("network."+name, "", "network %s: only [network.default] is known", name)
			delete(c.Network, name)
			continue
		}
		if p, err := netip.ParsePrefix(n.Subnet); n.Subnet != "" && (err != nil || !p.Addr().Is4() || p.Bits() > 30) {
			d.bad("network."+name, "subnet", "subnet %q is no IPv4 prefix such as \"10.88.0.0/24\"", n.Subnet)
			n.Subnet = ""
			c.Network[name] = n
		}
	}
	if p := c.Storage.Pool; p != "" && !strings.HasPrefix(p, "/dev/") {
		d.bad("storage", "pool", "pool %q is no block device such as \"/dev/sdb\"", p)
		c.Storage.Pool = ""
	}
	d.checkRegistry(c)
	d.checkLinks(c)
}

func (d *document) checkRegistry(c *Config) {
	for _, m := range c.Registry.Mirrors {
		if u, err := url.Parse(m); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			d.bad("registry", "mirrors", "mirror %q is no URL such as \"https://mirror.example\"", m)
		}
	}
	s := &c.Registry.Serve
	if _, _, err := net.SplitHostPort(s.Listen); s.Listen != "" && err != nil {
		d.bad("registry.serve", "listen", "listen %q is no address with a port, such as \"0.0.0.0:5000\"", s.Listen)
		*s = RegistryServe{}
	}
	if (s.TLSCert == "") != (s.TLSKey == "") {
		d.bad("registry.serve", "tls_cert", "tls_cert and tls_key belong together: one is missing")
		*s = RegistryServe{}
	}
}

func (d *document) checkContainer(c Config, name string, ct Container) bool {
	section := "container." + name
	if !validName(name) {
		return d.bad(section, "", "container name %q: only letters, digits, _ . and - may be in it, and two characters at least", name)
	}
	if ct.Image == "" {
		return d.bad(section, "image", "container %s has no image", name)
	}
	for _, m := range ct.Mounts {
		if text := mountFault(m); text != "" {
			return d.bad(section, "mounts", "mount %q: %s", m, text)
		}
	}
	for _, p := range ct.Ports {
		if _, err := ParsePort(p); err != nil {
			return d.bad(section, "ports", "port %q: %v", p, err)
		}
	}
	if !d.checkListen(section, "listen", ct.Listen) {
		return false
	}
	for _, dev := range ct.Devices {
		if _, err := ParseDevice(dev); err != nil {
			return d.bad(section, "devices", "device %q: %v", dev, err)
		}
	}
	for _, l := range sortedKeys(ct.Ulimits) {
		if _, err := units.ParseUlimit(l + "=" + ct.Ulimits[l]); err != nil {
			return d.bad(section, "ulimits", "ulimit %s: %v", l, err)
		}
	}
	if _, _, err := ParseRestart(ct.Restart); err != nil {
		return d.bad(section, "restart", "%v", err)
	}
	if ct.WorkingDir != "" && !path.IsAbs(ct.WorkingDir) {
		return d.bad(section, "working_dir", "working_dir %q is not absolute", ct.WorkingDir)
	}
	if ct.Memory < 0 || ct.CPUs < 0 || ct.Pids < 0 {
		return d.bad(section, "", "container %s: a limit is negative", name)
	}
	if ct.Network == "host" && ct.BandwidthIn+ct.BandwidthOut > 0 {
		return d.bad(section, "network", "container %s has a limit of bandwidth, and in the host's network no link of its own that could be limited", name)
	}
	if !slices.Contains([]string{"", "bridge", "host", "none"}, ct.Network) {
		return d.bad(section, "network", "network %q is not known: use bridge, host or none", ct.Network)
	}
	return true
}

func validName(s string) bool {
	for i, r := range s {
		alnum := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
		if !alnum && (i == 0 || !strings.ContainsRune("_.-", r)) {
			return false
		}
	}
	return len(s) > 1
}

func mountFault(m string) string {
	parts := strings.Split(m, ":")
	switch {
	case len(parts) < 2 || len(parts) > 3:
		return `want "host-path:container-path[:ro]"`
	case !path.IsAbs(parts[0]) || !path.IsAbs(parts[1]):
		return "both paths must be absolute"
	case path.Clean(parts[1]) == "/":
		return "the container path must not be /"
	case len(parts) == 3 && parts[2] != "ro" && parts[2] != "rw":
		return fmt.Sprintf("unknown option %q: use ro or rw", parts[2])
	}
	return ""
}

// Port is one entry of ports.
type Port struct {
	IP        string // empty: every address
	Host      uint16 // 0: any free one
	Container uint16
	Proto     string // tcp or udp
}

// ParsePort reads [ip:][host:]container[/proto].
func ParsePort(s string) (Port, error) {
	spec, proto, has := strings.Cut(s, "/")
	if !has {
		proto = "tcp"
	}
	p := Port{Proto: proto}
	if proto != "tcp" && proto != "udp" {
		return p, fmt.Errorf("unknown protocol %q: use tcp or udp", proto)
	}
	if i := strings.LastIndex(spec, ":"); i >= 0 {
		host := spec[:i]
		spec = spec[i+1:]
		if j := strings.LastIndex(host, ":"); j >= 0 {
			p.IP, host = strings.Trim(host[:j], "[]"), host[j+1:]
			if _, err := netip.ParseAddr(p.IP); err != nil {
				return p, fmt.Errorf("%q is no address", p.IP)
			}
		}
		n, err := strconv.ParseUint(host, 10, 16)
		if err != nil {
			return p, fmt.Errorf("host port %q is not a number from 0 to 65535", host)
		}
		p.Host = uint16(n)
	}
	n, err := strconv.ParseUint(spec, 10, 16)
	if err != nil || n == 0 {
		return p, fmt.Errorf("container port %q is not a number from 1 to 65535", spec)
	}
	p.Container = uint16(n)
	return p, nil
}

// ParseRestart reads no, always, unless-stopped, on-failure or on-failure:5.
func ParseRestart(s string) (policy string, retries int, err error) {
	policy, count, has := strings.Cut(s, ":")
	switch {
	case s == "":
		return "always", 0, nil
	case has && policy == "on-failure":
		if retries, err = strconv.Atoi(count); err == nil && retries >= 0 {
			return policy, retries, nil
		}
	case !has && slices.Contains([]string{"no", "always", "unless-stopped", "on-failure"}, policy):
		return policy, 0, nil
	}
	return "", 0, fmt.Errorf("restart %q is not known: use no, always, unless-stopped, on-failure or on-failure:5", s)
}

// checkPorts finds a host port that two containers want on the same address; the later one by name is the bad one.
func (d *document) checkPorts(c *Config) {
	type claim struct {
		Port
		holder string
	}
	var claims []claim
	for _, name := range sortedKeys(c.Container) {
		for _, s := range c.Container[name].Ports {
			p, _ := ParsePort(s)
			i := slices.IndexFunc(claims, func(o claim) bool {
				return p.Host != 0 && o.Host == p.Host && o.Proto == p.Proto && (o.IP == p.IP || o.IP == "" || p.IP == "")
			})
			if i >= 0 {
				d.bad("container."+name, "ports", "host port %s/%d of container %s is used by container %s already", p.Proto, p.Host, name, claims[i].holder)
				delete(c.Container, name)
				break
			}
			claims = append(claims, claim{p, name})
		}
	}
}

// Device is one entry of devices.
type Device struct{ Host, Container, Access string }

// ParseDevice reads host[:container[:access]], access being some of r, w and m.
func ParseDevice(s string) (Device, error) {
	parts := strings.Split(s, ":")
	d := Device{Host: parts[0], Container: parts[0], Access: "rwm"}
	if len(parts) > 1 {
		d.Container = parts[1]
	}
	if len(parts) > 2 {
		d.Access = parts[2]
	}
	switch {
	case len(parts) > 3 || !path.IsAbs(d.Host) || !path.IsAbs(d.Container):
		return d, errors.New(`want "/dev/host[:/dev/container[:rwm]]"`)
	case d.Access == "" || strings.Trim(d.Access, "rwm") != "":
		return d, fmt.Errorf("unknown access %q: use some of r, w and m", d.Access)
	}
	return d, nil
}

// checkAfter finds names that nobody has, and cycles.
func (d *document) checkAfter(c *Config) {
	for _, name := range sortedKeys(c.Container) {
		ct := c.Container[name]
		ct.After = slices.DeleteFunc(slices.Clone(ct.After), func(dep string) bool {
			if _, ok := d.at["container."+dep]; ok || c.Container[dep].Image != "" {
				return false
			}
			d.bad("container."+name, "after", "container %s starts after %q, which is no container of this file", name, dep)
			return true
		})
		c.Container[name] = ct
	}
	for _, name := range sortedKeys(c.Container) {
		if cycle := findCycle(func(n string) []string { return c.Container[n].After }, name, nil); cycle != nil {
			d.bad("container."+name, "after", "containers wait for each other: %s", strings.Join(cycle, " after "))
			delete(c.Container, name)
		}
	}
}

// findCycle follows next from name and returns the way back to it, if there is one.
func findCycle(next func(string) []string, name string, way []string) []string {
	if len(way) > 0 && way[0] == name {
		return append(way, name)
	}
	if slices.Contains(way, name) {
		return nil
	}
	for _, dep := range next(name) {
		if c := findCycle(next, dep, append(slices.Clone(way), name)); c != nil {
			return c
		}
	}
	return nil
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
