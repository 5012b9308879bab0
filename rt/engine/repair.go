package engine

import (
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"

	"github.com/moby/moby/api/types/container"

	"github.com/coble-os/coble/netcfg"
	"github.com/coble-os/coble/rt/networks"
	"github.com/coble-os/coble/rt/store"
)

// settleDefault looks, before the default network is used for the first time, whether somebody else has come to route its
// subnet since it was chosen, another engine for instance; then it chooses another. One that the owner named stays.
func (e *Engine) settleDefault() {
	if e.o.Network.Subnet != "" || netcfg.Exists(e.bridgeName()) {
		return
	}
	n, err := e.networks.Get(networks.Default)
	if err == nil {
		err = e.moveDefault(n.ID)
	}
	if err != nil {
		e.Problem("network " + networks.Default + ": " + err.Error())
	}
}

func (e *Engine) moveDefault(id string) error {
	if free, err := netcfg.Unrouted(e.defaultNetwork().V4); free || err != nil {
		return err
	}
	var taken []netip.Prefix
	for _, n := range e.networks.All() {
		for _, c := range n.IPAM.Config {
			taken = append(taken, c.Subnet)
		}
	}
	subnet, err := netcfg.FreeSubnet(taken...)
	if err != nil {
		return err
	}
	e.log.Warn("the host routes the default network's subnet to somewhere else; it gets another, and its containers other addresses", "subnet", subnet)
	if err := e.store.PutMeta("subnet", []byte(subnet.String())); err != nil {
		return err
	}
	if err := e.networks.MoveDefault(subnet); err != nil {
		return err
	}
	for _, c := range e.all() {
		leases := maps.Clone(c.Spec().Leases)
		if _, had := leases[id]; !had {
			continue
		}
		delete(leases, id)
		if err := c.SetSpec(func(s *store.Spec) { s.Leases = leases }); err != nil {
			return err
		}
	}
	return nil
}

// replug makes links anew that somebody has removed under running containers, in the background: the caller may hold a
// container's lock. Those of containers that are only just starting, or have ended with their links, are left alone.
func (e *Engine) replug(missing []string) {
	if len(missing) == 0 {
		return
	}
	for _, c := range e.all() {
		for _, end := range c.ends() {
			if v := c.View(); slices.Contains(missing, end.HostIf) && v.State.Status == container.StateRunning && !v.State.Starting {
				go c.replug(end.HostIf)
			}
		}
	}
}

func (c *ctr) replug(hostIf string) {
	c.Op.Lock()
	defer c.Op.Unlock()
	ends := c.ends()
	i := slices.IndexFunc(ends, func(end store.End) bool { return end.HostIf == hostIf })
	if i < 0 || !c.Running() || netcfg.Exists(hostIf) {
		return
	}
	spec, pid := c.Spec(), c.View().State.Pid
	err := c.e.plug(spec, ends[i], pid, routes{})
	if err == nil {
		err = c.e.reroute(c, spec, ends, pid)
	}
	if err == nil {
		c.e.log.Warn("made link anew that somebody had removed", "container", spec.Name, "link", hostIf)
		return
	}
	// A process that has ended takes its links with it, before anybody hears of its end.
	if _, dead := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid)); dead == nil {
		c.e.Problem("container " + spec.Name + " has lost its link " + hostIf + ", and it cannot be made anew: " + err.Error())
	}
}
