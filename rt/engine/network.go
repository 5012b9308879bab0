package engine

import (
	"bufio"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/coble-os/coble/netcfg"
	"github.com/coble-os/coble/netcfg/ipam"
	"github.com/coble-os/coble/rt/fault"
	"github.com/coble-os/coble/rt/store"
)

// portKey is a published port of the host's. An empty address is every address.
type portKey struct {
	proto string
	ip    string
	port  uint16
}

// endpoint is a container's place in the default network.
type endpoint struct {
	addr  netip.Prefix // its address with the network's length
	host  string       // name of the host's end of the veth pair
	ports []store.PortLease
}

func (e *Engine) openNetwork() error {
	subnet, err := e.chooseSubnet()
	if err != nil {
		return err
	}
	if e.pool, err = ipam.New(ipam.Options{Subnet: subnet}); err != nil {
		return err
	}
	e.net = netcfg.NewBridge(netcfg.Options{Name: e.bridgeName(), Table: e.name, Subnet: subnet, Gateway: e.pool.Gateway(), MTU: e.o.Network.MTU})
	return nil
}

func (e *Engine) bridgeName() string { return BridgeName(e.name) }

// BridgeName is the bridge of the instance.
func BridgeName(instance string) string {
	if instance == "coble" {
		return "coble0"
	}
	return instance
}

// chooseSubnet keeps the network that the installation has, unless it is told another.
func (e *Engine) chooseSubnet() (netip.Prefix, error) {
	if s := e.o.Network.Subnet; s != "" {
		p, err := netip.ParsePrefix(s)
		if err != nil || !p.Addr().Is4() || p.Bits() > 30 {
			return p, fmt.Errorf("network subnet %q: want an IPv4 prefix such as 10.88.0.0/24", s)
		}
		return p.Masked(), nil
	}
	if kept, err := netip.ParsePrefix(string(e.store.Meta("subnet"))); err == nil {
		return kept, nil
	}
	subnet, err := netcfg.FreeSubnet()
	if err != nil {
		return subnet, err
	}
	return subnet, e.store.PutMeta("subnet", []byte(subnet.String()))
}

// claimAddress marks a container's kept address as taken.
func (e *Engine) claimAddress(c *ctr) {
	if a, err := netip.ParseAddr(c.spec().Address); err == nil {
		if err := e.pool.Claim(c.spec().ID, a); err != nil {
			e.log.Warn("address of container is not in the network any more; it gets another at its next start", "container", c.spec().Name, "err", err)
			c.setSpec(func(s *store.Spec) { s.Address = "" })
		}
	}
}

func (e *Engine) releaseAddress(c *ctr) { e.pool.Release(c.spec().ID) }

// reserveNetwork gives the container an address and its host ports, before anything is made.
func (e *Engine) reserveNetwork(c *ctr, u *undo) (endpoint, error) {
	if c.spec().Host.NetworkMode != "bridge" {
		return endpoint{}, nil
	}
	addr, err := e.pool.Allocate(c.spec().ID)
	if err != nil {
		return endpoint{}, err
	}
	if c.spec().Address != addr.String() {
		if err := c.setSpec(func(s *store.Spec) { s.Address = addr.String() }); err != nil {
			return endpoint{}, err
		}
	}
	end := endpoint{addr: netip.PrefixFrom(addr, e.pool.Subnet().Bits()), host: "cv" + c.spec().ID[:10]}
	end.ports, err = e.reservePorts(c)
	if err != nil {
		return endpoint{}, err
	}
	u.add(func() { e.releasePorts(c) })
	c.setState(func(st *store.State) { st.Ports, st.HostIf = end.ports, end.host })
	return end, nil
}

// plugNetwork runs while the child waits at its barrier.
func (e *Engine) plugNetwork(c *ctr, end endpoint, pid int, u *undo) error {
	if c.spec().Host.NetworkMode == "none" {
		return netcfg.LoopbackUp(pid)
	}
	if end.host == "" {
		return nil
	}
	if err := e.applyNetwork(); err != nil {
		return err
	}
	u.add(c.unplugNetwork)
	return e.net.Plug(netcfg.Endpoint{HostIf: end.host, IfName: "eth0", Pid: pid, Addr: end.addr, MAC: netcfg.MACFor(end.addr.Addr())})
}

func (c *ctr) unplugNetwork() {
	st := c.view().State
	c.e.releasePorts(c)
	if st.HostIf == "" {
		return
	}
	if err := c.e.net.Unplug(st.HostIf); err != nil {
		c.e.log.Error("remove link", "container", c.spec().Name, "err", err)
	}
	if len(st.Ports) > 0 {
		c.setState(func(st *store.State) { st.Ports = nil })
		if err := c.e.applyNetwork(); err != nil {
			c.e.log.Error("network", "err", err)
		}
	}
}

// applyNetwork tells the network what is wanted: the ports of every container that runs or starts.
func (e *Engine) applyNetwork() error {
	var ports []netcfg.Port
	links := map[string]bool{}
	for _, c := range e.all() {
		v := c.view()
		if !isRunning(v.State) && !v.State.Starting {
			continue
		}
		if v.State.HostIf != "" {
			links[v.State.HostIf] = true
		}
		to, err := netip.ParseAddr(v.Address)
		if err != nil {
			continue
		}
		for _, p := range v.State.Ports {
			ip, _ := netip.ParseAddr(p.HostIP)
			ports = append(ports, netcfg.Port{Proto: p.Proto, HostIP: ip, HostPort: p.HostPort, To: netip.AddrPortFrom(to, p.ContainerPort)})
		}
	}
	return e.net.Set(netcfg.Config{Ports: ports, Links: links})
}

// reservePorts takes the host ports that the container publishes, or says who has one.
func (e *Engine) reservePorts(c *ctr) ([]store.PortLease, error) {
	var leases []store.PortLease
	e.mu.Lock()
	defer e.mu.Unlock()
	for port, bindings := range c.spec().Host.PortBindings {
		for _, b := range bindings {
			lease := store.PortLease{Proto: string(port.Proto()), ContainerPort: port.Num()}
			if b.HostIP.IsValid() && !b.HostIP.IsUnspecified() {
				lease.HostIP = b.HostIP.String()
			}
			low, high, err := hostPorts(b.HostPort)
			if err == nil {
				lease.HostPort, err = e.freePort(c.spec().ID, lease, low, high)
			}
			if err != nil {
				e.dropPorts(c.spec().ID)
				return nil, err
			}
			e.ports[keyOf(lease)] = c.spec().ID
			leases = append(leases, lease)
		}
	}
	return leases, nil
}

// hostPorts reads "", "8080" or "8000-8010".
func hostPorts(s string) (low, high uint16, err error) {
	if s == "" || s == "0" {
		return 32768, 60999, nil
	}
	a, b, ranged := strings.Cut(s, "-")
	if !ranged {
		b = a
	}
	l, err1 := strconv.ParseUint(a, 10, 16)
	h, err2 := strconv.ParseUint(b, 10, 16)
	if err1 != nil || err2 != nil || l == 0 || h < l {
		return 0, 0, fault.New(fault.Invalid, "invalid host port %q", s)
	}
	return uint16(l), uint16(h), nil
}

// freePort finds a port in [low, high] that no container has. Called with mu held.
func (e *Engine) freePort(id string, lease store.PortLease, low, high uint16) (uint16, error) {
	holder := ""
	for p := uint32(low); p <= uint32(high); p++ {
		lease.HostPort = uint16(p)
		if holder = e.portHolder(lease); holder != "" {
			continue
		}
		if netcfg.InUse(lease.Proto, lease.HostIP, lease.HostPort) {
			holder = "another program on the host"
			continue
		}
		return lease.HostPort, nil
	}
	if c := e.containers[holder]; c != nil {
		holder = "container " + c.spec().Name
	}
	return 0, fault.New(fault.Conflict, "Bind for %s:%d failed: port is already allocated by %s", orAny(lease.HostIP), low, holder)
}

func orAny(ip string) string {
	if ip == "" {
		return "0.0.0.0"
	}
	return ip
}

// portHolder says which container has the port on that address or on all. Called with mu held.
func (e *Engine) portHolder(l store.PortLease) string {
	if l.HostIP != "" {
		if id := e.ports[portKey{l.Proto, "", l.HostPort}]; id != "" {
			return id
		}
		return e.ports[keyOf(l)]
	}
	for k, id := range e.ports {
		if k.proto == l.Proto && k.port == l.HostPort {
			return id
		}
	}
	return ""
}

func keyOf(l store.PortLease) portKey { return portKey{l.Proto, l.HostIP, l.HostPort} }

func (e *Engine) claimPorts(c *ctr) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, l := range c.view().State.Ports {
		e.ports[keyOf(l)] = c.spec().ID
	}
}

func (e *Engine) releasePorts(c *ctr) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.dropPorts(c.spec().ID)
}

func (e *Engine) dropPorts(id string) {
	for k, holder := range e.ports {
		if holder == id {
			delete(e.ports, k)
		}
	}
}

// writeNames writes the files that the container sees as /etc/hosts, /etc/hostname and /etc/resolv.conf.
func (c *ctr) writeNames(end endpoint) error {
	hosts := "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n"
	name := c.spec().Config.Hostname
	if d := c.spec().Config.Domainname; d != "" {
		name += "." + d + " " + name
	}
	for _, h := range c.spec().Host.ExtraHosts {
		host, ip, ok := strings.Cut(h, ":")
		if ip == "host-gateway" {
			ip = c.e.pool.Gateway().String()
		}
		if !ok {
			return fault.New(fault.Invalid, "extra host %q: want name:address", h)
		}
		hosts += ip + "\t" + host + "\n"
	}
	if end.addr.IsValid() {
		hosts += end.addr.Addr().String() + "\t" + name + "\n"
	}
	if c.spec().Host.NetworkMode.IsHost() {
		if b, err := os.ReadFile("/etc/hosts"); err == nil {
			hosts = string(b)
		}
	}
	hostname := c.spec().Config.Hostname
	if hostname == "" {
		hostname, _ = os.Hostname()
	}
	files := map[string]string{"hosts": hosts, "hostname": hostname + "\n", "resolv.conf": c.resolvConf()}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(c.runDir(), name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// resolvConf is the host's, without resolvers that only the host can reach, changed by what the container asks for.
func (c *ctr) resolvConf() string {
	h := c.spec().Host
	var servers, rest []string
	f, err := os.Open("/etc/resolv.conf")
	if err == nil {
		defer f.Close()
		for s := bufio.NewScanner(f); s.Scan(); {
			word := strings.Fields(s.Text())
			switch {
			case len(word) < 2 || strings.HasPrefix(word[0], "#"):
			case word[0] == "nameserver":
				a, err := netip.ParseAddr(word[1])
				if err == nil && (!a.IsLoopback() || h.NetworkMode.IsHost()) {
					servers = append(servers, word[1])
				}
			case word[0] == "search" && len(h.DNSSearch) > 0, word[0] == "options" && len(h.DNSOptions) > 0:
			default:
				rest = append(rest, s.Text())
			}
		}
	}
	if len(h.DNS) > 0 {
		servers = nil
		for _, a := range h.DNS {
			servers = append(servers, a.String())
		}
	}
	var b strings.Builder
	for _, s := range servers {
		b.WriteString("nameserver " + s + "\n")
	}
	for _, r := range rest {
		b.WriteString(r + "\n")
	}
	if len(h.DNSSearch) > 0 {
		b.WriteString("search " + strings.Join(h.DNSSearch, " ") + "\n")
	}
	if len(h.DNSOptions) > 0 {
		b.WriteString("options " + strings.Join(h.DNSOptions, " ") + "\n")
	}
	return b.String()
}
