package links

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Tunnel is a WireGuard link's own part.
type Tunnel struct {
	KeyFile    string // of the private key, as `wg genkey` writes it
	ListenPort int    // 0: the kernel chooses
	Peers      []Peer
}

// Peer is the other end of a tunnel.
type Peer struct {
	PublicKey     Key
	PresharedFile string // empty: none
	Endpoint      string // host:port; empty: the peer comes to us
	AllowedIPs    []netip.Prefix
	Keepalive     time.Duration // 0: off
}

// Key is one of WireGuard's, of 32 bytes.
type Key [32]byte

// ParseKey reads base64, as wg(8) writes it.
func ParseKey(s string) (k Key, err error) {
	b, err := base64.StdEncoding.DecodeString(strings.TrimSpace(s))
	if err != nil || len(b) != len(k) {
		return k, errors.New("it is no key: that is 44 characters of base64, as wg genkey makes them")
	}
	return Key(b), nil
}

// tunnel is a Tunnel with what its files and names hold.
type tunnel struct {
	key   Key
	port  int
	peers []peer
}

type peer struct {
	Peer
	preshared Key
	endpoint  netip.AddrPort // not valid: none, or not known yet
}

// open reads a tunnel's files. Endpoints come from addresses, which holds those that are written as names.
func (t Tunnel) open(addresses map[string]netip.AddrPort) (o tunnel, err error) {
	if o.key, err = readKey(t.KeyFile); err != nil {
		return o, err
	}
	o.port = t.ListenPort
	for _, p := range t.Peers {
		q := peer{Peer: p, endpoint: addresses[p.Endpoint]}
		if a, err := netip.ParseAddrPort(p.Endpoint); err == nil {
			q.endpoint = a
		}
		if p.PresharedFile != "" {
			if q.preshared, err = readKey(p.PresharedFile); err != nil {
				return o, err
			}
		}
		o.peers = append(o.peers, q)
	}
	return o, nil
}

func readKey(path string) (Key, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return Key{}, fmt.Errorf("read key: %w", err)
	}
	k, err := ParseKey(string(b))
	if err != nil {
		return k, fmt.Errorf("key file %s: %w", path, err)
	}
	return k, nil
}

// digest is of all that the kernel is told, but for addresses of names: those change without the file (point).
func (t tunnel) digest() string {
	peers := slices.Clone(t.peers)
	for i := range peers {
		if peers[i].named() {
			peers[i].endpoint = netip.AddrPort{}
		}
	}
	sum := sha256.Sum256([]byte(fmt.Sprintf("%x %d %+v", t.key, t.port, peers)))
	return hex.EncodeToString(sum[:16])
}

// Numbers of the kernel's include/uapi/linux/wireguard.h, which comments their use.
const (
	wgGetDevice, wgSetDevice                                                 = 0, 1
	wgIfname, wgHandshake                                                    = 2, 6
	wgIfindex, wgPrivateKey, wgFlags, wgListenPort, wgPeers                  = 1, 3, 5, 6, 8
	wgPublicKey, wgPresharedKey, wgPeerFlags, wgEndpoint, wgKeepalive        = 1, 2, 3, 4, 5
	wgAllowedIPs, wgFamily, wgAddress, wgBits                                = 9, 1, 2, 3
	wgReplacePeers, wgReplaceAllowedIPs, wgUpdateOnly                 uint32 = 1, 2, 4
)

// atOnce is how many peers one message carries: an attribute has 64 KiB at most.
const atOnce = 50

// ask begins a message to the kernel's WireGuard.
func ask(command uint8, flags int) (*nl.NetlinkRequest, error) {
	family, err := netlink.GenlFamilyGet("wireguard")
	if err != nil {
		return nil, fmt.Errorf("find the kernel's WireGuard: %w", err)
	}
	req := nl.NewNetlinkRequest(int(family.ID), flags)
	req.AddData(&nl.Genlmsg{Command: command, Version: 1})
	return req, nil
}

// set gives a link its keys and peers, all of them, and notes their digest in its alias. With moved it tells where those peers
// are, and nothing else: all sessions stay as they are.
func (t tunnel) set(l netlink.Link, moved bool) error {
	rest := t.peers
	for first := !moved; first || len(rest) > 0; first = false {
		req, err := ask(wgSetDevice, unix.NLM_F_ACK)
		if err != nil {
			return err
		}
		req.AddData(nl.NewRtAttr(wgIfindex, nl.Uint32Attr(uint32(l.Attrs().Index))))
		if first {
			req.AddData(nl.NewRtAttr(wgPrivateKey, t.key[:]))
			req.AddData(nl.NewRtAttr(wgListenPort, nl.Uint16Attr(uint16(t.port))))
			req.AddData(nl.NewRtAttr(wgFlags, nl.Uint32Attr(wgReplacePeers)))
		}
		n := min(len(rest), atOnce)
		peers := nl.NewRtAttr(wgPeers|unix.NLA_F_NESTED, nil)
		for _, p := range rest[:n] {
			p.add(peers.AddRtAttr(unix.NLA_F_NESTED, nil), moved)
		}
		req.AddData(peers)
		if _, err := req.Execute(unix.NETLINK_GENERIC, 0); err != nil {
			return err
		}
		rest = rest[n:]
	}
	if moved {
		return nil
	}
	return netlink.LinkSetAlias(l, mark+" "+t.digest())
}

func (p peer) add(a *nl.RtAttr, moved bool) {
	flags := wgReplaceAllowedIPs
	if moved {
		flags = wgUpdateOnly
	}
	a.AddRtAttr(wgPublicKey, p.PublicKey[:])
	a.AddRtAttr(wgPeerFlags, nl.Uint32Attr(flags))
	if p.endpoint.IsValid() {
		a.AddRtAttr(wgEndpoint, sockaddr(p.endpoint))
	}
	if moved {
		return
	}
	a.AddRtAttr(wgPresharedKey, p.preshared[:])
	a.AddRtAttr(wgKeepalive, nl.Uint16Attr(uint16(p.Keepalive/time.Second)))
	ips := a.AddRtAttr(wgAllowedIPs|unix.NLA_F_NESTED, nil)
	for _, ip := range p.AllowedIPs {
		one := ips.AddRtAttr(unix.NLA_F_NESTED, nil)
		family := uint16(unix.AF_INET)
		if ip.Addr().Is6() {
			family = unix.AF_INET6
		}
		one.AddRtAttr(wgFamily, nl.Uint16Attr(family))
		one.AddRtAttr(wgAddress, ip.Addr().AsSlice())
		one.AddRtAttr(wgBits, []byte{byte(ip.Bits())})
	}
}

// sockaddr is a struct sockaddr_in or sockaddr_in6 (ip(7), ipv6(7)).
func sockaddr(a netip.AddrPort) []byte {
	port := []byte{byte(a.Port() >> 8), byte(a.Port())}
	if a.Addr().Unmap().Is4() {
		b := append(nl.Uint16Attr(unix.AF_INET), port...)
		return append(append(b, a.Addr().Unmap().AsSlice()...), make([]byte, 8)...)
	}
	b := append(nl.Uint16Attr(unix.AF_INET6), port...)
	b = append(append(b, 0, 0, 0, 0), a.Addr().AsSlice()...)
	return append(b, 0, 0, 0, 0)
}
