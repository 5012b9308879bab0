package netcfg

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/coble-os/coble/netcfg/nft"
	"github.com/coble-os/coble/netcfg/proxy"
)

// lack is how much of nftables the kernel has not.
type lack int

const (
	lacksNothing lack = iota
	lacksNAT
	lacksAll
)

// UseProxy has ports published by the proxy, whatever the kernel can do. It is called before the first Set.
func (h *Host) UseProxy() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.why = "the TOML file says so"
}

// Proxied says why ports are published by the proxy; "" if they are not.
func (h *Host) Proxied() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.why
}

// Lacks says what containers do without because of the kernel; nil if nothing.
func (h *Host) Lacks() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch h.lacks {
	case lacksNAT:
		return fmt.Errorf("containers reach no other machine under the host's address, and published ports go through a proxy: %w", nft.ErrMissing)
	case lacksAll:
		return fmt.Errorf("containers of different networks are not kept apart, reach no other machine under the host's address, and published ports go through a proxy: %w", nft.ErrMissing)
	}
	return nil
}

// apply writes the tables, as much of them as the kernel can have, and publishes ports by the proxy where they cannot. Called
// with mu held.
func (h *Host) apply(r nft.Rules) error {
	before := h.restNow(r)
	if before == h.rest && before != (rest{}) {
		return nil
	}
	h.rest = rest{}
	wanted, ports := r, r.Ports
	for h.lacks < lacksAll {
		r.NoNAT = h.lacks == lacksNAT
		if h.why != "" {
			r.Ports = nil
		}
		err := h.leaveDecided(&r)
		if err == nil {
			err = nft.Apply(r)
		}
		if err == nil {
			break
		}
		if !errors.Is(err, nft.ErrMissing) {
			return err
		}
		h.lacks++
		h.why = "the kernel has no NAT by nftables"
		if h.lacks == lacksAll {
			h.why = "the kernel has no nftables"
		}
	}
	if err := h.countPorts(r.Ports); err != nil {
		return err
	}
	if h.why == "" {
		if h.restNow(wanted) == before {
			h.rest = before
		}
		return nil
	}
	list, err := proxyPorts(ports)
	if err != nil {
		return err
	}
	return h.proxy.Set(list)
}

// rest is when nothing had to be done about the host's rules: with this wanted, at this generation of theirs, in this network
// namespace. The zero value is never.
type rest struct {
	wanted     string
	generation uint32
	space      uint64
}

// restNow is what a rest would be now; never, where there is more than nftables to be looked at. Called with mu held.
func (h *Host) restNow(r nft.Rules) rest {
	if h.why != "" || h.lacks != lacksNothing {
		return rest{}
	}
	g, err := nft.Generation()
	if err != nil {
		return rest{} // whoever reads the rules will say it
	}
	return rest{wanted: r.Hash(), generation: g, space: h.view.space}
}

// beside makes a change to a table that the others have nothing to do with: if it is the only one, they stay at rest. Called with mu
// held.
func (h *Host) beside(change func() error) error {
	before, err := nft.Generation()
	if err != nil || before != h.rest.generation || h.view.space != h.rest.space {
		return change()
	}
	if err := change(); err != nil {
		return err
	}
	if after, err := nft.Generation(); err == nil && after == before+1 {
		h.rest.generation = after
	}
	return nil
}

// proxyPorts are the sockets that published ports need. One that is reached through links has one on each of them that is
// there, and on loopback, where the host's own connections come from.
func proxyPorts(ports []Port) ([]proxy.Port, error) {
	links, err := listLinks()
	if err != nil {
		return nil, err
	}
	var out []proxy.Port
	for _, p := range ports {
		all := netip.IPv4Unspecified()
		if p.To.Addr().Is6() {
			all = netip.IPv6Unspecified()
		}
		add := func(a netip.Addr, link int, share bool) {
			out = append(out, proxy.Port{Proto: p.Proto, At: netip.AddrPortFrom(a, p.HostPort), Link: link, Share: share, To: p.To})
		}
		l := p.Listen
		byLink := l.Except || len(l.Links) > 0
		switch {
		case p.HostIP.IsValid() && !p.HostIP.IsUnspecified():
			add(p.HostIP, 0, false)
			continue
		case !byLink && len(l.Addrs) == 0:
			add(all, 0, false)
			continue
		}
		for _, a := range l.Addrs {
			if a.Is6() == p.To.Addr().Is6() {
				add(a, 0, byLink)
			}
		}
		for _, link := range links {
			if byLink && link.master == 0 && (link.name == "lo" || slices.Contains(l.Links, link.name) != l.Except) {
				add(all, int(link.index), true)
			}
		}
	}
	return out, nil
}

// countPorts has what goes through these ports counted, where the kernel can. Called with mu held.
func (h *Host) countPorts(ports []Port) error {
	if h.lacks != lacksNothing || h.blind != nil {
		return nil
	}
	err := h.count.Set(ports)
	if errors.Is(err, nft.ErrNoCounters) {
		h.blind = err
		return nil
	}
	return err
}

// Count is what went through a published port, both ways, since it was published. The proxy's begins anew with the engine, and
// of a connection that goes on it knows up to the last MiB each way.
type Count struct {
	Packets     uint64 // not seen by the proxy
	Bytes       uint64 // with the headers of IP and above; the proxy's without
	Connections uint64 // seen by the proxy only; of UDP, callers
}

// Counts tells what went through each of these ports; the error says why it is not known.
func (h *Host) Counts(ports []Port) ([]Count, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := make([]Count, len(ports))
	if h.why != "" {
		for i, p := range ports {
			sockets, err := proxyPorts([]Port{p})
			if err != nil {
				return nil, err
			}
			out[i].Connections, out[i].Bytes = h.proxy.Count(sockets)
		}
		return out, nil
	}
	if h.blind != nil || len(ports) == 0 {
		return out, h.blind
	}
	list, err := h.count.Read(ports)
	for i, c := range list {
		out[i] = Count{Packets: c.Packets, Bytes: c.Bytes}
	}
	return out, err
}
