package networkdriver

import (
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/netcfg"
	"github.com/coble-os/coble/rt/containers"
)

// way is a bridge that published ports lead to.
type way struct {
	bridge string
	six    bool
}

// ways are those of a running container. A port that is published on loopback crosses no firewall.
func (d *Driver) ways(c *containers.Container) (ways []way) {
	ends := d.ends(c)
	ports, err := d.portTargets(c.View(), ends, nil) // from where does not matter
	if err != nil {
		return nil
	}
	for _, p := range ports {
		for _, end := range ends {
			n, err := d.networks.Kernel(end.Network)
			if err != nil || p.HostIP.IsLoopback() || p.To.Addr() != end.V4.Addr() && p.To.Addr() != end.V6.Addr() {
				continue
			}
			if w := (way{n.Bridge, p.To.Addr().Is6()}); !slices.Contains(ways, w) {
				ways = append(ways, w)
			}
		}
	}
	return ways
}

// firewall tells whose guest coble is, and what the owner must do for published ports to get through; both may be empty.
func firewall(ways []way) (guest string, advice []string, err error) {
	rules, err := netcfg.Firewalls()
	if err != nil {
		return "", nil, err
	}
	var names []string
	for _, g := range rules.Guests() {
		names = append(names, g.String())
	}
	if len(names) == 0 {
		return "", nil, nil
	}
	links, err := netcfg.Entries()
	if err != nil {
		return "", nil, err
	}
	for _, w := range ways {
		if text := rules.Advice(w.bridge, links, unix.IPPROTO_TCP, w.six); text != "" && !slices.Contains(advice, text) {
			advice = append(advice, text)
		}
	}
	return "guest of " + strings.Join(names, ", "), advice, nil
}

// CheckFirewall says, once, what keeps a container's published ports from being reached.
func (d *Driver) CheckFirewall(c *containers.Container) {
	ways := d.ways(c)
	if len(ways) == 0 || d.net.Proxied() != "" { // what the host sends is not forwarded
		return
	}
	_, advice, err := firewall(ways)
	if err != nil {
		d.o.Log.Warn("firewall", "err", err)
	}
	for _, text := range advice {
		d.o.Once(text)
	}
}

// Firewall is for `coble info`: of all ports that are published now, or else of the default network.
func (d *Driver) Firewall() (guest string, advice []string) {
	var all []way
	for _, c := range d.o.Containers.All() {
		if c.View().State.Running() {
			all = append(all, d.ways(c)...)
		}
	}
	if len(all) == 0 {
		all = []way{{bridge: d.bridge}}
	}
	if d.net.Proxied() != "" {
		all = nil
	}
	guest, advice, err := firewall(all)
	if err != nil {
		return err.Error(), nil
	}
	return guest, advice
}
