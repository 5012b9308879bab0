// Package ipam gives out the addresses of one network, IPv4 or IPv6. It is pure: whoever uses it keeps what it said, and
// claims that back after a restart, so that no address is ever given out twice.
package ipam

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
)

// Options describe a pool.
type Options struct {
	Subnet   netip.Prefix
	Range    netip.Prefix // part of Subnet that Allocate chooses from; zero: all of it
	Gateway  netip.Addr   // zero: the first address
	Reserved []netip.Addr // somebody else's: never given out
}

// ErrFull says that every address is taken, ErrTaken that this one is, ErrOutside that a pool does not have it.
var (
	ErrFull    = errors.New("no address is left")
	ErrTaken   = errors.New("address already in use")
	ErrOutside = errors.New("no configured subnet contains the address")
)

// Pool is one network's addresses. The network's own and IPv4's broadcast address are nobody's. Its methods may be
// called from any goroutine.
type Pool struct {
	o Options

	mu     sync.Mutex
	byAddr map[netip.Addr]string // guarded by mu
	byKey  map[string]netip.Addr // guarded by mu
	last   netip.Addr            // given out last: an address rests as long as possible before it is used again; guarded by mu
}

// reserved holds the addresses that are somebody else's.
const reserved = "\x00reserved"

// New makes a pool, or says what is wrong with its description.
func New(o Options) (*Pool, error) {
	if !o.Subnet.IsValid() || o.Subnet.Bits() > o.Subnet.Addr().BitLen()-2 {
		return nil, fmt.Errorf("address pool %s: want a prefix with room for hosts, of at most %d bits", o.Subnet, max(o.Subnet.Addr().BitLen()-2, 30))
	}
	o.Subnet = o.Subnet.Masked()
	if !o.Range.IsValid() {
		o.Range = o.Subnet
	}
	o.Range = o.Range.Masked()
	if o.Range.Bits() < o.Subnet.Bits() || !o.Subnet.Contains(o.Range.Addr()) {
		return nil, fmt.Errorf("address range %s is not inside the subnet %s", o.Range, o.Subnet)
	}
	if !o.Gateway.IsValid() {
		o.Gateway = o.Subnet.Addr().Next()
	}
	p := &Pool{o: o, byAddr: map[netip.Addr]string{}, byKey: map[string]netip.Addr{}}
	for _, a := range append([]netip.Addr{o.Gateway}, o.Reserved...) {
		if !p.usable(a) {
			return nil, fmt.Errorf("address %s is none of a host in the subnet %s", a, o.Subnet)
		}
		p.byAddr[a] = reserved
	}
	return p, nil
}

// Subnet is the network.
func (p *Pool) Subnet() netip.Prefix { return p.o.Subnet }

// Gateway is the host's own address.
func (p *Pool) Gateway() netip.Addr { return p.o.Gateway }

// usable tells whether a host may have a.
func (p *Pool) usable(a netip.Addr) bool {
	return p.o.Subnet.Contains(a) && a != p.o.Subnet.Addr() && (a.Is6() || p.o.Subnet.Contains(a.Next()))
}

// Allocate gives the key an address, the same one each time until it is released.
func (p *Pool) Allocate(key string) (netip.Addr, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if a, ok := p.byKey[key]; ok {
		return a, nil
	}
	// One more try than there are holders finds a free one, if the range has one.
	a := p.last
	for range len(p.byAddr) + 3 {
		if a = a.Next(); !p.o.Range.Contains(a) {
			a = p.o.Range.Addr()
		}
		if p.byAddr[a] == "" && p.usable(a) {
			p.byAddr[a], p.byKey[key], p.last = key, a, a
			return a, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("%w in %s: all that hosts may have of it are taken", ErrFull, p.o.Range)
}

// Claim gives the key the address that it asks for, or had before a restart.
func (p *Pool) Claim(key string, a netip.Addr) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.usable(a) {
		return fmt.Errorf("%w %s", ErrOutside, a)
	}
	if holder := p.byAddr[a]; holder != "" && holder != key {
		return fmt.Errorf("%w: %s", ErrTaken, a)
	}
	if old, ok := p.byKey[key]; ok {
		delete(p.byAddr, old)
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
