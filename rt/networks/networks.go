// Package networks keeps which networks there are, and which container has which address in them. The descriptions are
// durable; addresses are claimed back after a restart by whoever keeps them. It knows the kernel only as far as it asks
// which subnets are routed already: netcfg makes what is described here.
package networks

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/moby/moby/api/types/network"
	bolt "go.etcd.io/bbolt"

	"github.com/coble-os/coble/netcfg"
	"github.com/coble-os/coble/netcfg/ipam"
	"github.com/coble-os/coble/netcfg/nft"
	"github.com/coble-os/coble/rt/fault"
)

// Options say where networks are kept, and what the one named bridge is like.
type Options struct {
	DB     *bolt.DB
	FixID  func(name string) string // ids of the networks that are always there
	Bridge string                   // name of the default network's bridge
	Subnet netip.Prefix             // of the default network
	MTU    int                      // of the default network; 0: the kernel's default
}

// Registry is all networks. Its methods may be called from any goroutine.
type Registry struct {
	o Options

	mu  sync.Mutex
	all map[string]*entry // by id; guarded by mu
}

type entry struct {
	network.Network
	v4, v6 *ipam.Pool // nil: none of that family
}

// Lease is what a container has in a network.
type Lease struct{ V4, V6 netip.Prefix }

var bucket = []byte("networks")

// Names of the networks that are always there.
const (
	Default = "bridge"
	Host    = "host"
	None    = "none"
)

// Predefined tells whether a network of this name is always there.
func Predefined(name string) bool { return name == Default || name == Host || name == None }

// Open reads what there is. A record that cannot be read is left out and named in the error; the others are returned with
// it.
func Open(o Options) (*Registry, error) {
	r := &Registry{o: o, all: map[string]*entry{}}
	pool, err := ipam.New(ipam.Options{Subnet: o.Subnet})
	if err != nil {
		return nil, err
	}
	for name, driver := range map[string]string{Default: "bridge", Host: "host", None: "null"} {
		e := &entry{Network: network.Network{
			Name: name, ID: o.FixID(name), Scope: "local", Driver: driver, EnableIPv4: name == Default,
			IPAM: network.IPAM{Driver: "default", Config: []network.IPAMConfig{}}, Options: map[string]string{}, Labels: map[string]string{},
		}}
		if name == Default {
			e.v4 = pool
			e.IPAM.Config = append(e.IPAM.Config, network.IPAMConfig{Subnet: pool.Subnet(), Gateway: pool.Gateway()})
			e.Options[optBridge] = o.Bridge
		}
		r.all[e.ID] = e
	}
	var bad error
	err = o.DB.Update(func(tx *bolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists(bucket)
		if err != nil {
			return err
		}
		return b.ForEach(func(k, v []byte) error {
			e := &entry{}
			err := json.Unmarshal(v, &e.Network)
			if err == nil {
				err = e.openPools()
			}
			if err != nil {
				bad = errors.Join(bad, fmt.Errorf("read record of network %s: %w", k, err))
				return nil
			}
			r.all[e.ID] = e
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("read networks: %w", err)
	}
	return r, bad
}

// openPools makes the pools of the first subnet of each family.
func (e *entry) openPools() error {
	for _, c := range e.IPAM.Config {
		p, err := ipam.New(ipam.Options{Subnet: c.Subnet, Range: c.IPRange, Gateway: c.Gateway, Reserved: slices.Collect(maps.Values(c.AuxAddress))})
		switch {
		case err != nil:
			return err
		case c.Subnet.Addr().Is4() && e.v4 == nil:
			e.v4 = p
		case c.Subnet.Addr().Is6() && e.v6 == nil:
			e.v6 = p
		default:
			return fmt.Errorf("subnet %s: coble has one subnet of each family in a network", c.Subnet)
		}
	}
	return nil
}

// All lists the networks by name.
func (r *Registry) All() []network.Network {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []network.Network
	for _, e := range r.all {
		out = append(out, e.Network)
	}
	slices.SortFunc(out, func(a, b network.Network) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// Get finds a network by its name, its id or the beginning of that, if only one has it.
func (r *Registry) Get(ref string) (network.Network, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e, err := r.find(ref)
	if err != nil {
		return network.Network{}, err
	}
	return e.Network, nil
}

// find is Get, with mu held.
func (r *Registry) find(ref string) (*entry, error) {
	if e := r.all[ref]; e != nil {
		return e, nil
	}
	var byID []*entry
	for _, e := range r.all {
		if e.Name == ref {
			return e, nil
		}
		if ref != "" && strings.HasPrefix(e.ID, ref) {
			byID = append(byID, e)
		}
	}
	switch len(byID) {
	case 0:
		return nil, fault.New(fault.NotFound, "network %s not found", ref)
	case 1:
		return byID[0], nil
	}
	return nil, fault.New(fault.Invalid, "network %s is ambiguous: %d networks have an id that begins so", ref, len(byID))
}

// Create makes a network as n asks, with id, and returns it with what n left open.
func (r *Registry) Create(n network.Network) (network.Network, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.all {
		if e.Name == n.Name {
			return n, fault.New(fault.Conflict, "network with name %s already exists", n.Name)
		}
	}
	if err := check(&n); err != nil {
		return n, err
	}
	e := &entry{Network: n}
	if err := r.choosePools(e); err != nil {
		return n, err
	}
	if err := r.linkFree(e); err != nil {
		return n, err
	}
	b, err := json.Marshal(e.Network)
	if err != nil {
		return n, fmt.Errorf("encode network %s: %w", n.Name, err)
	}
	err = r.o.DB.Update(func(tx *bolt.Tx) error { return tx.Bucket(bucket).Put([]byte(e.ID), b) })
	if err != nil {
		return n, fmt.Errorf("write record of network %s: %w", n.Name, err)
	}
	r.all[e.ID] = e
	return e.Network, nil
}

// choosePools completes the subnets. Called with mu held.
func (r *Registry) choosePools(e *entry) error {
	var taken []netip.Prefix
	for _, other := range r.all {
		for _, c := range other.IPAM.Config {
			taken = append(taken, c.Subnet)
		}
	}
	has := func(six bool) bool {
		return slices.ContainsFunc(e.IPAM.Config, func(c network.IPAMConfig) bool { return c.Subnet.Addr().Is6() == six })
	}
	for _, c := range e.IPAM.Config {
		if slices.ContainsFunc(taken, c.Subnet.Overlaps) {
			return fault.New(fault.Invalid, "invalid pool request: Pool overlaps with other one on this address space: %s", c.Subnet)
		}
	}
	if e.EnableIPv4 && !has(false) {
		p, err := netcfg.FreeSubnet(taken...)
		if err != nil {
			return err
		}
		e.IPAM.Config = append(e.IPAM.Config, network.IPAMConfig{Subnet: p})
	}
	if e.EnableIPv6 && !has(true) {
		p, err := localSubnet(e.ID)
		if err != nil {
			return err
		}
		e.IPAM.Config = append(e.IPAM.Config, network.IPAMConfig{Subnet: p})
	}
	if err := e.openPools(); err != nil {
		return fault.As(fault.Invalid, fmt.Errorf("create network %s: %w", e.Name, err))
	}
	for i, c := range e.IPAM.Config {
		p := e.v4
		if c.Subnet.Addr().Is6() {
			p = e.v6
		}
		e.IPAM.Config[i].Subnet, e.IPAM.Config[i].Gateway = p.Subnet(), p.Gateway()
	}
	return nil
}

// MoveDefault gives the default network another subnet. The addresses that containers have in it are none any more.
func (r *Registry) MoveDefault(subnet netip.Prefix) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	pool, err := ipam.New(ipam.Options{Subnet: subnet})
	if err != nil {
		return err
	}
	e, err := r.find(Default)
	if err == nil {
		e.v4, e.IPAM.Config = pool, []network.IPAMConfig{{Subnet: pool.Subnet(), Gateway: pool.Gateway()}}
	}
	return err
}

// linkFree refuses a bridge that another network has, and a parent that cannot be shared. Called with mu held.
func (r *Registry) linkFree(e *entry) error {
	for _, other := range r.all {
		switch {
		case e.Driver == "bridge" && other.Driver == "bridge" && other.bridge() == e.bridge():
			return fault.New(fault.Conflict, "bridge %s is that of network %s", e.bridge(), other.Name)
		case e.Driver != "bridge" && other.attached():
			if err := parentFree(e.attachment(), other.attachment()); err != nil {
				return fault.New(fault.Conflict, "create network %s: parent %s: network %s %s", e.Name, e.Options[optParent], other.Name, err)
			}
		}
	}
	return nil
}

// attached tells whether the network has no bridge, but links on a parent.
func (e *entry) attached() bool { return e.Driver == "macvlan" || e.Driver == "ipvlan" }

// Attachment is what netcfg is to make of a network without a bridge; ok is false for others.
func (r *Registry) Attachment(id string) (a netcfg.Attachment, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e, err := r.find(id)
	if err != nil || !e.attached() {
		return a, false
	}
	return e.attachment(), true
}

// Remove forgets a network. Whether somebody is in it is the caller's to know.
func (r *Registry) Remove(id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	e, err := r.find(id)
	if err != nil {
		return err
	}
	if Predefined(e.Name) {
		return fault.New(fault.Forbidden, "%s is a pre-defined network and cannot be removed", e.Name)
	}
	if err := r.o.DB.Update(func(tx *bolt.Tx) error { return tx.Bucket(bucket).Delete([]byte(e.ID)) }); err != nil {
		return fmt.Errorf("remove record of network %s: %w", e.Name, err)
	}
	delete(r.all, e.ID)
	return nil
}

// Join gives a container its addresses in a network: those that it asks for or had before, where they are valid, and
// otherwise the next that are free.
func (r *Registry) Join(id, container string, v4, v6 netip.Addr) (Lease, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e, err := r.find(id)
	if err != nil {
		return Lease{}, err
	}
	var l Lease
	if l.V4, err = e.lease(e.v4, container, v4, "IPv4"); err == nil {
		l.V6, err = e.lease(e.v6, container, v6, "IPv6")
	}
	if err != nil {
		e.release(container)
		return Lease{}, err
	}
	return l, nil
}

func (e *entry) lease(p *ipam.Pool, container string, a netip.Addr, family string) (netip.Prefix, error) {
	var err error
	switch {
	case p == nil && a.IsValid():
		return netip.Prefix{}, e.outside(a)
	case p == nil:
		return netip.Prefix{}, nil
	case a.IsValid():
		err = p.Claim(container, a)
	default:
		a, err = p.Allocate(container)
	}
	switch {
	case errors.Is(err, ipam.ErrFull):
		return netip.Prefix{}, fault.New(fault.Conflict, "no available %s addresses on this network's address pools: %s (%s)", family, e.Name, e.ID)
	case errors.Is(err, ipam.ErrOutside):
		return netip.Prefix{}, e.outside(a)
	case err != nil:
		return netip.Prefix{}, fault.As(fault.Conflict, fmt.Errorf("network %s: %w", e.Name, err))
	}
	return netip.PrefixFrom(a, p.Subnet().Bits()), nil
}

func (e *entry) outside(a netip.Addr) error {
	return fault.New(fault.Invalid, "invalid config for network %s: invalid endpoint settings:\nno configured subnet contains IP address %s", e.Name, a)
}

// Leave gives a container's addresses back. A network that is gone has none of them.
func (r *Registry) Leave(id, container string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e := r.all[id]; e != nil {
		e.release(container)
	}
}

func (e *entry) release(container string) {
	for _, p := range []*ipam.Pool{e.v4, e.v6} {
		if p != nil {
			p.Release(container)
		}
	}
}

// Kernel is what netcfg is to make of a bridge network.
func (r *Registry) Kernel(id string) (netcfg.Network, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e, err := r.find(id)
	if err != nil {
		return netcfg.Network{}, err
	}
	n := netcfg.Network{Network: nft.Network{Bridge: e.bridge(), Internal: e.Internal, Masquerade: e.on(optMasquerade), ICC: e.on(optICC)}, MTU: e.mtu()}
	if e.Name == Default {
		n.MTU = r.o.MTU
	}
	if e.v4 != nil {
		n.V4, n.Gateway4 = e.v4.Subnet(), e.v4.Gateway()
	}
	if e.v6 != nil {
		n.V6, n.Gateway6 = e.v6.Subnet(), e.v6.Gateway()
	}
	return n, nil
}
