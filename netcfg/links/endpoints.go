package links

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// A peer without a handshake for so long is lost: WireGuard makes one every two minutes while there is traffic, and gives up a
// session after three. It may have another address by now, so its name is asked for again (as reresolve-dns of wireguard-tools
// does, with the same times).
const (
	staleAfter = 135 * time.Second
	lookEvery  = 30 * time.Second
)

// openTunnels reads keys, and has names looked up beside the loop. False: a file is missing, and may come.
func (k *Keeper) openTunnels() (good bool) {
	k.want.tunnels = map[string]tunnel{}
	good = true
	for i := range k.want.Links {
		l := &k.want.Links[i]
		if l.Tunnel == nil {
			continue
		}
		t, err := l.Tunnel.open(k.names)
		if err != nil {
			k.problem(fmt.Errorf("%s: %w", l.Name, err))
			k.failed[l.Name] = err.Error()
			good = false
			continue
		}
		k.want.tunnels[l.Name] = t
	}
	return good
}

// lookUp asks for the addresses of tunnels' endpoints that are written as names: now, and whenever the peer is lost.
func (k *Keeper) lookUp(ctx context.Context) {
	ctx, k.forget = context.WithCancel(ctx)
	for i := range k.want.Links {
		l := &k.want.Links[i]
		if l.Tunnel == nil {
			continue
		}
		for _, p := range l.Tunnel.Peers {
			if p.named() {
				go k.lookUpOne(ctx, l.Name, p)
			}
		}
	}
}

// named says whether somebody has to be asked for the peer's address.
func (p Peer) named() bool {
	_, err := netip.ParseAddrPort(p.Endpoint)
	return err != nil && p.Endpoint != ""
}

func (k *Keeper) lookUpOne(ctx context.Context, link string, p Peer) {
	wait := func(d time.Duration) {
		select {
		case <-time.After(d):
		case <-ctx.Done():
		}
	}
	known := false
	for pause := firstRetry; ctx.Err() == nil; {
		if known && !k.lost(link, p) {
			wait(k.lookEvery)
			continue
		}
		e := endpoint{name: p.Endpoint}
		a, err := net.ResolveUDPAddr("udp", p.Endpoint)
		if e.err = err; err == nil {
			e.addr = netip.AddrPortFrom(a.AddrPort().Addr().Unmap(), uint16(a.Port))
		}
		select {
		case k.found <- e:
		case <-ctx.Done():
			return
		}
		switch {
		case err == nil:
			known, pause = true, firstRetry
			wait(k.lookEvery)
			continue
		case !known:
			k.o.Log("find the WireGuard peer %s: %v; next try in %v", p.Endpoint, err, pause)
		}
		wait(pause)
		pause = min(2*pause, lastRetry)
	}
}

// lost says whether a peer has had no handshake lately. One that is not there is none.
func (k *Keeper) lost(link string, p Peer) bool {
	all, err := readPeers(link)
	seen, has := all[p.PublicKey]
	return err == nil && has && time.Since(seen.handshake) > k.staleAfter
}

// point notes an endpoint's address, and tells the kernel of it where it has another and the peer is lost: one that is not
// may have moved, and the kernel knows better.
func (k *Keeper) point(e endpoint) {
	if e.err != nil {
		k.unknown[e.name] = e.err.Error()
		return
	}
	delete(k.unknown, e.name)
	k.names[e.name] = e.addr
	for i := range k.want.Links {
		l := &k.want.Links[i]
		if l.Tunnel == nil {
			continue
		}
		all, err := readPeers(l.Name)
		if err != nil {
			continue // it is not there yet, and is told when it is
		}
		for _, p := range l.Tunnel.Peers {
			have, has := all[p.PublicKey]
			if p.Endpoint != e.name || !has || have.endpoint == e.addr || time.Since(have.handshake) <= k.staleAfter {
				continue
			}
			c := Change{Op: SetEndpoint, Link: l.Name, Value: e.name + ": " + e.addr.String(), tunnel: tunnel{peers: []peer{{Peer: p, endpoint: e.addr}}}}
			k.apply([]Change{c}, time.Now())
		}
	}
}

// seenPeer is what the kernel knows of a peer.
type seenPeer struct {
	endpoint  netip.AddrPort
	handshake time.Time // the last one
}

// readPeers asks the kernel for a link's peers.
func readPeers(link string) (map[Key]seenPeer, error) {
	req, err := ask(wgGetDevice, unix.NLM_F_DUMP)
	if err != nil {
		return nil, err
	}
	req.AddData(nl.NewRtAttr(wgIfname, nl.ZeroTerminated(link)))
	messages, err := req.Execute(unix.NETLINK_GENERIC, 0)
	if err != nil {
		return nil, fmt.Errorf("ask for peers of %s: %w", link, err)
	}
	all := map[Key]seenPeer{}
	for _, m := range messages {
		if len(m) < nl.SizeofGenlmsg {
			continue
		}
		attributes(m[nl.SizeofGenlmsg:], func(kind uint16, peers []byte) {
			if kind != wgPeers {
				return
			}
			attributes(peers, func(_ uint16, b []byte) {
				if key, p, ok := readPeer(b); ok {
					all[key] = p
				}
			})
		})
	}
	return all, nil
}

// readPeer has no endpoint for what goes on in another message: the rest of a peer's addresses.
func readPeer(b []byte) (key Key, p seenPeer, ok bool) {
	attributes(b, func(kind uint16, v []byte) {
		switch {
		case kind == wgPublicKey && len(v) == len(key):
			key, ok = Key(v), true
		case kind == wgEndpoint:
			p.endpoint = addrPort(v)
		case kind == wgHandshake && len(v) >= 16: // struct __kernel_timespec
			if sec, nsec := binary.NativeEndian.Uint64(v), binary.NativeEndian.Uint64(v[8:]); sec != 0 {
				p.handshake = time.Unix(int64(sec), int64(nsec))
			}
		}
	})
	return key, p, ok
}

func attributes(b []byte, f func(kind uint16, value []byte)) {
	all, err := nl.ParseRouteAttr(b)
	if err != nil {
		return
	}
	for _, a := range all {
		f(a.Attr.Type&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER), a.Value)
	}
}

// addrPort reads a struct sockaddr_in or sockaddr_in6 (ip(7), ipv6(7)).
func addrPort(b []byte) netip.AddrPort {
	if len(b) < 8 {
		return netip.AddrPort{}
	}
	port := binary.BigEndian.Uint16(b[2:])
	switch family := binary.NativeEndian.Uint16(b); {
	case family == unix.AF_INET:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), port)
	case family == unix.AF_INET6 && len(b) >= 24:
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[8:24])), port)
	}
	return netip.AddrPort{}
}
