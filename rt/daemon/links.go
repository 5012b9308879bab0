package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"strings"
	"time"

	"github.com/coble-os/coble/configs"
	"github.com/coble-os/coble/init/boot"
	"github.com/coble-os/coble/netcfg/links"
)

// keepLinks begins to keep the machine's own links as the file wants them. Nothing waits for them here.
func keepLinks(o Options, conf configs.Config, log *slog.Logger, trace *boot.Trace) (*links.Keeper, error) {
	k, err := links.Start(links.Options{
		Host: hostName(conf), Resolv: "/etc/resolv.conf", Memory: filepath.Join(o.Run, "links.json"),
		Log:     func(format string, args ...any) { log.Warn(fmt.Sprintf(format, args...)) },
		Changed: func(c links.Change) { log.Debug("link", "change", c) },
	})
	if err != nil {
		return nil, err
	}
	k.Set(linkConfig(conf))
	for name := range conf.Links() {
		go trace.Span("link "+name, func() error { return k.Await(context.Background(), name) })
	}
	return k, nil
}

// linkConfig is the file's part about links in the terms of links. What configs has let through can be read.
func linkConfig(conf configs.Config) (c links.Config) {
	for name, l := range conf.Links() {
		n := links.Link{
			Name: name, MatchMAC: strings.ToLower(l.MatchMAC), Kind: links.Kind(l.Kind), Ports: l.Ports, STP: l.STP, Parent: l.Parent, ID: l.ID,
			MAC: strings.ToLower(l.MAC), MTU: l.MTU, RA: l.AcceptRA, AddrGen: l.AddrGen, Metric: l.Metric, DHCP4: l.DHCP, DHCP6: l.DHCP6,
			DNS: parsed(netip.ParseAddr, l.DNS...), Search: l.Search, Announce: l.MDNS,
			PrefixFrom: l.PrefixFrom, Subnet: l.SubnetID, PrefixHint: l.PrefixHint,
			Addresses: parsed(netip.ParsePrefix, append([]string{l.Address}, l.Addresses...)...),
			Gateways:  parsed(netip.ParseAddr, l.Gateway, l.Gateway6),
		}
		if n.Kind == links.Bond {
			n.Mode, n.MIIMon = l.Mode, time.Duration(l.MIIMon)*time.Millisecond
			if n.Mode == "" {
				n.Mode = "balance-rr" // the kernel's own
			}
			if n.MIIMon == 0 {
				n.MIIMon = 100 * time.Millisecond // or a dead port would never be noticed
			}
		}
		if n.Kind == links.WireGuard {
			n.Tunnel = tunnelConfig(l)
		}
		for _, r := range l.Routes {
			to, _ := configs.Destination(r.To, r.Via)
			via, _ := netip.ParseAddr(r.Via)
			n.Routes = append(n.Routes, links.Route{To: to, Via: via, Metric: r.Metric, Table: r.Table})
		}
		for _, r := range l.Rules {
			from, _ := netip.ParsePrefix(r.From)
			to, _ := netip.ParsePrefix(r.To)
			n.Rules = append(n.Rules, links.Rule{From: from, To: to, Table: r.Table, Priority: r.Priority})
		}
		c.Links = append(c.Links, n)
	}
	return c
}

func tunnelConfig(l configs.Link) *links.Tunnel {
	t := &links.Tunnel{KeyFile: l.PrivateKeyFile, ListenPort: l.ListenPort}
	for _, p := range l.Peers {
		key, err := links.ParseKey(p.PublicKey)
		if err != nil {
			continue
		}
		t.Peers = append(t.Peers, links.Peer{
			PublicKey: key, PresharedFile: p.PresharedKeyFile, Endpoint: p.Endpoint,
			AllowedIPs: parsed(netip.ParsePrefix, p.AllowedIPs...), Keepalive: time.Duration(p.Keepalive) * time.Second,
		})
	}
	return t
}

// parsed leaves out what is empty.
func parsed[T any](parse func(string) (T, error), all ...string) (out []T) {
	for _, s := range all {
		if v, err := parse(s); err == nil {
			out = append(out, v)
		}
	}
	return out
}
