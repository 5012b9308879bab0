package boot

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/vishvananda/netlink"
)

// Lease is what a DHCP server gave (RFC 2131, RFC 2132).
type Lease struct {
	Address netip.Prefix
	Gateway netip.Addr // not valid: none
	DNS     []netip.Addr
	Time    time.Duration // how long it is valid
}

// DHCP keeps the link name configured by DHCPv4 until ctx ends: it waits for
// the link, brings it up, asks until a server answers, sets address and default
// route, calls got, and renews the lease at half its time. got is called again
// when a renewal changed something. log hears of every failure; tries go on,
// with pauses of at most a minute. The error is ctx's, or that there is no link.
func DHCP(ctx context.Context, name string, got func(Lease), log func(format string, args ...any)) error {
	link, err := waitLink(ctx, name)
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("bring up %s: %w", name, err)
	}
	var held Lease
	for pause := time.Second; ctx.Err() == nil; {
		lease, err := request(ctx, name, link.Attrs().HardwareAddr, held)
		if err == nil {
			err = use(ctx, name, held, lease)
		}
		wait := pause
		if err != nil {
			log("dhcp on %s: %v; next try in %v", name, err, pause)
			pause = min(2*pause, time.Minute)
		} else {
			if !lease.same(held) {
				got(lease)
			}
			held, pause = lease, time.Second
			wait = max(lease.Time/2, time.Minute) // T1 of RFC 2131, 4.4.5
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
	return ctx.Err()
}

func (l Lease) same(other Lease) bool {
	return l.Address == other.Address && l.Gateway == other.Gateway && fmt.Sprint(l.DNS) == fmt.Sprint(other.DNS)
}

// request goes through discover, offer, request, acknowledgement; with a lease
// in hand it asks for the same address again.
func request(ctx context.Context, name string, hw net.HardwareAddr, held Lease) (Lease, error) {
	client, err := nclient4.New(name, nclient4.WithHWAddr(hw), nclient4.WithTimeout(2*time.Second), nclient4.WithRetry(3))
	if err != nil {
		return Lease{}, fmt.Errorf("open socket: %w", err)
	}
	defer client.Close()
	var wish []dhcpv4.Modifier
	if held.Address.IsValid() {
		wish = append(wish, dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(held.Address.Addr().AsSlice())))
	}
	answer, err := client.Request(ctx, wish...)
	if err != nil {
		return Lease{}, err
	}
	return readLease(answer.ACK)
}

// readLease takes out of an acknowledgement what coble uses.
func readLease(ack *dhcpv4.DHCPv4) (Lease, error) {
	addr, ok := netip.AddrFromSlice(ack.YourIPAddr.To4())
	bits, total := ack.SubnetMask().Size()
	if !ok || addr.IsUnspecified() || total != 32 || bits == 0 {
		return Lease{}, fmt.Errorf("the server offers %s with mask %s", ack.YourIPAddr, ack.SubnetMask())
	}
	l := Lease{Address: netip.PrefixFrom(addr, bits), Time: ack.IPAddressLeaseTime(time.Hour)}
	if routers := ack.Router(); len(routers) > 0 {
		l.Gateway, _ = netip.AddrFromSlice(routers[0].To4())
	}
	for _, s := range ack.DNS() {
		if a, ok := netip.AddrFromSlice(s.To4()); ok {
			l.DNS = append(l.DNS, a)
		}
	}
	return l, nil
}

// use gives the link the new address and takes the old one away.
func use(ctx context.Context, name string, held, lease Lease) error {
	if err := StaticLink(ctx, name, lease.Address, lease.Gateway); err != nil {
		return err
	}
	if !held.Address.IsValid() || held.Address == lease.Address {
		return nil
	}
	link, err := waitLink(ctx, name)
	if err != nil {
		return err
	}
	if err := netlink.AddrDel(link, netlinkAddr(held.Address)); err != nil {
		return fmt.Errorf("take %s from %s: %w", held.Address, name, err)
	}
	return nil
}
