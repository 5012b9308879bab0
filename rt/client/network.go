package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/spf13/pflag"

	"github.com/coble-os/coble/rt/client/conn"
)

func networksVerb(f *pflag.FlagSet) runner {
	quiet := f.BoolP("quiet", "q", false, "ids only")
	long := f.Bool("no-trunc", false, "whole ids")
	filters := f.StringArrayP("filter", "f", nil, "driver=, id=, label=, name=, type=custom|builtin or dangling=true")
	return func(ctx context.Context, a *app, args []string) error {
		if err := need(args, 0, 0, "nothing"); err != nil {
			return err
		}
		q, err := filterQuery(*filters)
		if err != nil {
			return err
		}
		var list []network.Network
		if err := a.Call(ctx, "GET", "/networks", q, nil, &list); err != nil {
			return err
		}
		rows := [][]string{{"NETWORK ID", "NAME", "DRIVER", "SCOPE"}}
		for _, n := range list {
			id := n.ID
			if !*long {
				id = id[:min(12, len(id))]
			}
			if *quiet {
				fmt.Fprintln(a.out, id)
				continue
			}
			rows = append(rows, []string{id, n.Name, n.Driver, n.Scope})
		}
		if !*quiet {
			a.table(rows)
		}
		return nil
	}
}

func networkCreateVerb(f *pflag.FlagSet) runner {
	driver := f.StringP("driver", "d", "bridge", "bridge: there is no other")
	subnets := f.StringArray("subnet", nil, "addresses of the network, such as 10.90.0.0/24; one for IPv4, one for IPv6")
	ranges := f.StringArray("ip-range", nil, "the part of a subnet that containers get addresses from")
	gateways := f.StringArray("gateway", nil, "the host's own address in a subnet")
	aux := f.StringArray("aux-address", nil, "name=address that no container gets")
	options := f.StringArrayP("opt", "o", nil, "option=value of the driver")
	labels := f.StringArray("label", nil, "name=value")
	internal := f.Bool("internal", false, "nothing goes out or comes in")
	v6 := f.Bool("ipv6", false, "IPv6 too")
	f.Bool("attachable", false, "as with docker; every network is")
	return func(ctx context.Context, a *app, args []string) error {
		if err := need(args, 1, 1, "a name"); err != nil {
			return err
		}
		pools, err := ipamConfig(*subnets, *ranges, *gateways, *aux)
		if err != nil {
			return err
		}
		n := network.Network{Name: args[0], Driver: *driver, EnableIPv4: true, EnableIPv6: *v6, Internal: *internal, Options: map[string]string{}, Labels: map[string]string{}}
		n.IPAM.Config = pools
		keyValues(*options, n.Options)
		keyValues(*labels, n.Labels)
		var out network.CreateResponse
		if err := a.Call(ctx, "POST", "/networks/create", nil, n, &out); err != nil {
			return err
		}
		fmt.Fprintln(a.out, out.ID)
		return nil
	}
}

// ipamConfig is pure: each range, gateway and auxiliary address belongs to the subnet that has it.
func ipamConfig(subnets, ranges, gateways, aux []string) ([]network.IPAMConfig, error) {
	var out []network.IPAMConfig
	for _, s := range subnets {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, fmt.Errorf("subnet %q: want a prefix such as 10.90.0.0/24", s)
		}
		out = append(out, network.IPAMConfig{Subnet: p})
	}
	of := func(a netip.Addr) *network.IPAMConfig {
		if i := slices.IndexFunc(out, func(c network.IPAMConfig) bool { return c.Subnet.Contains(a) }); i >= 0 {
			return &out[i]
		}
		return nil
	}
	for _, s := range ranges {
		p, err := netip.ParsePrefix(s)
		c := of(p.Addr())
		if err != nil || c == nil {
			return nil, fmt.Errorf("range %q is no part of a subnet that was named", s)
		}
		c.IPRange = p
	}
	for _, s := range gateways {
		g, err := netip.ParseAddr(s)
		c := of(g)
		if err != nil || c == nil {
			return nil, fmt.Errorf("gateway %q is no address in a subnet that was named", s)
		}
		c.Gateway = g
	}
	for _, s := range aux {
		name, text, _ := strings.Cut(s, "=")
		x, err := netip.ParseAddr(text)
		c := of(x)
		if err != nil || c == nil {
			return nil, fmt.Errorf("auxiliary address %q: want name=address, in a subnet that was named", s)
		}
		if c.AuxAddress == nil {
			c.AuxAddress = map[string]netip.Addr{}
		}
		c.AuxAddress[name] = x
	}
	return out, nil
}

func networkRmVerb(f *pflag.FlagSet) runner {
	force := f.BoolP("force", "f", false, "no error for a network that there is not")
	return func(ctx context.Context, a *app, args []string) error {
		if err := need(args, 1, -1, "a network"); err != nil {
			return err
		}
		var errs []error
		for _, name := range args {
			err := a.Call(ctx, "DELETE", "/networks/"+url.PathEscape(name), nil, nil, nil)
			var api *conn.Error
			if errors.As(err, &api) && api.Status == 404 && *force {
				err = nil
			}
			if err == nil {
				fmt.Fprintln(a.out, name)
			}
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	}
}

func networkInspectVerb(*pflag.FlagSet) runner {
	return func(ctx context.Context, a *app, args []string) error {
		if err := need(args, 1, -1, "a network"); err != nil {
			return err
		}
		list := []network.Inspect{}
		for _, name := range args {
			var n network.Inspect
			if err := a.Call(ctx, "GET", "/networks/"+url.PathEscape(name), nil, nil, &n); err != nil {
				return err
			}
			list = append(list, n)
		}
		e := json.NewEncoder(a.out)
		e.SetIndent("", "    ")
		return e.Encode(list)
	}
}

func networkConnectVerb(f *pflag.FlagSet) runner {
	end := addEndpointFlags(f, "")
	return func(ctx context.Context, a *app, args []string) error {
		if err := need(args, 2, 2, "a network and a container"); err != nil {
			return err
		}
		settings, err := end.settings()
		if err != nil {
			return err
		}
		return a.Call(ctx, "POST", "/networks/"+url.PathEscape(args[0])+"/connect", nil, network.ConnectRequest{Container: args[1], EndpointConfig: settings}, nil)
	}
}

func networkDisconnectVerb(f *pflag.FlagSet) runner {
	f.BoolP("force", "f", false, "as with docker")
	return func(ctx context.Context, a *app, args []string) error {
		if err := need(args, 2, 2, "a network and a container"); err != nil {
			return err
		}
		return a.Call(ctx, "POST", "/networks/"+url.PathEscape(args[0])+"/disconnect", nil, map[string]string{"Container": args[1]}, nil)
	}
}

func networkPruneVerb(f *pflag.FlagSet) runner {
	f.BoolP("force", "f", false, "as with docker; coble asks nothing")
	filters := f.StringArray("filter", nil, "only those with until=TIME, label=NAME[=VALUE] or label!=NAME[=VALUE]")
	return func(ctx context.Context, a *app, args []string) error {
		if err := need(args, 0, 0, "nothing"); err != nil {
			return err
		}
		q, err := filterQuery(*filters)
		if err != nil {
			return err
		}
		var out network.PruneReport
		if err := a.Call(ctx, "POST", "/networks/prune", q, nil, &out); err != nil {
			return err
		}
		for _, n := range out.NetworksDeleted {
			fmt.Fprintln(a.out, "Deleted:", n)
		}
		return nil
	}
}

// endpointFlags are what a container asks for in one network.
type endpointFlags struct {
	aliases, links *[]string
	v4, v6, mac    *string
}

// addEndpointFlags declares them; docker's run puts "network-" before some.
func addEndpointFlags(f *pflag.FlagSet, prefix string) endpointFlags {
	return endpointFlags{
		aliases: f.StringArray(prefix+"alias", nil, "one more name in the network"),
		links:   f.StringArray("link", nil, "container:name that only this container calls it by"),
		v4:      f.String("ip", "", "its IPv4 address"),
		v6:      f.String("ip6", "", "its IPv6 address"),
		mac:     f.String("mac-address", "", "address of its link"),
	}
}

func (e endpointFlags) settings() (*network.EndpointSettings, error) {
	s := &network.EndpointSettings{Aliases: *e.aliases, Links: *e.links}
	var err error
	if *e.mac != "" {
		mac, err := net.ParseMAC(*e.mac)
		if err != nil {
			return nil, fmt.Errorf("mac-address: %w", err)
		}
		s.MacAddress = network.HardwareAddr(mac)
	}
	c := &network.EndpointIPAMConfig{}
	if *e.v4 != "" {
		if c.IPv4Address, err = netip.ParseAddr(*e.v4); err != nil || !c.IPv4Address.Is4() {
			return nil, fmt.Errorf("ip %q is no IPv4 address", *e.v4)
		}
	}
	if *e.v6 != "" {
		if c.IPv6Address, err = netip.ParseAddr(*e.v6); err != nil || !c.IPv6Address.Is6() {
			return nil, fmt.Errorf("ip6 %q is no IPv6 address", *e.v6)
		}
	}
	if *e.v4+*e.v6 != "" {
		s.IPAMConfig = c
	}
	return s, nil
}

// networking is what the flags ask for: the first network is the container's own, and what is said of an address, a name
// or a link is meant for that. Links into the default network are the engine's to write down.
func (c *createFlags) networking(host *container.HostConfig) (*network.NetworkingConfig, error) {
	settings, err := c.end.settings()
	if err != nil {
		return nil, err
	}
	first := network.NetworkDefault
	if len(c.networks) > 0 {
		first = c.networks[0]
		host.NetworkMode = container.NetworkMode(first)
	}
	if !host.NetworkMode.IsUserDefined() {
		host.Links, settings.Links = settings.Links, nil
	}
	out := &network.NetworkingConfig{EndpointsConfig: map[string]*network.EndpointSettings{}}
	for _, name := range c.networks[min(1, len(c.networks)):] {
		out.EndpointsConfig[name] = &network.EndpointSettings{}
	}
	if !host.NetworkMode.IsContainer() {
		out.EndpointsConfig[first] = settings
	}
	return out, nil
}
