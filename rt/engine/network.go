package engine

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/network"

	"github.com/coble-os/coble/netcfg"
	"github.com/coble-os/coble/rt/containers"
	"github.com/coble-os/coble/rt/fault"
	"github.com/coble-os/coble/rt/networks"
	"github.com/coble-os/coble/rt/store"
)

func (e *Engine) openNetwork() error {
	subnet, err := e.chooseSubnet()
	if err != nil {
		return err
	}
	e.net = netcfg.New(e.name)
	if e.o.Network.Proxy {
		e.net.UseProxy()
	}
	e.listen.names, e.listen.uplinks = e.o.Network.Listen, e.o.Network.Uplinks
	e.networks, err = networks.Open(networks.Options{
		DB: e.store.Durable, FixID: func(name string) string { return hashString(e.id + "/network/" + name) },
		Bridge: e.bridgeName(), Subnet: subnet, MTU: e.o.Network.MTU,
	})
	if e.networks != nil && err != nil {
		e.Problem(err.Error())
		return nil
	}
	return err
}

func (e *Engine) bridgeName() string { return BridgeName(e.name) }

// BridgeName is the bridge of the instance.
func BridgeName(instance string) string {
	if instance == "coble" {
		return "coble0"
	}
	return instance
}

// chooseSubnet keeps the network that the installation has, unless it is told another.
func (e *Engine) chooseSubnet() (netip.Prefix, error) {
	if s := e.o.Network.Subnet; s != "" {
		p, err := netip.ParsePrefix(s)
		if err != nil || !p.Addr().Is4() || p.Bits() > 30 {
			return p, fmt.Errorf("network subnet %q: want an IPv4 prefix such as 10.88.0.0/24", s)
		}
		return p.Masked(), nil
	}
	if kept, err := netip.ParsePrefix(string(e.store.Meta("subnet"))); err == nil {
		return kept, nil
	}
	subnet, err := netcfg.FreeSubnet()
	if err != nil {
		return subnet, err
	}
	return subnet, e.store.PutMeta("subnet", []byte(subnet.String()))
}

// defaultNetwork is the one named bridge.
func (e *Engine) defaultNetwork() netcfg.Network {
	n, err := e.networks.Kernel(networks.Default)
	if err != nil {
		panic(err) // it is always there
	}
	return n
}

// claimLeases marks a container's kept addresses as taken. One that is not in its network any more is given up.
func (e *Engine) claimLeases(c *ctr) {
	leases := maps.Clone(c.Spec().Leases)
	if leases == nil {
		leases = map[string]store.Lease{}
	}
	if a, err := netip.ParseAddr(c.Spec().Address); err == nil { // of an older version
		n, err := e.networks.Get(networks.Default)
		if _, has := leases[n.ID]; err == nil && !has {
			leases[n.ID] = store.Lease{V4: a}
		}
	}
	changed := c.Spec().Address != ""
	for id, l := range leases {
		if _, err := e.networks.Join(id, c.Spec().ID, l.V4, l.V6); err != nil {
			e.log.Warn("address of container is not in the network any more; it gets another at its next start", "container", c.Spec().Name, "err", err)
			delete(leases, id)
			changed = true
		}
	}
	if changed {
		c.SetSpec(func(s *store.Spec) { s.Leases, s.Address = leases, "" })
	}
}

func (e *Engine) releaseLeases(c *ctr) {
	for id := range c.Spec().Leases {
		e.networks.Leave(id, c.Spec().ID)
	}
}

// reserveNetwork gives the container its addresses and its host ports, before anything is made.
func (e *Engine) reserveNetwork(c *ctr, u *undo) ([]store.End, error) {
	spec := c.Spec()
	if m := spec.Host.NetworkMode; m.IsHost() || m.IsNone() || m.IsContainer() {
		return nil, nil
	}
	e.settled.Do(e.settleDefault)
	var ends []store.End
	leases := map[string]store.Lease{}
	for i, name := range networkOrder(spec) {
		end, err := e.join(spec, name)
		if err != nil {
			return nil, err
		}
		end.IfName = fmt.Sprintf("eth%d", i)
		ends = append(ends, end)
		leases[end.Network] = store.Lease{V4: end.V4.Addr(), V6: end.V6.Addr()}
	}
	for id := range spec.Leases { // of networks that it has left while it was stopped
		if _, still := leases[id]; !still {
			e.networks.Leave(id, spec.ID)
		}
	}
	if !maps.Equal(leases, spec.Leases) {
		if err := c.SetSpec(func(s *store.Spec) { s.Leases = leases }); err != nil {
			return nil, err
		}
	}
	ports, err := e.reservePorts(c, ends)
	if err != nil {
		return nil, err
	}
	u.add(func() { e.releasePorts(c) })
	c.SetState(func(st *store.State) { st.Ports, st.Ends, st.HostIf = ports, ends, "" })
	return ends, nil
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
func (e *Engine) join(spec store.Spec, name string) (store.End, error) {
	n, err := e.networks.Get(name)
	if err != nil {
		return store.End{}, err
	}
	asked := spec.Networks[name]
	had := spec.Leases[n.ID]
	if c := asked.IPAMConfig; c != nil {
		had.V4, had.V6 = orAddr(c.IPv4Address, had.V4), orAddr(c.IPv6Address, had.V6)
	}
	l, err := e.networks.Join(n.ID, spec.ID, had.V4, had.V6)
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

func orAddr(a, b netip.Addr) netip.Addr {
	if a.IsValid() {
		return a
	}
	return b
}

// hostIf is the name of the host's end of a container's link.
func hostIf(container string, n network.Network) string {
	if n.Name == networks.Default {
		return "cv" + container[:10]
	}
	sum := sha256.Sum256([]byte(container + n.ID))
	return "cv" + hex.EncodeToString(sum[:5])
}

// plugNetwork runs while the child waits at its barrier.
func (e *Engine) plugNetwork(c *ctr, ends []store.End, pid int, u *undo) error {
	if c.Spec().Host.NetworkMode.IsNone() {
		return netcfg.LoopbackUp(pid)
	}
	if len(ends) == 0 {
		return nil
	}
	if err := e.applyNetwork(); err != nil {
		return err
	}
	u.add(c.unplugNetwork)
	out := e.defaultRoutes(c.Spec(), ends)
	for _, end := range ends {
		if err := e.plug(c.Spec(), end, pid, out); err != nil {
			return err
		}
		e.endpointEvent(events.ActionConnect, c, end)
	}
	u.add(c.endNames)
	return c.serveNames(ends, pid)
}

func (e *Engine) endpointEvent(action events.Action, c *ctr, end store.End) {
	if n, err := e.networks.Get(end.Network); err == nil {
		e.networkEvent(action, n, c.Spec().ID)
	}
}

// plug makes one link, with what it may do. The default routes are set with the link that they lead through.
func (e *Engine) plug(spec store.Spec, end store.End, pid int, out routes) error {
	if err := e.makeLink(spec, end, pid, out); err != nil || spec.Bandwidth == (store.Bandwidth{}) {
		return err
	}
	return limit(spec, end, pid, spec.Bandwidth)
}

func (e *Engine) makeLink(spec store.Spec, end store.End, pid int, out routes) error {
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
	if a, ok := e.networks.Attachment(end.Network); ok {
		return withModules(a.Modules(), func() error { return e.net.Attach(a, link) })
	}
	n, err := e.networks.Kernel(end.Network)
	if err != nil {
		return err
	}
	return e.net.Plug(n, link)
}

// routes are a container's ways to everywhere else, and the networks that they lead through; empty: none.
type routes struct {
	four, six  string // ids
	way4, way6 netcfg.Way
}

// defaultRoutes are, of the networks that lead anywhere, those of that with the highest priority, or else of the first by name.
func (e *Engine) defaultRoutes(spec store.Spec, ends []store.End) (out routes) {
	byRank := slices.Clone(ends)
	slices.SortFunc(byRank, func(a, b store.End) int {
		return cmp.Or(cmp.Compare(priority(spec, b), priority(spec, a)), cmp.Compare(a.Name, b.Name))
	})
	for _, end := range byRank {
		n, err := e.networks.Kernel(end.Network)
		if err != nil || n.Internal {
			continue
		}
		a, _ := e.networks.Attachment(end.Network)
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

func (c *ctr) unplugNetwork() {
	ends := c.ends()
	c.endNames()
	c.e.releasePorts(c)
	if len(ends) == 0 {
		return
	}
	for _, end := range ends {
		if end.HostIf != "" { // others go with their namespace
			if err := c.e.net.Unplug(end.HostIf); err != nil {
				c.e.log.Error("remove link", "container", c.Spec().Name, "err", err)
			}
		}
		c.e.endpointEvent(events.ActionDisconnect, c, end)
	}
	if len(c.View().State.Ports) > 0 {
		c.SetState(func(st *store.State) { st.Ports = nil })
		if err := c.e.applyNetwork(); err != nil {
			c.e.log.Error("network", "err", err)
		}
	}
}

// ends are the container's links; that of an older version is in the default network.
func (c *ctr) ends() []store.End {
	v := c.View()
	if len(v.State.Ends) > 0 || v.State.HostIf == "" {
		return v.State.Ends
	}
	n, err := c.e.networks.Get(networks.Default)
	if err != nil {
		return nil
	}
	lease := v.Leases[n.ID]
	bits := c.e.defaultNetwork().V4.Bits()
	return []store.End{{Network: n.ID, Name: n.Name, HostIf: v.State.HostIf, IfName: "eth0", V4: netip.PrefixFrom(lease.V4, bits), MAC: netcfg.MACFor(lease.V4).String()}}
}

// applyNetwork tells the network what is wanted: the networks that were made, and the ports of every container that runs
// or starts. The default network is wanted from its first use on.
func (e *Engine) applyNetwork() error {
	// What was seen first is also said first: what is said later would take away the links of those who started between.
	e.applying.Lock()
	defer e.applying.Unlock()
	c := netcfg.Config{Links: map[string]netcfg.Link{}}
	used, where := false, e.newPlaces()
	for _, ct := range e.all() {
		v := ct.View()
		if !v.State.Running() && !v.State.Starting {
			continue
		}
		ends := ct.ends()
		for _, end := range ends {
			if end.HostIf != "" {
				c.Links[end.HostIf] = e.linkOf(v.Spec, end)
			}
			used = used || end.Name == networks.Default
		}
		ports, err := e.portTargets(v, ends, where)
		if err != nil {
			return err
		}
		c.Ports = append(c.Ports, ports...)
	}
	for _, n := range e.networks.All() {
		if a, ok := e.networks.Attachment(n.ID); ok {
			c.Attached = append(c.Attached, a)
		}
		if n.Driver != "bridge" || n.Name == networks.Default && !used && !netcfg.Exists(e.bridgeName()) {
			continue
		}
		k, err := e.networks.Kernel(n.ID)
		if err != nil {
			return err
		}
		c.Networks = append(c.Networks, k)
	}
	if err := e.net.Set(c); err != nil {
		return err
	}
	where.told()
	e.replug(e.net.Missing())
	problems := []error{e.net.Loose(), e.net.Lacks()}
	for _, n := range c.Networks {
		problems = append(problems, e.net.Taken(n.Bridge))
	}
	for _, err := range problems {
		if err != nil {
			e.problemOnce(err.Error())
		}
	}
	return nil
}

// linkOf is what a container may send: whoever may administer its network may give it other addresses too, and does so for a
// reason (keepalived, say).
func (e *Engine) linkOf(spec store.Spec, end store.End) netcfg.Link {
	n, _ := e.networks.Kernel(end.Network) // one that is gone has no bridge
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
// a bridge. In others it is reached at its own address.
func (e *Engine) portTargets(v containers.View, ends []store.End, where *places) ([]netcfg.Port, error) {
	out := e.defaultRoutes(v.Spec, ends)
	var ports []netcfg.Port
	for _, end := range ends {
		if end.HostIf == "" {
			continue
		}
		for _, p := range v.State.Ports {
			ip, _ := netip.ParseAddr(p.HostIP)
			to := netcfg.Port{Proto: p.Proto, HostIP: ip, HostPort: p.HostPort}
			if followsListen(p) {
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
