package ipam

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestEveryAddressOnce(t *testing.T) {
	p, err := New(netip.MustParsePrefix("10.1.2.0/28"))
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
	require.ErrorContains(t, err, "is full")
	a, _ := p.Allocate("5")
	p.Release("5")
	b, err := p.Allocate("new")
	require.NoError(t, err)
	require.Equal(t, a, b)
}

func TestReleasedAddressRests(t *testing.T) {
	p, _ := New(netip.MustParsePrefix("10.1.2.0/24"))
	a, _ := p.Allocate("a")
	p.Release("a")
	b, _ := p.Allocate("b")
	require.NotEqual(t, a, b)
}

func TestClaim(t *testing.T) {
	p, _ := New(netip.MustParsePrefix("10.1.2.0/24"))
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
