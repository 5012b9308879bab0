package networkdriver

import (
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"

	"github.com/moby/moby/api/types/container"

	"github.com/coble-os/coble/netcfg"
	"github.com/coble-os/coble/rt/containers"
	"github.com/coble-os/coble/rt/networks"
	"github.com/coble-os/coble/rt/store"
)

// settleDefault looks, before the default network is used for the first time, whether somebody else has come to route its
// subnet since it was chosen, another engine for instance; then it chooses another. One that the owner named stays.
func (d *Driver) settleDefault() {
	if d.o.Subnet != "" || netcfg.Exists(d.bridge) {
		return
	}
	n, err := d.networks.Get(networks.Default)
	if err == nil {
		err = d.moveDefault(n.ID)
	}
	if err != nil {
		d.o.Problem("network " + networks.Default + ": " + err.Error())
	}
}

func (d *Driver) moveDefault(id string) error {
	if free, err := netcfg.Unrouted(d.Default().V4); free || err != nil {
		return err
	}
	var taken []netip.Prefix
	for _, n := range d.networks.All() {
		for _, c := range n.IPAM.Config {
			taken = append(taken, c.Subnet)
		}
	}
	subnet, err := netcfg.FreeSubnet(taken...)
	if err != nil {
		return err
	}
	d.o.Log.Warn("the host routes the default network's subnet to somewhere else; it gets another, and its containers other addresses", "subnet", subnet)
	if err := d.o.Store.PutMeta("subnet", []byte(subnet.String())); err != nil {
		return err
	}
	if err := d.networks.MoveDefault(subnet); err != nil {
		return err
	}
	for _, c := range d.o.Containers.All() {
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
// container's lock. Those of containers that are only just starting, or have ended with their links, are left alone. Called with
// applying held.
func (d *Driver) replug(all []*containers.Container, missing []string) {
	if len(missing) == 0 {
		return
	}
	for _, c := range all {
		for _, l := range d.shareOf(c).links {
			if !slices.Contains(missing, l.Name) {
				continue
			}
			if st := c.View().State; st.Status == container.StateRunning && !st.Starting {
				go d.replugLink(c, l.Name)
			}
		}
	}
}

func (d *Driver) replugLink(c *containers.Container, hostIf string) {
	c.Op.Lock()
	defer c.Op.Unlock()
	ends := d.ends(c)
	i := slices.IndexFunc(ends, func(end store.End) bool { return end.HostIf == hostIf })
	if i < 0 || !c.Running() || netcfg.Exists(hostIf) {
		return
	}
	spec, pid := c.Spec(), c.View().State.Pid
	err := d.plug(spec, ends[i], pid, routes{})
	if err == nil {
		err = d.reroute(c, spec, ends, pid)
	}
	if err == nil {
		d.o.Log.Warn("made link anew that somebody had removed", "container", spec.Name, "link", hostIf)
		return
	}
	// A process that has ended takes its links with it, before anybody hears of its end.
	if _, dead := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid)); dead == nil {
		d.o.Problem("container " + spec.Name + " has lost its link " + hostIf + ", and it cannot be made anew: " + err.Error())
	}
}
