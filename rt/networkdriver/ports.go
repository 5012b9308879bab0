package networkdriver

import (
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/moby/moby/api/types/network"

	"github.com/coble-os/coble/rt/fault"
	"github.com/coble-os/coble/rt/store"
)

// portTable is which container has which port of the host's. It knows the host by its field of that name only.
type portTable struct {
	host portHost

	mu   sync.Mutex
	uses map[portKey][]portUse // guarded by mu
}

// portHost is what the table asks of others.
type portHost struct {
	inUse  func(proto, ip string, port uint16) bool   // by somebody else than a container
	holder func(proto, ip string, port uint16) string // who that is; empty: it is not seen from here
	name   func(id string) string                     // of a container, for people
}

// portKey is a port of the host's, on whichever of its addresses.
type portKey struct {
	proto string
	port  uint16
}

// portUse is a container's use of a port.
type portUse struct {
	ip string // empty: every address
	id string // of the container
}

// take gives a container the host ports that it asks for, or none and says who has one. usual is the address where nothing is
// said; not valid: every one.
func (t *portTable) take(id string, asked network.PortMap, usual netip.Addr) ([]store.PortLease, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var leases []store.PortLease
	for port, bindings := range asked {
		for _, b := range bindings {
			lease := store.PortLease{Proto: string(port.Proto()), ContainerPort: port.Num()}
			switch ip := orAddr(b.HostIP, usual); {
			case ip.IsValid() && ip.IsUnspecified():
				lease.Everywhere = true
			case ip.IsValid():
				lease.HostIP = ip.String()
			}
			low, high, err := hostPorts(b.HostPort)
			if err == nil {
				lease.HostPort, err = t.free(lease, low, high)
			}
			if err != nil {
				t.drop(id)
				return nil, err
			}
			t.use(lease, id)
			leases = append(leases, lease)
		}
	}
	return leases, nil
}

// claim notes that a container has these ports already.
func (t *portTable) claim(id string, leases []store.PortLease) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, l := range leases {
		t.use(l, id)
	}
}

// release takes a container's ports back.
func (t *portTable) release(id string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.drop(id)
}

// free finds a port in [low, high] that nobody has. Called with mu held.
func (t *portTable) free(lease store.PortLease, low, high uint16) (uint16, error) {
	holder, foreign := "", false
	for p := uint32(low); p <= uint32(high); p++ {
		lease.HostPort = uint16(p)
		if holder = t.holder(lease); holder != "" {
			continue
		}
		if t.host.inUse(lease.Proto, lease.HostIP, lease.HostPort) {
			foreign = true
			continue
		}
		return lease.HostPort, nil
	}
	if foreign {
		if holder = t.host.holder(lease.Proto, lease.HostIP, low); holder == "" {
			holder = "a program that is not seen from here"
		}
		return 0, fault.New(fault.Conflict, "publish port %d/%s: failed to bind host port %s:%d: address already in use by %s", low, lease.Proto, orAny(lease.HostIP), low, holder)
	}
	return 0, fault.New(fault.Conflict, "Bind for %s:%d failed: port is already allocated by %s", orAny(lease.HostIP), low, t.host.name(holder))
}

// holder says which container has the port on that address or on all. Called with mu held.
func (t *portTable) holder(l store.PortLease) string {
	for _, use := range t.uses[keyOf(l)] {
		if use.ip == "" || l.HostIP == "" || use.ip == l.HostIP {
			return use.id
		}
	}
	return ""
}

func keyOf(l store.PortLease) portKey { return portKey{l.Proto, l.HostPort} }

// use notes that a container has a port. Called with mu held.
func (t *portTable) use(l store.PortLease, id string) {
	if t.uses == nil {
		t.uses = map[portKey][]portUse{}
	}
	t.uses[keyOf(l)] = append(t.uses[keyOf(l)], portUse{l.HostIP, id})
}

// drop is release. Called with mu held.
func (t *portTable) drop(id string) {
	for k, uses := range t.uses {
		if uses = slices.DeleteFunc(uses, func(u portUse) bool { return u.id == id }); len(uses) == 0 {
			delete(t.uses, k)
		} else {
			t.uses[k] = uses
		}
	}
}

// published is pure: the ports that are asked for, and with -P all that the image exposes.
func published(spec store.Spec) network.PortMap {
	if !spec.Host.PublishAllPorts {
		return spec.Host.PortBindings
	}
	all := maps.Clone(spec.Host.PortBindings)
	if all == nil {
		all = network.PortMap{}
	}
	for p := range spec.Config.ExposedPorts {
		if len(all[p]) == 0 {
			all[p] = []network.PortBinding{{}}
		}
	}
	return all
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

func orAny(ip string) string {
	if ip == "" {
		return "0.0.0.0"
	}
	return ip
}

func orAddr(a, b netip.Addr) netip.Addr {
	if a.IsValid() {
		return a
	}
	return b
}
