// Package netcfg makes container networks what they should be: Set takes the whole desired state and brings the kernel
// there, whatever it finds. It owns the bridges, VLANs and dummies that have the engine's name in their alias, the links
// plugged into them and the nftables tables of that name, and changes nothing else of the host's but forwarding, which it
// guards (see nft).
// It imports nothing else of coble.
package netcfg

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/netcfg/hostfw"
	"github.com/coble-os/coble/netcfg/nft"
	"github.com/coble-os/coble/netcfg/proxy"
)

// Network is one bridge network.
type Network struct {
	nft.Network
	Gateway4, Gateway6 netip.Addr // the bridge's own addresses, where it has any
	MTU                int        // bytes; 0: the kernel's default
}

// Config is the desired state.
type Config struct {
	Networks []Network
	Attached []Attachment // whose parents stay
	Ports    []Port
	Links    map[string]Link // host ends of the links that are in use, by name; others on the bridges are removed
}

// Link is a container's end of a bridge. What it sends must have its addresses, if it has a MAC here.
type Link = nft.Link

// Port is a published port.
type Port = nft.Port

// Host is what one engine has of the host's network. Its methods may be called from any goroutine.
type Host struct {
	name string

	mu    sync.Mutex         // held during each change: the kernel sees one at a time
	ready map[string]Network // bridges that are up, by name; guarded by mu
	links *nft.Links         // whose frames are looked at
	known map[string]Link    // the links in that table; nil before it was looked for; guarded by mu
	loose error              // why frames cannot be looked at; guarded by mu
	guard *[2]bool           // forwarding of IPv4 and IPv6 was off before; nil before that was looked for; guarded by mu
	lacks lack               // guarded by mu
	why   string             // ports are published by the proxy; guarded by mu
	proxy *proxy.Proxy
	count *nft.Counts
	blind error            // why what goes through published ports is not counted; guarded by mu
	view  view             // guarded by mu
	rest  rest             // guarded by mu
	made  bool             // a bridge was, since Set began; guarded by mu
	taken map[string]error // networks that the last Set left out, by bridge; guarded by mu
	gone  []string         // links that were wanted at the last Set and were not there; guarded by mu
}

// New describes what the engine of that name has; nothing is made before it is needed.
func New(name string) *Host {
	return &Host{name: name, ready: map[string]Network{}, links: nft.NewLinks(name), proxy: proxy.New(), count: nft.NewCounts(name)}
}

// Loose says why containers are not kept from pretending to have each other's addresses; nil where they are.
func (h *Host) Loose() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.loose
}

// alias marks a bridge as that engine's (ip-link(8), alias).
func alias(name string) string { return "coble:" + name }

// Set brings bridges, links and rules to the desired state. With nothing wanted and nothing there it does nothing. A
// second call with the same configuration sends nothing to the kernel but questions, and those do not grow with the number of
// links. A network that another engine has is left out (Taken).
func (h *Host) Set(c Config) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	links, err := h.view.look()
	if err != nil {
		return err
	}
	s := h.survey(c, links)
	if !s.settled() { // decide on what is so for sure
		if links, err = h.view.list(); err != nil {
			return err
		}
		s = h.survey(c, links)
	}
	stale, err := h.dropStale(s)
	if err != nil || len(c.Networks) == 0 && !stale {
		return err
	}
	h.made = false
	r := nft.Rules{Table: h.name, Ports: c.Ports}
	h.taken = map[string]error{}
	for _, n := range c.Networks {
		_, err := h.ensure(n, links)
		if errors.Is(err, ErrTaken) { // the others need not suffer
			h.taken[n.Bridge] = err
			continue
		}
		if err != nil {
			return err
		}
		r.Networks = append(r.Networks, n.Network)
	}
	if h.made {
		if links, err = h.view.list(); err != nil {
			return err
		}
		s = h.survey(c, links)
	}
	if err := rejoin(c, links, s.astray); err != nil {
		return err
	}
	h.gone = s.missing
	if err := h.watchLinks(c.Links); err != nil {
		return err
	}
	return h.apply(r)
}

// ErrTaken says that another engine of this host has a network's addresses, or its bridge.
var ErrTaken = errors.New("another engine has it")

// Taken says, with ErrTaken, why the last Set left out the network of this bridge; nil if it did not.
func (h *Host) Taken(bridge string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.taken[bridge]
}

// Missing are the links that were wanted at the last Set and were not there: they are about to be made, or somebody removed
// them.
func (h *Host) Missing() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.gone
}

// Firewalls reads what others' rules make of what is forwarded.
func Firewalls() (*hostfw.Rules, error) { return hostfw.Read(nft.Ours) }

// watchLinks takes over the table of links from an earlier engine. Later on links come and go one by one. Called with mu
// held.
func (h *Host) watchLinks(links map[string]Link) error {
	if h.known != nil || h.loose != nil {
		return nil
	}
	var list []Link
	known := map[string]Link{}
	for _, l := range links {
		if l.MAC != nil && Exists(l.Name) {
			list = append(list, l)
			known[l.Name] = l
		}
	}
	err := h.links.Set(list)
	if errors.Is(err, nft.ErrNoBridgeFilter) {
		h.loose = err
		return nil
	}
	if err == nil {
		h.known = known
	}
	return err
}

// watch puts a link into the table, unwatch takes it out. Called with mu held.
func (h *Host) watch(l Link) error {
	if l.MAC == nil || h.known == nil {
		return nil
	}
	h.unwatch(l.Name)
	h.known[l.Name] = l
	return h.beside(func() error { return h.links.Add(l) })
}

func (h *Host) unwatch(name string) error {
	l, known := h.known[name]
	if !known {
		return nil
	}
	delete(h.known, name)
	return h.beside(func() error { return h.links.Drop(l) })
}

// dropStale removes what is stale, and tells whether a bridge is gone. Called with mu held.
func (h *Host) dropStale(s survey) (dropped bool, err error) {
	for _, l := range s.stale {
		if err := netlink.LinkDel(l.device()); err != nil && !gone(err) {
			return false, fmt.Errorf("remove link %s: %w", l.name, err)
		}
		if l.kind == "bridge" {
			delete(h.ready, l.name)
			dropped = true
		}
	}
	return dropped, nil
}

func gone(err error) bool {
	var notFound netlink.LinkNotFoundError
	return errors.As(err, &notFound) || errors.Is(err, unix.ENODEV)
}

// Exists tells whether the host has a link of that name.
func Exists(link string) bool {
	_, err := netlink.LinkByName(link)
	return err == nil
}

// CleanUp removes everything that an engine of this name ever made, without knowing what that was. Bridge is the default
// one, which older versions did not mark.
func CleanUp(name, bridge string) error {
	h := New(name)
	err := errors.Join(stopForwarding(name), nft.Remove(name), h.links.Remove())
	if l, lerr := netlink.LinkByName(bridge); lerr == nil && l.Attrs().Alias == "" && l.Type() == "bridge" {
		err = errors.Join(err, netlink.LinkSetAlias(l, alias(name)))
	}
	links, derr := h.view.list()
	if derr == nil {
		_, derr = h.dropStale(h.survey(Config{}, links))
	}
	return errors.Join(err, derr)
}

// MACFor makes an address of the locally administered kind, the same each time for the same IP, so that a neighbour's
// ARP cache stays true over a restart.
func MACFor(a netip.Addr) net.HardwareAddr {
	if !a.Is4() {
		sum := sha256.Sum256(a.AsSlice())
		return net.HardwareAddr{0x02, 0x43, sum[0], sum[1], sum[2], sum[3]}
	}
	b := a.As4()
	return net.HardwareAddr{0x02, 0x42, b[0], b[1], b[2], b[3]}
}

// address is p for a link. IPv6's is usable at once: nobody else has it.
func address(p netip.Prefix) *netlink.Addr {
	a := &netlink.Addr{IPNet: ipNet(p)}
	if p.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	return a
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
