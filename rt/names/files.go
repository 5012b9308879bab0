package names

import (
	"bufio"
	"errors"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/coble-os/coble/netcfg/dns"
	"github.com/coble-os/coble/rt/containers"
	"github.com/coble-os/coble/rt/fault"
	"github.com/coble-os/coble/rt/networks"
	"github.com/coble-os/coble/rt/store"
)

// Write writes the files that the container sees as /etc/hosts, /etc/hostname and /etc/resolv.conf.
func (n *Names) Write(c *containers.Container, ends []store.End) error {
	hostname := c.Spec().Config.Hostname
	if hostname == "" {
		hostname, _ = os.Hostname()
	}
	return errors.Join(n.writeNetworks(c, ends), write(c, "hostname", hostname+"\n"))
}

// writeNetworks writes those that say of its networks.
func (n *Names) writeNetworks(c *containers.Container, ends []store.End) error {
	return errors.Join(n.writeHosts(c, ends), write(c, "resolv.conf", resolvConf(c.Spec(), named(ends))))
}

// Rewrite writes those anew that change with the networks of a running container, whose process is pid, and starts or ends its
// name server as they want.
func (n *Names) Rewrite(c *containers.Container, ends []store.End, pid int) error {
	if err := n.writeNetworks(c, ends); err != nil {
		return err
	}
	if !named(ends) {
		n.End(c)
	}
	return n.Serve(c, ends, pid)
}

// write writes one of them in place: it may be mounted in the container.
func write(c *containers.Container, name, text string) error {
	return os.WriteFile(filepath.Join(c.RunDir(), name), []byte(text), 0o644)
}

func (n *Names) writeHosts(c *containers.Container, ends []store.End) error {
	if c.Spec().Host.NetworkMode.IsHost() {
		if b, err := os.ReadFile("/etc/hosts"); err == nil {
			return write(c, "hosts", string(b))
		}
	}
	hosts := "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n"
	name := c.Spec().Config.Hostname
	if d := c.Spec().Config.Domainname; d != "" {
		name += "." + d + " " + name
	}
	for _, h := range c.Spec().Host.ExtraHosts {
		host, ip, ok := strings.Cut(h, ":")
		if ip == "host-gateway" {
			def, err := n.networks.Kernel(networks.Default)
			if err != nil {
				return err
			}
			ip = def.Gateway4.String()
		}
		if !ok {
			return fault.New(fault.Invalid, "extra host %q: want name:address", h)
		}
		hosts += ip + "\t" + host + "\n"
	}
	for _, end := range ends {
		for _, p := range []netip.Prefix{end.V4, end.V6} {
			if p.IsValid() {
				hosts += p.Addr().String() + "\t" + name + "\n"
			}
		}
	}
	links, err := n.linkHosts(c)
	if err != nil {
		return err
	}
	hosts += links
	return write(c, "hosts", hosts)
}

// linkHosts are the lines of the containers that this one is linked to in the default network.
func (n *Names) linkHosts(c *containers.Container) (string, error) {
	lines := ""
	for _, link := range c.Spec().Host.Links {
		ref, alias, ok := strings.Cut(link, ":")
		other, err := n.containers.Find(strings.TrimPrefix(ref, "/"))
		if err != nil {
			return "", err
		}
		v := other.View()
		i := slices.IndexFunc(v.State.Ends, func(end store.End) bool { return end.Name == networks.Default })
		if i < 0 || !v.State.Running() {
			return "", fault.New(fault.Conflict, "Cannot link to a non running container: %s: start it first, in the default network", v.Name)
		}
		if !ok {
			alias = v.Name
		}
		lines += v.State.Ends[i].V4.Addr().String() + "\t" + path.Base(alias) + " " + v.Config.Hostname + " " + v.Name + "\n"
	}
	return lines, nil
}

// resolvConf is the host's, without resolvers that only the host can reach, changed by what the container asks for. With a
// name server of its own, that is the one that it asks.
func resolvConf(spec store.Spec, own bool) string {
	h := spec.Host
	var servers, rest []string
	f, err := os.Open("/etc/resolv.conf")
	if err == nil {
		defer f.Close()
		for s := bufio.NewScanner(f); s.Scan(); {
			word := strings.Fields(s.Text())
			switch {
			case len(word) < 2 || strings.HasPrefix(word[0], "#"):
			case word[0] == "nameserver":
				a, err := netip.ParseAddr(word[1])
				if err == nil && (!a.IsLoopback() || h.NetworkMode.IsHost()) {
					servers = append(servers, word[1])
				}
			case word[0] == "search" && len(h.DNSSearch) > 0, word[0] == "options" && len(h.DNSOptions) > 0:
			default:
				rest = append(rest, s.Text())
			}
		}
	}
	if len(h.DNS) > 0 {
		servers = nil
		for _, a := range h.DNS {
			servers = append(servers, a.String())
		}
	}
	if own {
		servers = []string{dns.Address.String()}
		if !slices.ContainsFunc(rest, func(line string) bool { return strings.HasPrefix(line, "options") }) && len(h.DNSOptions) == 0 {
			rest = append(rest, "options ndots:0")
		}
	}
	var b strings.Builder
	for _, s := range servers {
		b.WriteString("nameserver " + s + "\n")
	}
	for _, r := range rest {
		b.WriteString(r + "\n")
	}
	if len(h.DNSSearch) > 0 {
		b.WriteString("search " + strings.Join(h.DNSSearch, " ") + "\n")
	}
	if len(h.DNSOptions) > 0 {
		b.WriteString("options " + strings.Join(h.DNSOptions, " ") + "\n")
	}
	return b.String()
}
