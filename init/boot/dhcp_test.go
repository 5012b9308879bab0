package boot

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/stretchr/testify/require"
)

func TestReadLease(t *testing.T) {
	ack, err := dhcpv4.New(
		dhcpv4.WithYourIP(net.IPv4(10, 0, 2, 15)),
		dhcpv4.WithNetmask(net.CIDRMask(24, 32)),
		dhcpv4.WithRouter(net.IPv4(10, 0, 2, 2)),
		dhcpv4.WithDNS(net.IPv4(10, 0, 2, 3)),
		dhcpv4.WithLeaseTime(600))
	require.NoError(t, err)
	lease, err := readLease(ack)
	require.NoError(t, err)
	require.Equal(t, Lease{
		Address: netip.MustParsePrefix("10.0.2.15/24"), Gateway: netip.MustParseAddr("10.0.2.2"),
		DNS: []netip.Addr{netip.MustParseAddr("10.0.2.3")}, Time: 10 * time.Minute,
	}, lease)
	require.True(t, lease.same(lease))
	require.False(t, lease.same(Lease{}))

	bare, err := dhcpv4.New(dhcpv4.WithYourIP(net.IPv4(10, 0, 0, 1)), dhcpv4.WithNetmask(net.CIDRMask(8, 32)))
	require.NoError(t, err)
	lease, err = readLease(bare)
	require.NoError(t, err)
	require.False(t, lease.Gateway.IsValid())
	require.Equal(t, time.Hour, lease.Time)

	for _, bad := range [][]dhcpv4.Modifier{
		{},
		{dhcpv4.WithYourIP(net.IPv4(10, 0, 0, 1))},
		{dhcpv4.WithNetmask(net.CIDRMask(8, 32))},
		{dhcpv4.WithYourIP(net.IPv4(10, 0, 0, 1)), dhcpv4.WithNetmask(net.IPMask{255, 0, 255, 0})},
	} {
		ack, err := dhcpv4.New(bad...)
		require.NoError(t, err)
		_, err = readLease(ack)
		require.Error(t, err)
	}
}

// Whatever a server sends, a lease that is taken has an address that can be used.
func FuzzReadLease(f *testing.F) {
	ack, err := dhcpv4.New(dhcpv4.WithYourIP(net.IPv4(10, 0, 2, 15)), dhcpv4.WithNetmask(net.CIDRMask(24, 32)))
	require.NoError(f, err)
	f.Add(ack.ToBytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		ack, err := dhcpv4.FromBytes(data)
		if err != nil {
			return
		}
		if lease, err := readLease(ack); err == nil && !lease.Address.IsValid() {
			t.Fatalf("%+v", lease)
		}
	})
}
