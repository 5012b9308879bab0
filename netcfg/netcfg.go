// Package netcfg makes a container network what it should be: Set takes the whole desired state and brings the kernel
// there, whatever it finds. It owns one bridge, the links plugged into it and one nftables table, all named after the
// engine, and changes nothing else of the host's but IPv4 forwarding, which it guards (see nft). It imports nothing
// else of coble.
package netcfg

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/netcfg/nft"
)

// Options name one bridge network.
type Options struct {
	Name    string // of the bridge
	Table   string // of the nftables table
	Subnet  netip.Prefix
	Gateway netip.Addr // the bridge's own address
	MTU     int        // bytes; 0: the kernel's default
}

// Config is the desired state.
type Config struct {
	Ports []Port
	Links map[string]bool // host ends of the links that are in use; others on the bridge are removed
}

// Port is a published port.
type Port = nft.Port

// Endpoint is a container's link.
type Endpoint struct {
	HostIf string // name of the host's end
	IfName string // name in the container
	Pid    int    // a process in the container's network namespace
	Addr   netip.Prefix
	MAC    net.HardwareAddr
}

// Bridge is one bridge network. Its methods may be called from any goroutine.
type Bridge struct {
	o Options

	mu    sync.Mutex // held during each change: the kernel sees one at a time
	ready bool       // the bridge is up; guarded by mu
}

// NewBridge describes a network; nothing is made before it is needed.
func NewBridge(o Options) *Bridge { return &Bridge{o: o} }

// Set brings bridge, links and rules to the desired state. With nothing wanted and nothing there it does nothing. A
// second call with the same configuration sends nothing to the kernel but questions.
func (b *Bridge) Set(c Config) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	link, err := netlink.LinkByName(b.o.Name)
	there := err == nil
	if len(c.Links) == 0 && len(c.Ports) == 0 && !there {
		return nil
	}
	if err := b.ensure(); err != nil {
		return err
	}
	if there {
		if err := b.dropStale(link, c.Links); err != nil {
			return err
		}
	}
	return nft.Apply(nft.Rules{Table: b.o.Table, Bridge: b.o.Name, Subnet: b.o.Subnet, Ports: c.Ports})
}

// ensure makes the bridge and switches forwarding on. Called with mu held.
func (b *Bridge) ensure() error {
	link, err := netlink.LinkByName(b.o.Name)
	if b.ready && err == nil {
		return nil
	}
	if err != nil {
		if link, err = b.make(); err != nil {
			return err
		}
	}
	want := &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(b.o.Gateway, b.o.Subnet.Bits()))}
	if err := netlink.AddrReplace(link, want); err != nil {
		return fmt.Errorf("set address %s of bridge %s: %w", want, b.o.Name, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("set bridge %s up: %w", b.o.Name, err)
	}
	// A published port is reached from the host's own 127.0.0.1 too; the rules keep others away from there.
	if err := sysctl("net/ipv4/conf/"+b.o.Name+"/route_localnet", "1"); err != nil {
		return err
	}
	b.ready = true
	return forward(b.o.Table)
}

func (b *Bridge) make() (netlink.Link, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = b.o.Name, b.o.MTU
	attrs.HardwareAddr = MACFor(b.o.Gateway)
	if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		if errors.Is(err, unix.EOPNOTSUPP) {
			return nil, fmt.Errorf("make bridge %s: %w: the kernel has no bridge (CONFIG_BRIDGE; is the module loaded?)", b.o.Name, err)
		}
		return nil, fmt.Errorf("make bridge %s: %w", b.o.Name, err)
	}
	return netlink.LinkByName(b.o.Name)
}

// forward switches IPv4 forwarding on. Where it was off, the table is told to let nothing through that is not ours, so
// that the host does not become a router for others.
func forward(table string) error {
	const key = "net/ipv4/ip_forward"
	b, err := os.ReadFile("/proc/sys/" + key)
	if err != nil || strings.TrimSpace(string(b)) == "1" {
		return err
	}
	if err := nft.Guard(table); err != nil {
		return err
	}
	return sysctl(key, "1")
}

func sysctl(key, value string) error {
	if err := os.WriteFile("/proc/sys/"+key, []byte(value), 0); err != nil {
		return fmt.Errorf("set sysctl %s to %s: %w", strings.ReplaceAll(key, "/", "."), value, err)
	}
	return nil
}

// dropStale removes the links on the bridge that nobody wants. Called with mu held.
func (b *Bridge) dropStale(bridge netlink.Link, keep map[string]bool) error {
	links, err := netlink.LinkList()
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	for _, l := range links {
		if a := l.Attrs(); a.MasterIndex == bridge.Attrs().Index && !keep[a.Name] {
			if err := netlink.LinkDel(l); err != nil && !gone(err) {
				return fmt.Errorf("remove link %s: %w", a.Name, err)
			}
		}
	}
	return nil
}

func gone(err error) bool {
	var notFound netlink.LinkNotFoundError
	return errors.As(err, &notFound) || errors.Is(err, unix.ENODEV)
}

// Plug gives a container its link: a veth pair with one end on the bridge and the other, addressed and up, in the
// namespace of the endpoint's process.
func (b *Bridge) Plug(e Endpoint) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.ensure(); err != nil {
		return err
	}
	bridge, err := netlink.LinkByName(b.o.Name)
	if err != nil {
		return fmt.Errorf("find bridge %s: %w", b.o.Name, err)
	}
	if old, err := netlink.LinkByName(e.HostIf); err == nil {
		netlink.LinkDel(old)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MasterIndex, attrs.MTU = e.HostIf, bridge.Attrs().Index, bridge.Attrs().MTU
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: e.IfName, PeerHardwareAddr: e.MAC, PeerNamespace: netlink.NsPid(e.Pid), PeerMTU: uint32(bridge.Attrs().MTU)}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("make veth pair %s: %w", e.HostIf, err)
	}
	if err := netlink.LinkSetUp(veth); err != nil {
		return fmt.Errorf("set link %s up: %w", e.HostIf, err)
	}
	return b.inside(e)
}

// inside brings up loopback, the container's end, its address and its default route.
func (b *Bridge) inside(e Endpoint) error {
	ns, err := netns.GetFromPid(e.Pid)
	if err != nil {
		return fmt.Errorf("open network namespace of process %d: %w", e.Pid, err)
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("enter network namespace of process %d: %w", e.Pid, err)
	}
	defer h.Close()
	if lo, err := h.LinkByName("lo"); err == nil {
		h.LinkSetUp(lo)
	}
	link, err := h.LinkByName(e.IfName)
	if err != nil {
		return fmt.Errorf("find %s in the container: %w", e.IfName, err)
	}
	if err := h.AddrAdd(link, &netlink.Addr{IPNet: ipNet(e.Addr)}); err != nil {
		return fmt.Errorf("set address %s in the container: %w", e.Addr, err)
	}
	if err := h.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s in the container up: %w", e.IfName, err)
	}
	if err := h.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: b.o.Gateway.AsSlice()}); err != nil {
		return fmt.Errorf("set default route in the container: %w", err)
	}
	return nil
}

// LoopbackUp brings up loopback in the namespace of a process, for a container with no other link.
func LoopbackUp(pid int) error {
	ns, err := netns.GetFromPid(pid)
	if err != nil {
		return fmt.Errorf("open network namespace of process %d: %w", pid, err)
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("enter network namespace of process %d: %w", pid, err)
	}
	defer h.Close()
	lo, err := h.LinkByName("lo")
	if err != nil {
		return err
	}
	return h.LinkSetUp(lo)
}

// Unplug removes a container's link; one that has gone with its namespace is none to remove.
func (b *Bridge) Unplug(hostIf string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	l, err := netlink.LinkByName(hostIf)
	if err != nil {
		return nil
	}
	if err := netlink.LinkDel(l); err != nil && !gone(err) {
		return fmt.Errorf("remove link %s: %w", hostIf, err)
	}
	return nil
}

// CleanUp removes everything that an engine of this name ever made, without knowing what that was.
func CleanUp(bridge, table string) error {
	err := nft.Remove(table)
	l, lerr := netlink.LinkByName(bridge)
	if lerr != nil {
		return err
	}
	b := &Bridge{o: Options{Name: bridge}}
	return errors.Join(err, b.dropStale(l, nil), netlink.LinkDel(l))
}

// FreeSubnet finds a /16 for containers that the host does not route anywhere yet.
func FreeSubnet() (netip.Prefix, error) {
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("list routes: %w", err)
	}
	var taken []netip.Prefix
	for _, r := range routes {
		if r.Dst == nil {
			continue
		}
		a, _ := netip.AddrFromSlice(r.Dst.IP.To4())
		ones, _ := r.Dst.Mask.Size()
		if a.IsValid() && ones > 0 {
			taken = append(taken, netip.PrefixFrom(a, ones))
		}
	}
	return chooseSubnet(taken)
}

// chooseSubnet is pure: the first of 10.88.0.0/16 to 10.255.0.0/16 that overlaps nothing.
func chooseSubnet(taken []netip.Prefix) (netip.Prefix, error) {
next:
	for i := 88; i < 256; i++ {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i), 0, 0}), 16)
		for _, t := range taken {
			if t.Overlaps(p) {
				continue next
			}
		}
		return p, nil
	}
	return netip.Prefix{}, errors.New("find a free subnet: the host routes all of 10.88.0.0 to 10.255.0.0; name one in [network.default]")
}

// InUse says whether a program on the host listens on the port already.
func InUse(proto, ip string, port uint16) bool {
	at := net.JoinHostPort(ip, strconv.Itoa(int(port)))
	if proto == "udp" {
		c, err := net.ListenPacket("udp4", at)
		if err == nil {
			c.Close()
		}
		return errors.Is(err, unix.EADDRINUSE)
	}
	l, err := net.Listen("tcp4", at)
	if err == nil {
		l.Close()
	}
	return errors.Is(err, unix.EADDRINUSE)
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

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
