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
	"os"
	"path/filepath"
	"strings"
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
}

// New describes what the engine of that name has; nothing is made before it is needed.
func New(name string) *Host {
	return &Host{name: name, ready: map[string]Network{}, links: nft.NewLinks(name), proxy: proxy.New()}
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
// second call with the same configuration sends nothing to the kernel but questions.
func (h *Host) Set(c Config) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	stale, err := h.dropStale(c)
	if err != nil || len(c.Networks) == 0 && !stale {
		return err
	}
	r := nft.Rules{Table: h.name, Ports: c.Ports}
	for _, n := range c.Networks {
		if err := h.ensure(n); err != nil {
			return err
		}
		r.Networks = append(r.Networks, n.Network)
	}
	if err := h.watchLinks(c.Links); err != nil {
		return err
	}
	return h.apply(r)
}

// Firewalls reads what others' rules make of what is forwarded.
func Firewalls() (*hostfw.Rules, error) { return hostfw.Read(nft.Ours) }

// leaveDecided finds out whether another firewall decides what the host forwards, where coble would have to. Called with mu held.
func (h *Host) leaveDecided(r *nft.Rules) error {
	g, err := h.guards()
	if err != nil || g == [2]bool{} {
		return err
	}
	others, err := Firewalls()
	if err != nil {
		return err
	}
	r.Decided4, r.Decided6 = g[0] && others.Closed(false), g[1] && others.Closed(true)
	return nil
}

// guards says for which families forwarding was off before coble came, be it this engine or another that is still there.
// Called with mu held.
func (h *Host) guards() ([2]bool, error) {
	if h.guard != nil {
		return *h.guard, nil
	}
	own, _, err := nft.Guards(h.name)
	if errors.Is(err, nft.ErrMissing) {
		err = nil
	}
	if err == nil {
		h.guard = &own
	}
	return own, err
}

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
	return h.links.Add(l)
}

func (h *Host) unwatch(name string) error {
	l, known := h.known[name]
	if !known {
		return nil
	}
	delete(h.known, name)
	return h.links.Drop(l)
}

// dropStale removes the engine's bridges, the links on them and the parents that nobody wants, and tells whether there was
// a bridge.
// Called with mu held.
func (h *Host) dropStale(c Config) (bool, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return false, fmt.Errorf("list links: %w", err)
	}
	wanted, ours, dropped := map[string]bool{}, map[int]bool{}, false
	for _, n := range c.Networks {
		wanted[n.Bridge] = true
	}
	for _, n := range c.Attached {
		wanted[n.Parent] = true
	}
	for _, l := range links {
		if a := l.Attrs(); a.Alias == alias(h.name) || l.Type() == "bridge" && wanted[a.Name] {
			ours[a.Index] = true
		}
	}
	for _, l := range links {
		a := l.Attrs()
		_, used := c.Links[a.Name]
		link := ours[a.MasterIndex] && !used
		made := ours[a.Index] && !wanted[a.Name]
		if !link && !made {
			continue
		}
		if err := netlink.LinkDel(l); err != nil && !gone(err) {
			return false, fmt.Errorf("remove link %s: %w", a.Name, err)
		}
		if made && l.Type() == "bridge" {
			delete(h.ready, a.Name)
			dropped = true
		}
	}
	return dropped, nil
}

// ensure makes the bridge and switches forwarding on. Called with mu held.
func (h *Host) ensure(n Network) error {
	link, err := netlink.LinkByName(n.Bridge)
	if err == nil && h.ready[n.Bridge] == n {
		return nil
	}
	if err == nil && link.Type() != "bridge" {
		return fmt.Errorf("make bridge %s: there is a link of that name already, of type %s", n.Bridge, link.Type())
	}
	if err != nil {
		if link, err = makeBridge(n); err != nil {
			return err
		}
	}
	if link.Attrs().Alias == "" {
		if err := netlink.LinkSetAlias(link, alias(h.name)); err != nil {
			return fmt.Errorf("mark bridge %s: %w", n.Bridge, err)
		}
	}
	for _, p := range []netip.Prefix{netip.PrefixFrom(n.Gateway4, max(n.V4.Bits(), 0)), netip.PrefixFrom(n.Gateway6, max(n.V6.Bits(), 0))} {
		if !p.Addr().IsValid() {
			continue
		}
		if err := netlink.AddrReplace(link, address(p)); err != nil {
			return fmt.Errorf("set address %s of bridge %s: %w", p, n.Bridge, err)
		}
	}
	if link.Attrs().Group != nft.LinkGroup {
		if err := netlink.LinkSetGroup(link, nft.LinkGroup); err != nil {
			return fmt.Errorf("mark bridge %s: %w", n.Bridge, err)
		}
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("set bridge %s up: %w", n.Bridge, err)
	}
	// A published port is reached from the host's own 127.0.0.1 too; the rules keep others away from there.
	if err := sysctl("net/ipv4/conf/"+n.Bridge+"/route_localnet", "1"); err != nil {
		return err
	}
	if err := h.forward(n); err != nil {
		return err
	}
	h.ready[n.Bridge] = n
	return nil
}

func makeBridge(n Network) (netlink.Link, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = n.Bridge, n.MTU
	attrs.HardwareAddr = MACFor(n.Gateway4)
	if !n.Gateway4.IsValid() {
		attrs.HardwareAddr = MACFor(n.Gateway6)
	}
	if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		if errors.Is(err, unix.EOPNOTSUPP) {
			return nil, fmt.Errorf("make bridge %s: %w: the kernel has no bridge (CONFIG_BRIDGE; is the module loaded?)", n.Bridge, err)
		}
		return nil, fmt.Errorf("make bridge %s: %w", n.Bridge, err)
	}
	return netlink.LinkByName(n.Bridge)
}

// forward switches forwarding on for what the network has. Where it was off, the table is told to let nothing through that
// is not ours, so that the host does not become a router for others.
func (h *Host) forward(n Network) error {
	if n.Internal {
		return nil
	}
	if n.V4.IsValid() {
		if err := h.forwardFamily(false); err != nil {
			return err
		}
	}
	if !n.V6.IsValid() {
		return nil
	}
	return h.forwardFamily(true)
}

var forwardKeys = [2]string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"}

// forwardFamily switches forwarding on for one family, of IPv6 if six. If it is on because of another engine, this one keeps the
// guard too: either may go.
func (h *Host) forwardFamily(six bool) error {
	i := 0
	if six {
		i = 1
	}
	b, err := os.ReadFile("/proc/sys/" + forwardKeys[i])
	if err != nil {
		return err
	}
	on := strings.TrimSpace(string(b)) == "1"
	g, err := h.guards()
	if err != nil {
		return err
	}
	if on && !g[i] {
		_, others, err := nft.Guards(h.name)
		if errors.Is(err, nft.ErrMissing) {
			return nil
		}
		if err != nil || !others[i] {
			return err
		}
	}
	if !g[i] || !on {
		if h.lacks == lacksAll {
			return nil
		}
		err := nft.Guard(h.name, six)
		if errors.Is(err, nft.ErrMissing) { // without a guard the host would be anybody's router
			return nil
		}
		if err != nil {
			return err
		}
		h.guard[i] = true
	}
	if on {
		return nil
	}
	if six {
		if err := keepAutoconf(); err != nil {
			return err
		}
	}
	return sysctl(forwardKeys[i], "1")
}

// keepAutoconf lets links that take their IPv6 address from router advertisements go on doing so when the host forwards
// (Documentation/networking/ip-sysctl, accept_ra).
func keepAutoconf() error {
	files, err := filepath.Glob("/proc/sys/net/ipv6/conf/*/accept_ra")
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil || strings.TrimSpace(string(b)) != "1" {
			continue // gone meanwhile, or set on purpose
		}
		if err := sysctl(strings.TrimPrefix(f, "/proc/sys/"), "2"); err != nil {
			return err
		}
	}
	return err
}

func sysctl(key, value string) error {
	if err := os.WriteFile("/proc/sys/"+key, []byte(value), 0); err != nil {
		return fmt.Errorf("set sysctl %s to %s: %w", strings.ReplaceAll(key, "/", "."), value, err)
	}
	return nil
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
	_, derr := h.dropStale(Config{})
	return errors.Join(err, derr)
}

// stopForwarding switches forwarding off again where it was off before, unless another engine needs it still, or a firewall
// decides by now what is forwarded.
func stopForwarding(name string) error {
	own, _, err := nft.Guards(name)
	if errors.Is(err, nft.ErrMissing) {
		return nil
	}
	if err != nil || own == [2]bool{} {
		return err
	}
	links, err := netlink.LinkList()
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	for _, l := range links {
		if a := l.Attrs(); a.Group == nft.LinkGroup && a.Alias != alias(name) {
			return nil
		}
	}
	others, err := Firewalls()
	if err != nil {
		return err
	}
	for i, key := range forwardKeys {
		if own[i] && !others.Closed(i == 1) {
			err = errors.Join(err, sysctl(key, "0"))
		}
	}
	return err
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
