package ipam

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestEveryAddressOnce(t *testing.T) {
	p, err := New(Options{Subnet: netip.MustParsePrefix("10.1.2.0/28")})
	require.NoError(t, err)
	seen := map[netip.Addr]bool{}
	for i := range 13 {
		a, err := p.Allocate(fmt.Sprint(i))
		require.NoError(t, err)
		require.False(t, seen[a], "%s twice", a)
		seen[a] = true
	}
	for _, bad := range []string{"10.1.2.0", "10.1.2.1", "10.1.2.15"} {
		require.False(t, seen[netip.MustParseAddr(bad)], bad)
	}
	_, err = p.Allocate("one too many")
	require.ErrorIs(t, err, ErrFull)
	a, _ := p.Allocate("5")
	p.Release("5")
	b, err := p.Allocate("new")
	require.NoError(t, err)
	require.Equal(t, a, b)
}

func TestReleasedAddressRests(t *testing.T) {
	p, _ := New(Options{Subnet: netip.MustParsePrefix("10.1.2.0/24")})
	a, _ := p.Allocate("a")
	p.Release("a")
	b, _ := p.Allocate("b")
	require.NotEqual(t, a, b)
}

func TestClaim(t *testing.T) {
	p, _ := New(Options{Subnet: netip.MustParsePrefix("10.1.2.0/24")})
	at := netip.MustParseAddr("10.1.2.7")
	require.NoError(t, p.Claim("a", at))
	require.NoError(t, p.Claim("a", at))
	require.Error(t, p.Claim("b", at))
	for _, bad := range []string{"10.1.2.1", "10.1.2.0", "10.1.2.255", "10.1.3.4"} {
		require.Error(t, p.Claim("b", netip.MustParseAddr(bad)), bad)
	}
	a, err := p.Allocate("a")
	require.NoError(t, err)
	require.Equal(t, at, a)
}

func TestRangeGatewayReserved(t *testing.T) {
	p, err := New(Options{
		Subnet: netip.MustParsePrefix("10.1.2.0/24"), Range: netip.MustParsePrefix("10.1.2.248/29"),
		Gateway: netip.MustParseAddr("10.1.2.249"), Reserved: []netip.Addr{netip.MustParseAddr("10.1.2.250")},
	})
	require.NoError(t, err)
	var got []string
	for i := range 5 {
		a, err := p.Allocate(fmt.Sprint(i))
		require.NoError(t, err)
		got = append(got, a.String())
	}
	require.Equal(t, []string{"10.1.2.248", "10.1.2.251", "10.1.2.252", "10.1.2.253", "10.1.2.254"}, got)
	_, err = p.Allocate("more")
	require.ErrorIs(t, err, ErrFull)
	require.NoError(t, p.Claim("outside the range", netip.MustParseAddr("10.1.2.1")), "whoever asks may have the rest")
	require.ErrorIs(t, p.Claim("x", netip.MustParseAddr("10.1.2.250")), ErrTaken)
	require.ErrorIs(t, p.Claim("x", netip.MustParseAddr("10.1.3.1")), ErrOutside)
}

func TestSixtyFourBits(t *testing.T) {
	p, err := New(Options{Subnet: netip.MustParsePrefix("fd00:1::/64")})
	require.NoError(t, err)
	require.Equal(t, "fd00:1::1", p.Gateway().String())
	a, err := p.Allocate("a")
	require.NoError(t, err)
	require.Equal(t, "fd00:1::2", a.String())
}

func TestMistakes(t *testing.T) {
	for _, o := range []Options{
		{},
		{Subnet: netip.MustParsePrefix("10.0.0.0/31")},
		{Subnet: netip.MustParsePrefix("10.0.0.0/24"), Range: netip.MustParsePrefix("10.0.1.0/25")},
		{Subnet: netip.MustParsePrefix("10.0.0.0/24"), Range: netip.MustParsePrefix("10.0.0.0/16")},
		{Subnet: netip.MustParsePrefix("10.0.0.0/24"), Gateway: netip.MustParseAddr("10.0.1.1")},
		{Subnet: netip.MustParsePrefix("10.0.0.0/24"), Gateway: netip.MustParseAddr("10.0.0.255")},
		{Subnet: netip.MustParsePrefix("10.0.0.0/24"), Reserved: []netip.Addr{netip.MustParseAddr("fd00::1")}},
	} {
		_, err := New(o)
		require.Error(t, err, "%+v", o)
	}
}
