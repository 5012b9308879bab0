// Package networkdriver is the networks of the engine's containers: it gives each its addresses and ports, makes and limits its
// links, publishes its ports and tells it of names (rt/names), and brings the host, through netcfg, to what all of them want
// together (Apply). Which networks there are is in rt/networks. A container is for it a record and a state, which it reads, and
// in which it writes down leases, ports and links before it makes them: what an engine that dies has begun is known to the
// next, and what nobody claims the next Apply removes.
package networkdriver

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"

	"github.com/moby/moby/api/types/events"
	"github.com/opencontainers/go-digest"

	"github.com/coble-os/coble/init/notify"
	"github.com/coble-os/coble/netcfg"
	"github.com/coble-os/coble/rt/containers"
	"github.com/coble-os/coble/rt/job"
	"github.com/coble-os/coble/rt/names"
	"github.com/coble-os/coble/rt/networks"
	"github.com/coble-os/coble/rt/store"
)

// Config describes the default bridge network, and where published ports are reached from.
type Config struct {
	Subnet string // CIDR; empty: 10.88.0.0/16, or the next free /16 where the host routes that already
	MTU    int    // 0: the kernel's default
	// Listen is where published ports are reached from (netcfg.Where); empty: everywhere, or where Uplinks are named from all
	// links but those and the ones with a default route.
	Listen, Uplinks []string
	Proxy           bool // ports are published by the engine itself, whatever the kernel can do
}

// Options say whose networks they are, and whom a Driver tells what.
type Options struct {
	Config
	Instance string // names the kernel's objects
	ID       string // of the installation
	Own      bool   // the machine's links are coble's
	Store    *store.Store
	Log      *slog.Logger

	Jobs       *job.Table // gets a handler of each job about networks
	Containers *containers.Table
	Keeper     *notify.Link
	Emit       func(t events.Type, a events.Action, id string, attributes map[string]string)
	// Problem tells the machine's owner, each time; Once tells what stays so, the first time.
	Problem, Once func(text string)
}

// Driver is the networks of an engine. Its methods may be called from any goroutine; those that change a container are called
// by who holds its Op, unless they say otherwise.
type Driver struct {
	o        Options
	ctx      context.Context // ends with the engine
	bridge   string          // of the default network
	net      *netcfg.Host
	networks *networks.Registry
	names    *names.Names
	settled  sync.Once // the default network's subnet was looked at
	listen   listenRules
	applying sync.Mutex                       // held from a look at the containers until the network is told
	shares   map[*containers.Container]*share // guarded by applying
	ports    portTable
}

// Open opens the networks and registers their jobs. Nothing of the kernel's is made before Apply.
func Open(ctx context.Context, o Options) (*Driver, error) {
	d := &Driver{o: o, ctx: ctx, bridge: BridgeName(o.Instance), net: netcfg.New(o.Instance), shares: map[*containers.Container]*share{}}
	d.ports.host = portHost{inUse: netcfg.InUse, holder: netcfg.Holder, name: d.nameOf}
	subnet, err := d.chooseSubnet()
	if err != nil {
		return nil, err
	}
	if o.Proxy {
		d.net.UseProxy()
	}
	d.listen.names, d.listen.uplinks = o.Listen, o.Uplinks
	d.networks, err = networks.Open(networks.Options{
		DB: o.Store.Durable, FixID: func(name string) string { return digest.FromString(o.ID + "/network/" + name).Encoded() },
		Bridge: d.bridge, Subnet: subnet, MTU: o.MTU,
	})
	if d.networks == nil {
		return nil, err
	}
	if err != nil {
		o.Problem(err.Error())
	}
	d.names = names.New(o.Containers, d.networks, o.Keeper)
	job.Register(o.Jobs, "network-create", d.createNetwork)
	job.Register(o.Jobs, "network-rm", d.removeNetwork)
	job.Register(o.Jobs, "network-prune", d.pruneNetworks)
	job.Register(o.Jobs, "network-connect", d.connect)
	job.Register(o.Jobs, "network-disconnect", d.disconnect)
	return d, nil
}

// BridgeName is the bridge of the instance.
func BridgeName(instance string) string {
	if instance == "coble" {
		return "coble0"
	}
	return instance
}

// chooseSubnet keeps the network that the installation has, unless it is told another.
func (d *Driver) chooseSubnet() (netip.Prefix, error) {
	if s := d.o.Subnet; s != "" {
		p, err := netip.ParsePrefix(s)
		if err != nil || !p.Addr().Is4() || p.Bits() > 30 {
			return p, fmt.Errorf("network subnet %q: want an IPv4 prefix such as 10.88.0.0/24", s)
		}
		return p.Masked(), nil
	}
	if kept, err := netip.ParsePrefix(string(d.o.Store.Meta("subnet"))); err == nil {
		return kept, nil
	}
	subnet, err := netcfg.FreeSubnet()
	if err != nil {
		return subnet, err
	}
	return subnet, d.o.Store.PutMeta("subnet", []byte(subnet.String()))
}

// Default is the network that is named bridge.
func (d *Driver) Default() netcfg.Network {
	n, err := d.networks.Kernel(networks.Default)
	if err != nil {
		panic(err) // it is always there
	}
	return n
}

// nameOf is what a container is called in a message.
func (d *Driver) nameOf(id string) string {
	if c := d.o.Containers.ByID(id); c != nil {
		return "container " + c.Spec().Name
	}
	return id
}

// EndpointID is the fixed id of a container's place in a network.
func (d *Driver) EndpointID(container, network string) string {
	return digest.FromString(d.o.ID + "/endpoint/" + container + "/" + network).Encoded()
}

// Proxied says why ports are published by the engine itself; empty: they are not.
func (d *Driver) Proxied() string { return d.net.Proxied() }

// WriteNames writes a container's files of names, before it starts.
func (d *Driver) WriteNames(c *containers.Container, ends []store.End) error {
	return d.names.Write(c, ends)
}
