// Package networks is the verbs that are about networks. Each is a request to the engine, or one for each name, and
// prints what was answered.
package networks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"

	"github.com/moby/moby/api/types/network"
	"github.com/spf13/pflag"

	"github.com/coble-os/coble/rt/client/command"
	"github.com/coble-os/coble/rt/client/conn"
	"github.com/coble-os/coble/rt/client/flags"
)

// ListVerb is `coble network ls`.
func ListVerb(f *pflag.FlagSet) command.Run {
	quiet := f.BoolP("quiet", "q", false, "ids only")
	long := f.Bool("no-trunc", false, "whole ids")
	filters := f.StringArrayP("filter", "f", nil, "driver=, id=, label=, name=, type=custom|builtin or dangling=true")
	return func(ctx context.Context, a *command.App, args []string) error {
		if err := command.Need(args, 0, 0, "nothing"); err != nil {
			return err
		}
		q, err := flags.Filters(*filters)
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
				fmt.Fprintln(a.Out, id)
				continue
			}
			rows = append(rows, []string{id, n.Name, n.Driver, n.Scope})
		}
		if !*quiet {
			a.Table(rows)
		}
		return nil
	}
}

// CreateVerb is `coble network create`.
func CreateVerb(f *pflag.FlagSet) command.Run {
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
	return func(ctx context.Context, a *command.App, args []string) error {
		if err := command.Need(args, 1, 1, "a name"); err != nil {
			return err
		}
		pools, err := flags.IPAM(*subnets, *ranges, *gateways, *aux)
		if err != nil {
			return err
		}
		n := network.Network{Name: args[0], Driver: *driver, EnableIPv4: true, EnableIPv6: *v6, Internal: *internal, Options: map[string]string{}, Labels: map[string]string{}}
		n.IPAM.Config = pools
		flags.KeyValues(*options, n.Options)
		flags.KeyValues(*labels, n.Labels)
		var out network.CreateResponse
		if err := a.Call(ctx, "POST", "/networks/create", nil, n, &out); err != nil {
			return err
		}
		fmt.Fprintln(a.Out, out.ID)
		return nil
	}
}

// RemoveVerb is `coble network rm`.
func RemoveVerb(f *pflag.FlagSet) command.Run {
	force := f.BoolP("force", "f", false, "no error for a network that there is not")
	return func(ctx context.Context, a *command.App, args []string) error {
		if err := command.Need(args, 1, -1, "a network"); err != nil {
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
				fmt.Fprintln(a.Out, name)
			}
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	}
}

// InspectVerb is `coble network inspect`.
func InspectVerb(*pflag.FlagSet) command.Run {
	return func(ctx context.Context, a *command.App, args []string) error {
		if err := command.Need(args, 1, -1, "a network"); err != nil {
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
		e := json.NewEncoder(a.Out)
		e.SetIndent("", "    ")
		return e.Encode(list)
	}
}

// ConnectVerb is `coble network connect`.
func ConnectVerb(f *pflag.FlagSet) command.Run {
	end := flags.AddEndpoint(f, "")
	return func(ctx context.Context, a *command.App, args []string) error {
		if err := command.Need(args, 2, 2, "a network and a container"); err != nil {
			return err
		}
		settings, err := end.Settings()
		if err != nil {
			return err
		}
		return a.Call(ctx, "POST", "/networks/"+url.PathEscape(args[0])+"/connect", nil, network.ConnectRequest{Container: args[1], EndpointConfig: settings}, nil)
	}
}

// DisconnectVerb is `coble network disconnect`.
func DisconnectVerb(f *pflag.FlagSet) command.Run {
	f.BoolP("force", "f", false, "as with docker")
	return func(ctx context.Context, a *command.App, args []string) error {
		if err := command.Need(args, 2, 2, "a network and a container"); err != nil {
			return err
		}
		return a.Call(ctx, "POST", "/networks/"+url.PathEscape(args[0])+"/disconnect", nil, map[string]string{"Container": args[1]}, nil)
	}
}

// PruneVerb is `coble network prune`.
func PruneVerb(f *pflag.FlagSet) command.Run {
	f.BoolP("force", "f", false, "as with docker; coble asks nothing")
	filters := f.StringArray("filter", nil, "only those with until=TIME, label=NAME[=VALUE] or label!=NAME[=VALUE]")
	return func(ctx context.Context, a *command.App, args []string) error {
		if err := command.Need(args, 0, 0, "nothing"); err != nil {
			return err
		}
		q, err := flags.Filters(*filters)
		if err != nil {
			return err
		}
		var out network.PruneReport
		if err := a.Call(ctx, "POST", "/networks/prune", q, nil, &out); err != nil {
			return err
		}
		for _, n := range out.NetworksDeleted {
			fmt.Fprintln(a.Out, "Deleted:", n)
		}
		return nil
	}
}
