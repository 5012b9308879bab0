// Package names is what a container is told of names: its files hosts, hostname and resolv.conf, which it sees mounted, and a
// name server of its own where its networks answer names. It knows containers by their records; who is to be told what, and
// when, is the network driver's to say.
package names

import (
	"bufio"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/coble-os/coble/init/notify"
	"github.com/coble-os/coble/netcfg/dns"
	"github.com/coble-os/coble/rt/containers"
	"github.com/coble-os/coble/rt/networks"
	"github.com/coble-os/coble/rt/store"
)

// named tells whether names are answered in any of these networks: in all but the default one, as Docker has it.
func named(ends []store.End) bool {
	return slices.ContainsFunc(ends, func(end store.End) bool { return end.Name != networks.Default })
}

// Names is what the containers of an engine are told. Its methods may be called from any goroutine.
type Names struct {
	containers *containers.Table
	networks   *networks.Registry
	keeper     *notify.Link
	host       resolverFile

	mu      sync.Mutex                            // also held while sockets are opened: one container has one server
	servers map[*containers.Container]*dns.Server // of those that run in a network that answers names; guarded by mu
}

// New is for these containers in these networks. The keeper holds the name servers' sockets.
func New(c *containers.Table, n *networks.Registry, keeper *notify.Link) *Names {
	return &Names{containers: c, networks: n, keeper: keeper, servers: map[*containers.Container]*dns.Server{}}
}

// socket is what the keeper calls the name server's socket for UDP, which next to all questions come to: what is asked while no
// engine lives is answered by the next one. Who calls by TCP then is refused, and may come again.
const socket = "dns"

// Serve starts a container's name server in the network namespace of pid, if its networks have one and it does not run yet.
func (n *Names) Serve(c *containers.Container, ends []store.End, pid int) error {
	return n.serve(c, ends, pid, nil)
}

// Resume goes on where an earlier engine's server was. It is called before the keeper's descriptors are swept.
func (n *Names) Resume(c *containers.Container, ends []store.End, pid int) error {
	earlier := n.keeper.Take(c.FDName(socket))
	if earlier != nil {
		defer earlier.Close()
	}
	return n.serve(c, ends, pid, earlier)
}

func (n *Names) serve(c *containers.Container, ends []store.End, pid int, earlier *os.File) error {
	if !named(ends) {
		return nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.servers[c] != nil {
		return nil
	}
	udp, tcp, err := dns.Listen(pid, earlier)
	if err != nil {
		return err
	}
	n.servers[c] = dns.Serve(udp, tcp, &zone{n: n, c: c})
	if earlier != nil {
		n.keeper.Drop(c.FDName(socket)) // it may be another now
	}
	return n.keeper.Store(c.FDName(socket), udp.(syscall.Conn))
}

// End stops it.
func (n *Names) End(c *containers.Container) {
	n.mu.Lock()
	s := n.servers[c]
	delete(n.servers, c)
	n.mu.Unlock()
	if s != nil {
		n.keeper.Drop(c.FDName(socket)) // it would keep the network namespace
		s.Close()
	}
}

// zone is what a container may know: the names in the networks that it is in.
type zone struct {
	n *Names
	c *containers.Container
}

// Resolve finds a container by any of its names, or by name.network.
func (z *zone) Resolve(name string) (addrs []netip.Addr, known bool) {
	z.visit(func(v containers.View, end store.End) {
		bare := strings.TrimSuffix(name, "."+strings.ToLower(end.Name))
		if !slices.ContainsFunc(Of(v, end.Name), func(n string) bool { return strings.EqualFold(n, name) || strings.EqualFold(n, bare) }) {
			return
		}
		known = true
		for _, p := range []netip.Prefix{end.V4, end.V6} {
			if p.IsValid() {
				addrs = append(addrs, p.Addr())
			}
		}
	})
	for link, alias := range z.links() {
		if strings.EqualFold(alias, name) && link != "" {
			if linked, ok := z.Resolve(strings.ToLower(link)); ok {
				addrs, known = append(addrs, linked...), true
			}
		}
	}
	return addrs, known
}

// links are the names that only this container gives to others, by theirs.
func (z *zone) links() map[string]string {
	out := map[string]string{}
	v := z.c.View()
	for _, end := range v.State.Ends {
		if s := v.Networks[end.Name]; s != nil {
			for _, l := range s.Links {
				if name, alias, ok := strings.Cut(l, ":"); ok && !strings.EqualFold(name, alias) {
					out[name] = alias
				}
			}
		}
	}
	return out
}

func (z *zone) Reverse(a netip.Addr) (name string, known bool) {
	z.visit(func(v containers.View, end store.End) {
		if a == end.V4.Addr() || a == end.V6.Addr() {
			name, known = v.Name+"."+end.Name, true
		}
	})
	return name, known
}

// visit calls f for each place that a running container has in a network of this one's that answers names.
func (z *zone) visit(f func(containers.View, store.End)) {
	mine := map[string]bool{}
	for _, end := range z.c.View().State.Ends {
		mine[end.Network] = end.Name != networks.Default
	}
	for _, other := range z.n.containers.All() {
		v := other.View()
		if !v.State.Running() && !v.State.Starting {
			continue
		}
		for _, end := range v.State.Ends {
			if mine[end.Network] {
				f(v, end)
			}
		}
	}
}

// Upstream are the container's own resolvers or else the host's of now. From internal networks alone there are none.
func (z *zone) Upstream() []netip.AddrPort {
	v := z.c.View()
	out := false
	for _, end := range v.State.Ends {
		n, err := z.n.networks.Get(end.Network)
		out = out || err == nil && !n.Internal
	}
	servers := v.Host.DNS
	switch {
	case !out:
		return nil
	case len(servers) == 0:
		servers = z.n.host.get()
	}
	var ports []netip.AddrPort
	for _, a := range servers {
		ports = append(ports, netip.AddrPortFrom(a, 53))
	}
	return ports
}

// resolverFile is the host's resolv.conf(5), read again when it has changed.
type resolverFile struct {
	mu      sync.Mutex
	changed time.Time    // guarded by mu
	servers []netip.Addr // guarded by mu
}

func (r *resolverFile) get() []netip.Addr {
	r.mu.Lock()
	defer r.mu.Unlock()
	f, err := os.Open("/etc/resolv.conf")
	if err != nil {
		return nil
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil {
		if st.ModTime().Equal(r.changed) && !r.changed.IsZero() {
			return r.servers
		}
		r.changed = st.ModTime()
	}
	r.servers = nil
	for s := bufio.NewScanner(f); s.Scan(); {
		if word := strings.Fields(s.Text()); len(word) > 1 && word[0] == "nameserver" {
			if a, err := netip.ParseAddr(word[1]); err == nil {
				r.servers = append(r.servers, a)
			}
		}
	}
	return r.servers
}

// Of is pure: what a container is called in a network, its own name first.
func Of(v containers.View, name string) []string {
	names := []string{v.Name}
	if s := v.Networks[name]; s != nil {
		names = append(names, s.Aliases...)
	}
	names = append(names, v.ID[:12])
	if h := v.Config.Hostname; h != "" {
		names = append(names, h)
	}
	slices.Sort(names[1:])
	return append(names[:1], slices.DeleteFunc(slices.Compact(names[1:]), func(s string) bool { return s == v.Name })...)
}
