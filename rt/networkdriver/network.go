package networkdriver

import (
	"cmp"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"

	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/network"
	"github.com/opencontainers/go-digest"

	"github.com/coble-os/coble/netcfg"
	"github.com/coble-os/coble/rt/containers"
	"github.com/coble-os/coble/rt/fault"
	"github.com/coble-os/coble/rt/networks"
	"github.com/coble-os/coble/rt/store"
)

// Claim marks a container's kept addresses as taken. One that is not in its network any more is given up.
func (d *Driver) Claim(c *containers.Container) {
	leases := maps.Clone(c.Spec().Leases)
	if leases == nil {
		leases = map[string]store.Lease{}
	}
	if a, err := netip.ParseAddr(c.Spec().Address); err == nil { // of an older version
		n, err := d.networks.Get(networks.Default)
		if _, has := leases[n.ID]; err == nil && !has {
			leases[n.ID] = store.Lease{V4: a}
		}
	}
	changed := c.Spec().Address != ""
	for id, l := range leases {
		if _, err := d.networks.Join(id, c.Spec().ID, l.V4, l.V6); err != nil {
			d.o.Log.Warn("address of container is not in the network any more; it gets another at its next start", "container", c.Spec().Name, "err", err)
			delete(leases, id)
			changed = true
		}
	}
	if changed {
		c.SetSpec(func(s *store.Spec) { s.Leases, s.Address = leases, "" })
	}
}

// Release gives the addresses of a container back that is removed.
func (d *Driver) Release(c *containers.Container) {
	for id := range c.Spec().Leases {
		d.networks.Leave(id, c.Spec().ID)
	}
}

// Reserve gives the container its addresses and its host ports, before anything is made.
func (d *Driver) Reserve(c *containers.Container, undo func(func())) ([]store.End, error) {
	spec := c.Spec()
	if m := spec.Host.NetworkMode; m.IsHost() || m.IsNone() || m.IsContainer() {
		return nil, nil
	}
	d.settled.Do(d.settleDefault)
	var ends []store.End
	leases := map[string]store.Lease{}
	for i, name := range networkOrder(spec) {
		end, err := d.join(spec, name)
		if err != nil {
			return nil, err
		}
		end.IfName = fmt.Sprintf("eth%d", i)
		ends = append(ends, end)
		leases[end.Network] = store.Lease{V4: end.V4.Addr(), V6: end.V6.Addr()}
	}
	for id := range spec.Leases { // of networks that it has left while it was stopped
		if _, still := leases[id]; !still {
			d.networks.Leave(id, spec.ID)
		}
	}
	if !maps.Equal(leases, spec.Leases) {
		if err := c.SetSpec(func(s *store.Spec) { s.Leases = leases }); err != nil {
			return nil, err
		}
	}
	ports, err := d.reservePorts(c, ends)
	if err != nil {
		return nil, err
	}
	undo(func() { d.ports.release(c.Spec().ID) })
	c.SetState(func(st *store.State) { st.Ports, st.Ends, st.HostIf = ports, ends, "" })
	return ends, nil
}

// reservePorts takes the host ports that a container publishes.
func (d *Driver) reservePorts(c *containers.Container, ends []store.End) ([]store.PortLease, error) {
	spec := c.Spec()
	if len(ends) == 0 { // it has left every network
		return d.ports.take(spec.ID, published(spec), netip.Addr{})
	}
	n, err := d.networks.Get(ends[0].Network)
	if err != nil {
		return nil, err
	}
	if d.unpublished(d.defaultRoutes(spec, ends)) {
		return nil, nil
	}
	return d.ports.take(spec.ID, published(spec), networks.HostIP(n))
}

// Adopt takes over a container that runs, with its ports and its names; its links are there.
func (d *Driver) Adopt(c *containers.Container) error {
	v := c.View()
	d.ports.claim(v.ID, v.State.Ports)
	return d.names.Resume(c, d.ends(c), v.State.Pid)
}

// networkOrder is pure: the network of the container's mode first, then the others by name.
func networkOrder(spec store.Spec) []string {
	names := slices.Sorted(maps.Keys(spec.Networks))
	mode := string(spec.Host.NetworkMode)
	if i := slices.Index(names, mode); i > 0 {
		names = slices.Insert(slices.Delete(names, i, i+1), 0, mode)
	}
	return names
}

// join gives a container its place in one network.
func (d *Driver) join(spec store.Spec, name string) (store.End, error) {
	n, err := d.networks.Get(name)
	if err != nil {
		return store.End{}, err
	}
	asked := spec.Networks[name]
	had := spec.Leases[n.ID]
	if c := asked.IPAMConfig; c != nil {
		had.V4, had.V6 = orAddr(c.IPv4Address, had.V4), orAddr(c.IPv6Address, had.V6)
	}
	l, err := d.networks.Join(n.ID, spec.ID, had.V4, had.V6)
	if err != nil {
		return store.End{}, err
	}
	end := store.End{Network: n.ID, Name: n.Name, V4: l.V4, V6: l.V6, MAC: net.HardwareAddr(asked.MacAddress).String()}
	if n.Driver == "bridge" {
		end.HostIf = hostIf(spec.ID, n)
	}
	if end.MAC == "" && n.Driver != "ipvlan" { // whose links all have their parent's
		end.MAC = netcfg.MACFor(orAddr(l.V4.Addr(), l.V6.Addr())).String()
	}
	return end, nil
}

// hostIf is the name of the host's end of a container's link.
func hostIf(container string, n network.Network) string {
	if n.Name == networks.Default {
		return "cv" + container[:10]
	}
	return "cv" + digest.FromString(container + n.ID).Encoded()[:10]
}

// Plug makes the links of a container whose process is pid, with undo for each step. It runs while the child waits at its barrier.
func (d *Driver) Plug(c *containers.Container, ends []store.End, pid int, undo func(func())) error {
	if c.Spec().Host.NetworkMode.IsNone() {
		return netcfg.LoopbackUp(pid)
	}
	if len(ends) == 0 {
		return nil
	}
	if err := d.Apply(); err != nil {
		return err
	}
	undo(func() { d.Unplug(c) })
	out := d.defaultRoutes(c.Spec(), ends)
	for _, end := range ends {
		if err := d.plug(c.Spec(), end, pid, out); err != nil {
			return err
		}
		d.endpointEvent(events.ActionConnect, c, end)
	}
	undo(func() { d.names.End(c) })
	return d.names.Serve(c, ends, pid)
}

func (d *Driver) endpointEvent(action events.Action, c *containers.Container, end store.End) {
	if n, err := d.networks.Get(end.Network); err == nil {
		d.networkEvent(action, n, c.Spec().ID)
	}
}

// plug makes one link, with what it may do. The default routes are set with the link that they lead through.
func (d *Driver) plug(spec store.Spec, end store.End, pid int, out routes) error {
	if err := d.makeLink(spec, end, pid, out); err != nil || spec.Bandwidth == (store.Bandwidth{}) {
		return err
	}
	return limit(spec, end, pid, spec.Bandwidth)
}

func (d *Driver) makeLink(spec store.Spec, end store.End, pid int, out routes) error {
	link := netcfg.Endpoint{HostIf: end.HostIf, IfName: end.IfName, Pid: pid, V4: end.V4, V6: end.V6, Free: freeToSend(spec)}
	if end.MAC != "" {
		var err error
		if link.MAC, err = net.ParseMAC(end.MAC); err != nil {
			return fault.As(fault.Invalid, err)
		}
	}
	if end.Network == out.four {
		link.Default4 = out.way4
	}
	if end.Network == out.six {
		link.Default6 = out.way6
	}
	if a, ok := d.networks.Attachment(end.Network); ok {
		return withModules(a.Modules(), func() error { return d.net.Attach(a, link) })
	}
	n, err := d.networks.Kernel(end.Network)
	if err != nil {
		return err
	}
	return d.net.Plug(n, link)
}

// routes are a container's ways to everywhere else, and the networks that they lead through; empty: none.
type routes struct {
	four, six  string // ids
	way4, way6 netcfg.Way
}

// defaultRoutes are, of the networks that lead anywhere, those of that with the highest priority, or else of the first by name.
func (d *Driver) defaultRoutes(spec store.Spec, ends []store.End) (out routes) {
	byRank := slices.Clone(ends)
	slices.SortFunc(byRank, func(a, b store.End) int {
		return cmp.Or(cmp.Compare(priority(spec, b), priority(spec, a)), cmp.Compare(a.Name, b.Name))
	})
	for _, end := range byRank {
		n, err := d.networks.Kernel(end.Network)
		if err != nil || n.Internal {
			continue
		}
		a, _ := d.networks.Attachment(end.Network)
		way := func(gateway netip.Addr) netcfg.Way {
			if a.Routed() {
				return netcfg.Way{Link: end.IfName}
			}
			return netcfg.Way{Gateway: gateway}
		}
		if end.V4.IsValid() && out.four == "" {
			out.four, out.way4 = end.Network, way(n.Gateway4)
		}
		if end.V6.IsValid() && out.six == "" {
			out.six, out.way6 = end.Network, way(n.Gateway6)
		}
	}
	return out
}

func priority(spec store.Spec, end store.End) int {
	if asked := spec.Networks[end.Name]; asked != nil {
		return asked.GwPriority
	}
	return 0
}

// Unplug takes away the links, ports and names of a container that has ended. It needs no Op.
func (d *Driver) Unplug(c *containers.Container) {
	ends := d.ends(c)
	d.names.End(c)
	d.ports.release(c.Spec().ID)
	if len(ends) == 0 {
		return
	}
	for _, end := range ends {
		if end.HostIf != "" { // others go with their namespace
			if err := d.net.Unplug(end.HostIf); err != nil {
				d.o.Log.Error("remove link", "container", c.Spec().Name, "err", err)
			}
		}
		d.endpointEvent(events.ActionDisconnect, c, end)
	}
	if len(c.View().State.Ports) > 0 {
		c.SetState(func(st *store.State) { st.Ports = nil })
		if err := d.Apply(); err != nil {
			d.o.Log.Error("network", "err", err)
		}
	}
}

// ends are the container's links; that of an older version is in the default network.
func (d *Driver) ends(c *containers.Container) []store.End {
	v := c.View()
	if len(v.State.Ends) > 0 || v.State.HostIf == "" {
		return v.State.Ends
	}
	n, err := d.networks.Get(networks.Default)
	if err != nil {
		return nil
	}
	lease := v.Leases[n.ID]
	bits := d.Default().V4.Bits()
	return []store.End{{Network: n.ID, Name: n.Name, HostIf: v.State.HostIf, IfName: "eth0", V4: netip.PrefixFrom(lease.V4, bits), MAC: netcfg.MACFor(lease.V4).String()}}
}
