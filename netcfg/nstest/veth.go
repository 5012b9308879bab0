package nstest

import (
	"net"
	"os"
	"testing"

	"github.com/vishvananda/netlink"
)

// Veth connects this namespace's new link name with the peer's new link there, which is up and has the addresses.
func (p *Peer) Veth(t testing.TB, name, there string, addresses ...string) {
	t.Helper()
	f, err := os.Open(p.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: there, PeerNamespace: netlink.NsFd(int(f.Fd()))}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if l, err := netlink.LinkByName(name); err == nil {
			netlink.LinkDel(l)
		}
	})
	p.Do(func() {
		var l netlink.Link
		if l, err = netlink.LinkByName(there); err != nil {
			return
		}
		os.WriteFile("/proc/sys/net/ipv6/conf/"+there+"/accept_dad", []byte("0"), 0) // addresses are usable at once
		for _, a := range addresses {
			var addr *netlink.Addr
			if addr, err = netlink.ParseAddr(a); err == nil {
				err = netlink.AddrAdd(l, addr)
			}
			if err != nil {
				return
			}
		}
		err = netlink.LinkSetUp(l)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Up sets a link of this thread's namespace up or down, and returns its index and hardware address.
func Up(t testing.TB, name string, up bool) (index int, mac net.HardwareAddr) {
	t.Helper()
	l, err := netlink.LinkByName(name)
	if err == nil {
		if up {
			err = netlink.LinkSetUp(l)
		} else {
			err = netlink.LinkSetDown(l)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return l.Attrs().Index, l.Attrs().HardwareAddr
}
