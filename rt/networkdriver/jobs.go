package networkdriver

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/network"

	"github.com/coble-os/coble/netcfg"
	"github.com/coble-os/coble/rt/containers"
	"github.com/coble-os/coble/rt/fault"
	"github.com/coble-os/coble/rt/job"
	"github.com/coble-os/coble/rt/networks"
	"github.com/coble-os/coble/rt/store"
)

// Networks lists all networks by name.
func (d *Driver) Networks() []network.Network { return d.networks.All() }

// Network finds one by name, id or the beginning of that.
func (d *Driver) Network(ref string) (network.Network, error) { return d.networks.Get(ref) }

// Gateways are the host's own addresses in a network, not valid where it has none.
func (d *Driver) Gateways(id string) (v4, v6 netip.Addr) {
	n, err := d.networks.Kernel(id)
	if err != nil {
		return v4, v6
	}
	return n.Gateway4, n.Gateway6
}

// Member is a container in a network.
type Member struct {
	ID, Name string
	End      store.End
}

// Members are the containers that run in a network.
func (d *Driver) Members(id string) []Member {
	var out []Member
	for _, c := range d.o.Containers.All() {
		v := c.View()
		if !v.State.Running() && !v.State.Starting {
			continue
		}
		for _, end := range d.ends(c) {
			if end.Network == id {
				out = append(out, Member{v.ID, v.Name, end})
			}
		}
	}
	return out
}

func (d *Driver) networkEvent(action events.Action, n network.Network, container string) {
	a := map[string]string{"name": n.Name, "type": n.Driver}
	if container != "" {
		a["container"] = container
	}
	d.o.Emit(events.NetworkEventType, action, n.ID, a)
}

// createNetwork makes a network, and its bridge or parent.
func (d *Driver) createNetwork(_ *job.Job, n network.Network) (network.Network, error) {
	if networks.Predefined(n.Name) {
		return n, fault.New(fault.Forbidden, "operation is not permitted on predefined %s network", n.Name)
	}
	n.ID, n.Created = containers.NewID(), time.Now()
	n, err := d.networks.Create(n)
	if err != nil {
		return n, err
	}
	if err = d.bridgeFree(n.ID); err == nil {
		err = d.Apply()
	}
	if err == nil {
		err = d.makeParent(n.ID)
	}
	if err != nil {
		d.networks.Remove(n.ID)
		return n, fmt.Errorf("create network %s: %w", n.Name, err)
	}
	d.networkEvent(events.ActionCreate, n, "")
	return n, nil
}

// bridgeFree refuses a bridge that is somebody else's.
func (d *Driver) bridgeFree(id string) error {
	if _, attached := d.networks.Attachment(id); attached {
		return nil
	}
	k, err := d.networks.Kernel(id)
	if err != nil {
		return err
	}
	return fault.As(fault.Conflict, d.net.Free(k))
}

func (d *Driver) removeNetwork(_ *job.Job, ref string) (any, error) {
	n, err := d.networks.Get(ref)
	if err != nil {
		return nil, err
	}
	if m := d.Members(n.ID); len(m) > 0 && !networks.Predefined(n.Name) {
		return nil, fault.New(fault.Forbidden, "error while removing network: network %s has active endpoints (name:%q id:%q): disconnect or stop them first", n.Name, m[0].Name, m[0].ID[:12])
	}
	if err := d.networks.Remove(n.ID); err != nil {
		return nil, err
	}
	d.networkEvent(events.ActionDestroy, n, "")
	if err := d.Apply(); err != nil {
		return nil, fmt.Errorf("remove bridge of network %s: %w", n.Name, err)
	}
	return nil, nil
}

// PruneNetworksIn says which networks without members go.
type PruneNetworksIn struct {
	Until time.Time // only those made before, if not zero
	Want  func(labels map[string]string) bool
}

func (d *Driver) pruneNetworks(j *job.Job, in PruneNetworksIn) ([]string, error) {
	gone := []string{}
	for _, n := range d.networks.All() {
		if networks.Predefined(n.Name) || d.wanted(n) || !in.Until.IsZero() && !n.Created.Before(in.Until) || !in.Want(n.Labels) {
			continue
		}
		if _, err := d.removeNetwork(j, n.ID); err != nil {
			return gone, err
		}
		gone = append(gone, n.Name)
	}
	return gone, nil
}

// wanted tells whether any container is to be in the network, running or not.
func (d *Driver) wanted(n network.Network) bool {
	return slices.ContainsFunc(d.o.Containers.All(), func(c *containers.Container) bool {
		_, named := c.Spec().Networks[n.Name]
		return named
	})
}

// ConnectIn asks for a container's place in one more network.
type ConnectIn struct {
	Network, Container string
	Settings           *network.EndpointSettings
}

// networkAnd finds a network and a container.
func (d *Driver) networkAnd(ref, container string) (network.Network, *containers.Container, error) {
	n, err := d.networks.Get(ref)
	if err != nil {
		return n, nil, err
	}
	c, err := d.o.Containers.Find(container)
	return n, c, err
}

func (d *Driver) connect(_ *job.Job, in ConnectIn) (any, error) {
	n, c, err := d.networkAnd(in.Network, in.Container)
	if err != nil {
		return nil, err
	}
	c.Op.Lock()
	defer c.Op.Unlock()
	spec := c.Spec()
	switch m := spec.Host.NetworkMode; {
	case n.Driver == "host" || n.Driver == "null" || m.IsHost() || m.IsContainer():
		return nil, fault.New(fault.Invalid, "container %s cannot be connected to network %s: one that shares the network of the host or of another container has no other, and the network host is none to join", spec.Name, n.Name)
	case spec.Networks[n.Name] != nil:
		return nil, fault.New(fault.Forbidden, "endpoint with name %s already exists in network %s", spec.Name, n.Name)
	}
	settings := in.Settings.Copy()
	if settings == nil {
		settings = &network.EndpointSettings{}
	}
	if err := checkEndpoint(n, settings); err != nil {
		return nil, err
	}
	next := spec
	next.Networks, next.Leases = maps.Clone(spec.Networks), maps.Clone(spec.Leases)
	next.Networks[n.Name] = settings
	if next.Host.NetworkMode.IsNone() {
		delete(next.Networks, networks.None)
		next.Host.NetworkMode = container.NetworkMode(n.Name)
	}
	if !c.Running() {
		return nil, putNetworks(c, next)
	}
	return nil, d.connectRunning(c, n, next)
}

// connectRunning plugs one more link into a container, whose record becomes next. The caller holds op.
func (d *Driver) connectRunning(c *containers.Container, n network.Network, next store.Spec) error {
	end, err := d.join(next, n.Name)
	if err != nil {
		return err
	}
	before, had := c.Spec(), d.ends(c)
	end.IfName = freeIfName(had)
	ends := append(slices.Clone(had), end)
	if next.Leases == nil {
		next.Leases = map[string]store.Lease{}
	}
	next.Leases[n.ID] = store.Lease{V4: end.V4.Addr(), V6: end.V6.Addr()}
	undo := func(err error) error {
		c.SetState(func(st *store.State) { st.Ends = had })
		err = errors.Join(err, putNetworks(c, before), d.unplug(end, c.View().State.Pid))
		d.networks.Leave(n.ID, before.ID)
		return err
	}
	// First what is wanted, then the kernel: an engine that dies in between leaves nothing that the next does not know.
	if err := putNetworks(c, next); err != nil {
		return undo(err)
	}
	c.SetState(func(st *store.State) { st.Ends, st.HostIf = ends, "" })
	pid := c.View().State.Pid
	if err := d.plug(next, end, pid, routes{}); err != nil {
		return undo(err)
	}
	if err := d.reroute(c, next, ends, pid); err != nil {
		return undo(err)
	}
	d.networkEvent(events.ActionConnect, n, before.ID)
	return nil
}

// putNetworks writes down what next says of networks.
func putNetworks(c *containers.Container, next store.Spec) error {
	return c.SetSpec(func(s *store.Spec) {
		s.Networks, s.Leases, s.Host.NetworkMode = next.Networks, next.Leases, next.Host.NetworkMode
	})
}

// reroute sets the default routes anew, the ports' targets and the container's own names.
func (d *Driver) reroute(c *containers.Container, spec store.Spec, ends []store.End, pid int) error {
	out := d.defaultRoutes(spec, ends)
	if err := netcfg.SetDefault(pid, out.way4, out.way6); err != nil {
		return err
	}
	return errors.Join(d.names.Rewrite(c, ends, pid), d.Apply())
}

// freeIfName is pure: the first ethN that no end has.
func freeIfName(ends []store.End) string {
	for i := 0; ; i++ {
		name := fmt.Sprintf("eth%d", i)
		if !slices.ContainsFunc(ends, func(end store.End) bool { return end.IfName == name }) {
			return name
		}
	}
}

// DisconnectIn asks for a container's way out of a network.
type DisconnectIn struct {
	Network, Container string
	Force              bool // nothing more than without: there is no other way
}

func (d *Driver) disconnect(_ *job.Job, in DisconnectIn) (any, error) {
	n, c, err := d.networkAnd(in.Network, in.Container)
	if err != nil {
		return nil, err
	}
	c.Op.Lock()
	defer c.Op.Unlock()
	spec := c.Spec()
	if spec.Networks[n.Name] == nil || n.Driver == "host" || n.Driver == "null" {
		return nil, fault.New(fault.Forbidden, "container %s is not connected to network %s", spec.Name, n.Name)
	}
	asked := maps.Clone(spec.Networks)
	delete(asked, n.Name)
	leases := maps.Clone(spec.Leases)
	delete(leases, n.ID)
	if err := c.SetSpec(func(s *store.Spec) { s.Networks, s.Leases = asked, leases }); err != nil {
		return nil, err
	}
	defer d.networks.Leave(n.ID, spec.ID)
	if !c.Running() {
		return nil, nil
	}
	kept := slices.Clone(d.ends(c))
	var left store.End
	kept = slices.DeleteFunc(kept, func(end store.End) bool {
		if end.Network != n.ID {
			return false
		}
		left = end
		return true
	})
	c.SetState(func(st *store.State) { st.Ends, st.HostIf = kept, "" })
	if err := d.unplug(left, c.View().State.Pid); err != nil {
		return nil, err
	}
	d.networkEvent(events.ActionDisconnect, n, spec.ID)
	return nil, d.reroute(c, c.Spec(), kept, c.View().State.Pid)
}

// checkEndpoint refuses what cannot be had in a network.
func checkEndpoint(n network.Network, s *network.EndpointSettings) error {
	if len(s.DriverOpts) > 0 {
		return fault.New(fault.Unsupported, "network %s: coble has no driver options of an endpoint", n.Name)
	}
	if len(s.MacAddress) > 0 && n.Driver == "ipvlan" {
		return fault.New(fault.Invalid, "network %s: links of ipvlan all have their parent's MAC address, and can have no other", n.Name)
	}
	c := s.IPAMConfig
	if c == nil {
		return nil
	}
	if (c.IPv4Address.IsValid() || c.IPv6Address.IsValid()) && n.Name == networks.Default {
		return fault.New(fault.Invalid, "invalid config for network %s: invalid endpoint settings:\nuser specified IP address is supported on user defined networks only", n.Name)
	}
	if len(c.LinkLocalIPs) > 0 {
		return fault.New(fault.Unsupported, "network %s: coble gives no link-local addresses", n.Name)
	}
	return nil
}

// Check names each network by its own name. One that there is not keeps the name that it has: the start says so, as
// Docker has it, whose client takes a missing object at creation for the image.
func (d *Driver) Check(spec *store.Spec) error {
	if m := spec.Host.NetworkMode; m.IsContainer() {
		return nil
	}
	named := map[string]*network.EndpointSettings{}
	for ref, settings := range spec.Networks {
		n, err := d.networks.Get(ref)
		if fault.KindOf(err) == fault.NotFound {
			named[ref] = settings
			continue
		}
		if err != nil {
			return err
		}
		if err := checkEndpoint(n, settings); err != nil {
			return err
		}
		if ref == string(spec.Host.NetworkMode) {
			spec.Host.NetworkMode = container.NetworkMode(n.Name)
		}
		named[n.Name] = settings
	}
	if (named[networks.Host] != nil || named[networks.None] != nil) && len(named) > 1 {
		return fault.New(fault.Invalid, "conflicting options: the networks host and none go with no other")
	}
	spec.Networks = named
	return nil
}
