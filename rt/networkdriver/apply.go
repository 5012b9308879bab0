package networkdriver

import (
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/coble-os/coble/netcfg"
	"github.com/coble-os/coble/rt/containers"
	"github.com/coble-os/coble/rt/networks"
	"github.com/coble-os/coble/rt/store"
)

// Apply tells the network what is wanted: the networks that were made, and the ports of every container that runs
// or starts. The default network is wanted from its first use on.
func (d *Driver) Apply() error {
	// What was seen first is also said first: what is said later would take away the links of those who started between.
	d.applying.Lock()
	defer d.applying.Unlock()
	all := d.o.Containers.All()
	c := netcfg.Config{Links: make(map[string]netcfg.Link, len(all))}
	used, where := false, d.newPlaces()
	for _, ct := range all {
		s := d.shareOf(ct)
		for _, l := range s.links {
			c.Links[l.Name] = l
		}
		used = used || s.inDefault
		if !s.publishes {
			continue
		}
		ports, err := d.portTargets(ct.View(), d.ends(ct), where)
		if err != nil {
			return err
		}
		c.Ports = append(c.Ports, ports...)
	}
	if len(d.shares) > len(all) {
		maps.DeleteFunc(d.shares, func(c *containers.Container, _ *share) bool { return c.Removed() })
	}
	for _, n := range d.networks.All() {
		if a, ok := d.networks.Attachment(n.ID); ok {
			c.Attached = append(c.Attached, a)
		}
		if n.Driver != "bridge" || n.Name == networks.Default && !used && !netcfg.Exists(d.bridge) {
			continue
		}
		k, err := d.networks.Kernel(n.ID)
		if err != nil {
			return err
		}
		c.Networks = append(c.Networks, k)
	}
	if err := d.net.Set(c); err != nil {
		return err
	}
	where.told()
	d.replug(all, d.net.Missing())
	problems := []error{d.net.Loose(), d.net.Lacks()}
	for _, n := range c.Networks {
		problems = append(problems, d.net.Taken(n.Bridge))
	}
	for _, err := range problems {
		if err != nil {
			d.o.Once(err.Error())
		}
	}
	return nil
}

// share is what one container has of what is wanted, at a version of it.
type share struct {
	version   uint64
	links     []netcfg.Link // on bridges; none unless it runs or starts
	inDefault bool          // it is in the default network
	publishes bool          // it has ports
}

// shareOf looks at a container that has changed since it was looked at: there may be a thousand others. Called with applying held.
func (d *Driver) shareOf(c *containers.Container) *share {
	version := c.Version()
	if s := d.shares[c]; s != nil && s.version == version {
		return s
	}
	s := &share{version: version}
	if v := c.View(); v.State.Running() || v.State.Starting {
		for _, end := range d.ends(c) {
			if end.HostIf != "" {
				s.links = append(s.links, d.linkOf(v.Spec, end))
			}
			s.inDefault = s.inDefault || end.Name == networks.Default
		}
		s.publishes = len(v.State.Ports) > 0
	}
	d.shares[c] = s
	return s
}

// linkOf is what a container may send: whoever may administer its network may give it other addresses too, and does so for a
// reason (keepalived, say).
func (d *Driver) linkOf(spec store.Spec, end store.End) netcfg.Link {
	n, _ := d.networks.Kernel(end.Network) // one that is gone has no bridge
	l := netcfg.Link{Name: end.HostIf, Bridge: n.Bridge, V4: end.V4.Addr(), V6: end.V6.Addr()}
	if !freeToSend(spec) {
		l.MAC, _ = net.ParseMAC(end.MAC)
	}
	return l
}

func freeToSend(spec store.Spec) bool {
	admin := func(c string) bool {
		c = strings.TrimPrefix(strings.ToUpper(c), "CAP_")
		return c == "NET_ADMIN" || c == "ALL"
	}
	return spec.Host.Privileged || slices.ContainsFunc(spec.Host.CapAdd, admin)
}

// portTargets are where the container's published ports lead: to its address in the network of its default route, if that is
// a bridge. In others it is reached at its own address. Without where nothing is said of from where they are reached.
func (d *Driver) portTargets(v containers.View, ends []store.End, where *places) ([]netcfg.Port, error) {
	out := d.defaultRoutes(v.Spec, ends)
	var ports []netcfg.Port
	for _, end := range ends {
		if end.HostIf == "" {
			continue
		}
		for _, p := range v.State.Ports {
			ip, _ := netip.ParseAddr(p.HostIP)
			to := netcfg.Port{Proto: p.Proto, HostIP: ip, HostPort: p.HostPort}
			if where != nil && followsListen(p) {
				var err error
				if to.Listen, err = where.of(v.Listen); err != nil {
					return nil, err
				}
			}
			if end.Network == out.four && !ip.Is6() {
				to.To = netip.AddrPortFrom(end.V4.Addr(), p.ContainerPort)
				ports = append(ports, to)
			}
			if end.Network == out.six && !ip.Is4() {
				to.To = netip.AddrPortFrom(end.V6.Addr(), p.ContainerPort)
				ports = append(ports, to)
			}
		}
	}
	return ports, nil
}
