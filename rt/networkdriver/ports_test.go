package networkdriver

import (
	"net/netip"
	"testing"

	"github.com/moby/moby/api/types/network"
	"github.com/stretchr/testify/require"

	"github.com/coble-os/coble/rt/fault"
	"github.com/coble-os/coble/rt/store"
)

func TestHostPorts(t *testing.T) {
	for s, want := range map[string][2]uint16{
		"": {32768, 60999}, "0": {32768, 60999}, "80": {80, 80}, "8000-8010": {8000, 8010}, "65535": {65535, 65535},
	} {
		low, high, err := hostPorts(s)
		require.NoError(t, err, s)
		require.Equal(t, want, [2]uint16{low, high}, s)
	}
	for _, s := range []string{"65536", "-1", "a", "10-5", "1-", "-", "0-5", "80 ", "1-2-3"} {
		_, _, err := hostPorts(s)
		require.Equal(t, fault.Invalid, fault.KindOf(err), "%q: %v", s, err)
	}
}

func TestPortConflicts(t *testing.T) {
	for _, c := range []struct {
		have, ask store.PortLease
		taken     bool
	}{
		{store.PortLease{Proto: "tcp", HostPort: 80}, store.PortLease{Proto: "tcp", HostPort: 80}, true},
		{store.PortLease{Proto: "tcp", HostPort: 80}, store.PortLease{Proto: "udp", HostPort: 80}, false},
		{store.PortLease{Proto: "tcp", HostPort: 80}, store.PortLease{Proto: "tcp", HostIP: "127.0.0.1", HostPort: 80}, true},
		{store.PortLease{Proto: "tcp", HostIP: "127.0.0.1", HostPort: 80}, store.PortLease{Proto: "tcp", HostPort: 80}, true},
		{store.PortLease{Proto: "tcp", HostIP: "127.0.0.1", HostPort: 80}, store.PortLease{Proto: "tcp", HostIP: "127.0.0.2", HostPort: 80}, false},
	} {
		ports := &portTable{}
		ports.claim("id", []store.PortLease{c.have})
		require.Equal(t, c.taken, ports.holder(c.ask) != "", "%+v", c)
		ports.release("another")
		require.Equal(t, c.taken, ports.holder(c.ask) != "", "%+v", c)
		ports.release("id")
		require.Empty(t, ports.uses)
	}
}

func TestTakePorts(t *testing.T) {
	inUse := map[uint16]bool{8081: true, 22: true}
	ports := &portTable{host: portHost{
		inUse:  func(_, _ string, port uint16) bool { return inUse[port] },
		holder: func(_, _ string, port uint16) string { return map[uint16]string{22: "sshd"}[port] },
		name:   func(id string) string { return "container " + id },
	}}
	take := func(id, ip, host string) (store.PortLease, error) {
		b := network.PortBinding{HostPort: host}
		if ip != "" {
			b.HostIP = netip.MustParseAddr(ip)
		}
		leases, err := ports.take(id, network.PortMap{network.MustParsePort("80/tcp"): {b}}, netip.Addr{})
		if err != nil {
			return store.PortLease{}, err
		}
		require.Len(t, leases, 1)
		return leases[0], nil
	}
	got, err := take("a", "", "8080-8082")
	require.NoError(t, err)
	require.Equal(t, store.PortLease{Proto: "tcp", HostPort: 8080, ContainerPort: 80}, got)
	got, err = take("b", "0.0.0.0", "8080-8082")
	require.NoError(t, err)
	require.Equal(t, store.PortLease{Proto: "tcp", Everywhere: true, HostPort: 8082, ContainerPort: 80}, got, "8081 is somebody else's")
	got, err = take("c", "127.0.0.1", "")
	require.NoError(t, err)
	require.Equal(t, store.PortLease{Proto: "tcp", HostIP: "127.0.0.1", HostPort: 32768, ContainerPort: 80}, got)

	for host, want := range map[string]string{
		"8080": "Bind for 0.0.0.0:8080 failed: port is already allocated by container a",
		"22":   "publish port 22/tcp: failed to bind host port 0.0.0.0:22: address already in use by sshd",
		"8081": "publish port 8081/tcp: failed to bind host port 0.0.0.0:8081: address already in use by a program that is not seen from here",
		"0-1":  `invalid host port "0-1"`,
	} {
		_, err := take("d", "", host)
		require.EqualError(t, err, want)
	}
	// Who cannot have all has none.
	_, err = ports.take("d", network.PortMap{
		network.MustParsePort("1/tcp"): {{HostPort: "9000"}, {HostPort: "8080"}},
	}, netip.Addr{})
	require.Error(t, err)
	_, err = take("e", "", "9000")
	require.NoError(t, err)
	ports.release("a")
	_, err = take("e", "", "8080")
	require.NoError(t, err)
}
