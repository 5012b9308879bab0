// Package ipam gives out the addresses of one network. It is pure: whoever uses it keeps what it said, and claims that
// back after a restart, so that no address is ever given out twice.
package ipam

import (
	"fmt"
	"net/netip"
	"sync"
)

// Pool is one network's addresses. The first one is the gateway's; the network's own and the broadcast address are
// nobody's. Its methods may be called from any goroutine.
type Pool struct {
	subnet netip.Prefix

	mu     sync.Mutex
	byAddr map[netip.Addr]string // guarded by mu
	byKey  map[string]netip.Addr // guarded by mu
	last   netip.Addr            // given out last: an address rests as long as possible before it is used again; guarded by mu
}

// New makes a pool for an IPv4 prefix of at most 30 bits.
func New(subnet netip.Prefix) (*Pool, error) {
	subnet = subnet.Masked()
	if !subnet.Addr().Is4() || subnet.Bits() > 30 {
		return nil, fmt.Errorf("address pool %s: want an IPv4 prefix of at most 30 bits", subnet)
	}
	p := &Pool{subnet: subnet, byAddr: map[netip.Addr]string{}, byKey: map[string]netip.Addr{}}
	p.last = p.Gateway()
	return p, nil
}

// Subnet is the network.
func (p *Pool) Subnet() netip.Prefix { return p.subnet }

// Gateway is the network's first address.
func (p *Pool) Gateway() netip.Addr { return p.subnet.Addr().Next() }

// Allocate gives the key an address, the same one each time until it is released.
func (p *Pool) Allocate(key string) (netip.Addr, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if a, ok := p.byKey[key]; ok {
		return a, nil
	}
	for a, first := p.next(p.last), true; first || a != p.next(p.last); a, first = p.next(a), false {
		if p.byAddr[a] == "" && a != p.Gateway() {
			p.byAddr[a], p.byKey[key], p.last = key, a, a
			return a, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("network %s is full: all %d addresses are taken; remove containers or give the network a larger subnet", p.subnet, len(p.byAddr))
}

// next is the address behind a that a host may have, from the start again at the end.
func (p *Pool) next(a netip.Addr) netip.Addr {
	a = a.Next()
	if !p.subnet.Contains(a) || !p.subnet.Contains(a.Next()) {
		return p.Gateway()
	}
	return a
}

// Claim takes back an address that the key had before a restart.
func (p *Pool) Claim(key string, a netip.Addr) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch holder := p.byAddr[a]; {
	case !p.subnet.Contains(a) || a == p.Gateway() || a == p.subnet.Addr() || !p.subnet.Contains(a.Next()):
		return fmt.Errorf("address %s cannot be given out in network %s", a, p.subnet)
	case holder != "" && holder != key:
		return fmt.Errorf("address %s is taken by %s", a, holder)
	}
	p.byAddr[a], p.byKey[key] = key, a
	return nil
}

// Release gives the key's address back, if it has one.
func (p *Pool) Release(key string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.byAddr, p.byKey[key])
	delete(p.byKey, key)
}
