package networkdriver

import (
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/network"

	"github.com/coble-os/coble/netcfg"
	"github.com/coble-os/coble/rt/containers"
	"github.com/coble-os/coble/rt/fault"
	"github.com/coble-os/coble/rt/networks"
	"github.com/coble-os/coble/rt/store"
)

// portKey is a port of the host's, on whichever of its addresses.
type portKey struct {
	proto string
	port  uint16
}

// portUse is a container's use of a port.
type portUse struct {
	ip string // empty: every address
	id string // of the container
}

// reservePorts takes the host ports that the container publishes, or says who has one.
func (d *Driver) reservePorts(c *containers.Container, ends []store.End) ([]store.PortLease, error) {
	var leases []store.PortLease
	var usual netip.Addr // where nothing is said
	if len(ends) > 0 {
		n, err := d.networks.Get(ends[0].Network)
		if err != nil {
			return nil, err
		}
		usual = networks.HostIP(n)
	}
	if out := d.defaultRoutes(c.Spec(), ends); len(ends) > 0 && d.unpublished(out) {
		return nil, nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for port, bindings := range published(c.Spec()) {
		for _, b := range bindings {
			lease := store.PortLease{Proto: string(port.Proto()), ContainerPort: port.Num()}
			switch ip := orAddr(b.HostIP, usual); {
			case ip.IsValid() && ip.IsUnspecified():
				lease.Everywhere = true
			case ip.IsValid():
				lease.HostIP = ip.String()
			}
			low, high, err := hostPorts(b.HostPort)
			if err == nil {
				lease.HostPort, err = d.freePort(c.Spec().ID, lease, low, high)
			}
			if err != nil {
				d.dropPorts(c.Spec().ID)
				return nil, err
			}
			d.usePort(lease, c.Spec().ID)
			leases = append(leases, lease)
		}
	}
	return leases, nil
}

// published is pure: the ports that are asked for, and with -P all that the image exposes.
func published(spec store.Spec) network.PortMap {
	if !spec.Host.PublishAllPorts {
		return spec.Host.PortBindings
	}
	all := maps.Clone(spec.Host.PortBindings)
	if all == nil {
		all = network.PortMap{}
	}
	for p := range spec.Config.ExposedPorts {
		if len(all[p]) == 0 {
			all[p] = []network.PortBinding{{}}
		}
	}
	return all
}

// hostPorts reads "", "8080" or "8000-8010".
func hostPorts(s string) (low, high uint16, err error) {
	if s == "" || s == "0" {
		return 32768, 60999, nil
	}
	a, b, ranged := strings.Cut(s, "-")
	if !ranged {
		b = a
	}
	l, err1 := strconv.ParseUint(a, 10, 16)
	h, err2 := strconv.ParseUint(b, 10, 16)
	if err1 != nil || err2 != nil || l == 0 || h < l {
		return 0, 0, fault.New(fault.Invalid, "invalid host port %q", s)
	}
	return uint16(l), uint16(h), nil
}

// freePort finds a port in [low, high] that no container has. Called with mu held.
func (d *Driver) freePort(id string, lease store.PortLease, low, high uint16) (uint16, error) {
	holder, foreign := "", false
	for p := uint32(low); p <= uint32(high); p++ {
		lease.HostPort = uint16(p)
		if holder = d.portHolder(lease); holder != "" {
			continue
		}
		if netcfg.InUse(lease.Proto, lease.HostIP, lease.HostPort) {
			holder = ""
			foreign = true
			continue
		}
		return lease.HostPort, nil
	}
	if foreign {
		if holder = netcfg.Holder(lease.Proto, lease.HostIP, low); holder == "" {
			holder = "a program that is not seen from here"
		}
		return 0, fault.New(fault.Conflict, "publish port %d/%s: failed to bind host port %s:%d: address already in use by %s", low, lease.Proto, orAny(lease.HostIP), low, holder)
	}
	if c := d.o.Containers.ByID(holder); c != nil {
		holder = "container " + c.Spec().Name
	}
	return 0, fault.New(fault.Conflict, "Bind for %s:%d failed: port is already allocated by %s", orAny(lease.HostIP), low, holder)
}

func orAny(ip string) string {
	if ip == "" {
		return "0.0.0.0"
	}
	return ip
}

// portHolder says which container has the port on that address or on all. Called with mu held.
func (d *Driver) portHolder(l store.PortLease) string {
	for _, use := range d.ports[keyOf(l)] {
		if use.ip == "" || l.HostIP == "" || use.ip == l.HostIP {
			return use.id
		}
	}
	return ""
}

func keyOf(l store.PortLease) portKey { return portKey{l.Proto, l.HostPort} }

// usePort notes that a container has a port. Called with mu held.
func (d *Driver) usePort(l store.PortLease, id string) {
	d.ports[keyOf(l)] = append(d.ports[keyOf(l)], portUse{l.HostIP, id})
}

// Adopt takes over a container that runs, with its ports and its names; its links are there.
func (d *Driver) Adopt(c *containers.Container) error {
	v := c.View()
	d.mu.Lock()
	for _, l := range v.State.Ports {
		d.usePort(l, v.ID)
	}
	d.mu.Unlock()
	return d.names.Resume(c, d.ends(c), v.State.Pid)
}

func (d *Driver) releasePorts(c *containers.Container) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.dropPorts(c.Spec().ID)
}

func (d *Driver) dropPorts(id string) {
	for k, uses := range d.ports {
		if uses = slices.DeleteFunc(uses, func(u portUse) bool { return u.id == id }); len(uses) == 0 {
			delete(d.ports, k)
		} else {
			d.ports[k] = uses
		}
	}
}
