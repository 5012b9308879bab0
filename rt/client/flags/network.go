package flags

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/spf13/pflag"
)

// IPAM is pure: each range, gateway and auxiliary address belongs to the subnet that has it.
func IPAM(subnets, ranges, gateways, aux []string) ([]network.IPAMConfig, error) {
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

// Endpoint are what a container asks for in one network.
type Endpoint struct {
	aliases, links *[]string
	v4, v6, mac    *string
}

// AddEndpoint declares them; docker's run puts "network-" before some.
func AddEndpoint(f *pflag.FlagSet, prefix string) Endpoint {
	return Endpoint{
		aliases: f.StringArray(prefix+"alias", nil, "one more name in the network"),
		links:   f.StringArray("link", nil, "container:name that only this container calls it by"),
		v4:      f.String("ip", "", "its IPv4 address"),
		v6:      f.String("ip6", "", "its IPv6 address"),
		mac:     f.String("mac-address", "", "address of its link"),
	}
}

// Settings are the wire's. A flag that is no address is an error.
func (e Endpoint) Settings() (*network.EndpointSettings, error) {
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
func (c *Create) networking(host *container.HostConfig) (*network.NetworkingConfig, error) {
	settings, err := c.end.Settings()
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
