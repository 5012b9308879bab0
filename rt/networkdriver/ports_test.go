package networkdriver

import (
	"testing"

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
		d := &Driver{ports: map[portKey][]portUse{}}
		d.usePort(c.have, "id")
		require.Equal(t, c.taken, d.portHolder(c.ask) != "", "%+v", c)
		d.dropPorts("another")
		require.Equal(t, c.taken, d.portHolder(c.ask) != "", "%+v", c)
		d.dropPorts("id")
		require.Empty(t, d.ports)
	}
}
