package networks

import (
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/network"

	"github.com/coble-os/coble/netcfg"
	"github.com/coble-os/coble/rt/fault"
)

// Options of the driver bridge (Docker's documentation of it, "Options").
const (
	optBridge     = "com.docker.network.bridge.name"
	optICC        = "com.docker.network.bridge.enable_icc"
	optMasquerade = "com.docker.network.bridge.enable_ip_masquerade"
	optHostIP     = "com.docker.network.bridge.host_binding_ipv4"
	optMTU        = "com.docker.network.driver.mtu"
)

// Options of the drivers macvlan and ipvlan.
const (
	optParent      = "parent"
	optMacvlanMode = "macvlan_mode"
	optIPVlanMode  = "ipvlan_mode"
	optIPVlanFlag  = "ipvlan_flag"
)

// options are those that each driver has.
var options = map[string][]string{
	"bridge":  {optBridge, optICC, optMasquerade, optHostIP, optMTU},
	"macvlan": {optParent, optMacvlanMode, optMTU},
	"ipvlan":  {optParent, optIPVlanMode, optIPVlanFlag, optMTU},
}

const maxLinkName = 15 // bytes; IFNAMSIZ less its NUL

// validName is Docker's rule for names of objects.
func validName(name string) bool {
	for i, c := range []byte(name) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case i > 0 && (c == '_' || c == '.' || c == '-'):
		default:
			return false
		}
	}
	return name != ""
}

// check refuses what can never work, by name, and fills in what does not depend on other networks.
func check(n *network.Network) error {
	bad := func(format string, args ...any) error {
		return fault.New(fault.Invalid, "create network %s: %s", n.Name, fmt.Sprintf(format, args...))
	}
	n.Driver = cmp.Or(n.Driver, "bridge")
	switch {
	case !validName(n.Name):
		return fault.New(fault.Invalid, "invalid network name %q: only [a-zA-Z0-9][a-zA-Z0-9_.-]* are allowed", n.Name)
	case options[n.Driver] == nil:
		return fault.New(fault.NotFound, "create network %s: driver %q is not known: coble has bridge, macvlan and ipvlan, and the networks host and none that are always there", n.Name, n.Driver)
	case n.Scope != "" && n.Scope != "local":
		return bad("scope %q is not known: coble has local networks only", n.Scope)
	case n.Ingress || n.ConfigOnly || n.ConfigFrom.Network != "":
		return bad("ingress, config-only and config-from are of swarm mode, which coble does not have")
	case n.IPAM.Driver != "" && n.IPAM.Driver != "default":
		return bad("IPAM driver %q is not known: coble has default", n.IPAM.Driver)
	case len(n.IPAM.Options) > 0:
		return bad("coble has no options of the IPAM driver")
	}
	n.Scope, n.IPAM.Driver = "local", "default"
	if n.Options == nil {
		n.Options = map[string]string{}
	}
	if n.Labels == nil {
		n.Labels = map[string]string{}
	}
	for _, c := range n.IPAM.Config {
		switch {
		case !c.Subnet.IsValid():
			return bad("a range, gateway or auxiliary address needs a subnet")
		case c.Subnet.Addr().Is6() && !n.EnableIPv6:
			return bad("subnet %s is IPv6: say so with --ipv6", c.Subnet)
		case c.Subnet.Addr().Is4() && !n.EnableIPv4:
			return bad("subnet %s is IPv4, which was switched off", c.Subnet)
		}
	}
	if !n.EnableIPv4 && !n.EnableIPv6 {
		return bad("IPv4 or IPv6 must be enabled")
	}
	for key, value := range n.Options {
		if known := options[n.Driver]; !slices.Contains(known, key) {
			return bad("option %s is not known: the driver %s has %s", key, n.Driver, strings.Join(known, ", "))
		}
		if err := checkOption(key, value); err != nil {
			return bad("%v", err)
		}
	}
	switch {
	case n.Driver == "bridge" && n.Options[optBridge] == "":
		n.Options[optBridge] = "br-" + n.ID[:12]
	case n.Driver != "bridge" && n.Options[optParent] == "": // as Docker has it
		n.Options[optParent] = ownParent(n.ID)
		n.Internal = true
	}
	return nil
}

// ownParent is the dummy of a network that was given no parent.
func ownParent(id string) string { return "dm-" + id[:12] }

func checkOption(key, value string) error {
	oneOf := func(known []string) error {
		if slices.Contains(known, value) {
			return nil
		}
		return fmt.Errorf("option %s: %q is none of %s", key, value, strings.Join(known, ", "))
	}
	switch key {
	case optMacvlanMode:
		return oneOf(slices.Sorted(maps.Keys(netcfg.MacvlanModes))[1:])
	case optIPVlanMode:
		return oneOf(slices.Sorted(maps.Keys(netcfg.IPVlanModes))[1:])
	case optIPVlanFlag:
		return oneOf(slices.Sorted(maps.Keys(netcfg.IPVlanFlags))[1:])
	case optBridge, optParent:
		if len(value) > maxLinkName || value == "" || strings.ContainsAny(value, "/: \t\n") || value == "." || value == ".." {
			return fmt.Errorf("option %s: %q is no name of a link: at most %d bytes, without slash, colon or blank", key, value, maxLinkName)
		}
	case optICC, optMasquerade:
		if _, err := strconv.ParseBool(value); err != nil {
			return fmt.Errorf("option %s: %q is neither true nor false", key, value)
		}
	case optHostIP:
		if a, err := netip.ParseAddr(value); err != nil || !a.Is4() {
			return fmt.Errorf("option %s: %q is no IPv4 address", key, value)
		}
	case optMTU:
		if n, err := strconv.Atoi(value); err != nil || n < 68 || n > 65535 {
			return fmt.Errorf("option %s: %q is no MTU from 68 to 65535", key, value)
		}
	}
	return nil
}

func (e *entry) bridge() string { return e.Options[optBridge] }

// attachment is what netcfg makes of a network of the drivers macvlan and ipvlan.
func (e *entry) attachment() netcfg.Attachment {
	a := netcfg.Attachment{Driver: e.Driver, Parent: e.Options[optParent], MTU: e.mtu(), Flag: e.Options[optIPVlanFlag]}
	a.Alone = a.Parent == ownParent(e.ID)
	a.Mode = cmp.Or(e.Options[optMacvlanMode], e.Options[optIPVlanMode])
	return a
}

// parentFree refuses a parent that another network has in a way that goes together with no other: links of one kind are of
// one kind only, and all of ipvlan on it have one mode. Passing through takes the parent whole.
func parentFree(a, other netcfg.Attachment) error {
	switch {
	case a.Parent != other.Parent:
		return nil
	case a.Driver != other.Driver:
		return fmt.Errorf("is %s's there", other.Driver)
	case a.Driver == "ipvlan" && (netcfg.IPVlanModes[a.Mode] != netcfg.IPVlanModes[other.Mode] || netcfg.IPVlanFlags[a.Flag] != netcfg.IPVlanFlags[other.Flag]):
		return errors.New("has another mode or flag there, and ipvlan has one of each on a parent")
	case a.Mode == "passthru" || other.Mode == "passthru":
		return errors.New("has it too, and passthru shares it with none")
	}
	return nil
}

// on reads an option that is on unless it is switched off.
func (e *entry) on(key string) bool {
	v, err := strconv.ParseBool(e.Options[key])
	return err != nil || v
}

func (e *entry) mtu() int {
	n, _ := strconv.Atoi(e.Options[optMTU]) // 0 where there is none
	return n
}

// HostIP is the address that ports are published on where none is named; not valid: all.
func HostIP(n network.Network) netip.Addr {
	a, _ := netip.ParseAddr(n.Options[optHostIP])
	return a
}

// localSubnet is a unique local /64 (RFC 4193, fd00::/8), made of the network's random id.
func localSubnet(id string) (netip.Prefix, error) {
	b, err := hex.DecodeString(id[:14])
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("make IPv6 subnet of id %s: %w", id, err)
	}
	a := [16]byte{0xfd}
	copy(a[1:8], b)
	return netip.PrefixFrom(netip.AddrFrom16(a), 64), nil
}
