package netcfg

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/stretchr/testify/require"

	"github.com/coble-os/coble/netcfg/nstest"
)

// TestCounts: what goes through a published port is counted, from the host itself and from elsewhere, both families and both
// ways; a change of other things, and another engine of the same name, count on.
func TestCounts(t *testing.T) {
	nstest.Own(t)
	noBridgeNetfilter(t)
	h, n := testHost()
	n.V6, n.Gateway6 = netip.MustParsePrefix("fd00:99::/64"), netip.MustParseAddr("fd00:99::1")
	container(t, h, n, "tv1", "10.99.0.2/24")
	container(t, h, n, "tv2", "fd00:99::2/64")
	container(t, h, n, "tv3", "10.99.0.3/24")
	lan := neighbour(t, "br-lan", "192.0.2.1/24", "2001:db8:1::1/64")
	ports := []Port{port("", 8080, "10.99.0.2:80"), port("192.0.2.1", 8081, "10.99.0.3:80"), port("", 8080, "[fd00:99::2]:80"), port("", 8082, "10.99.0.2:81")}
	c := Config{Networks: []Network{n}, Links: map[string]Link{"tv1": {}, "tv2": {}, "tv3": {}}, Ports: ports}
	require.NoError(t, h.Set(c))
	zero, err := h.Counts(ports)
	require.NoError(t, err)
	require.Equal(t, make([]Count, 4), zero)

	visits := func() {
		_, err := dial("127.0.0.1:8080")
		require.NoError(t, err)
		for _, to := range []string{"192.0.2.1:8080", "192.0.2.1:8081", "[2001:db8:1::1]:8080"} {
			require.NoError(t, reaches(t, lan, to), to)
		}
	}
	visits()
	first := still(t, h, ports)
	for i := range 3 {
		// Three of opening, one of data, three or four of closing and acknowledging: both ways and whole.
		require.GreaterOrEqual(t, first[i].Packets, uint64(7), "%+v", first)
		require.Greater(t, first[i].Bytes, uint64(7*52), "%+v", first)
	}
	require.GreaterOrEqual(t, first[0].Packets, uint64(14), "the host's own and the neighbour's: %+v", first)
	require.Less(t, first[1].Packets, uint64(14), "no other port's: %+v", first)
	require.Zero(t, first[3], "nobody came here")

	before := generation(t)
	require.NoError(t, New("cobletest").Set(c))
	require.Equal(t, before, generation(t), "an engine that starts sends nothing")
	c.Ports = append(c.Ports[:3:3], port("", 9000, "10.99.0.2:82"))
	require.NoError(t, h.Set(c))
	again, err := h.Counts(c.Ports)
	require.NoError(t, err)
	require.Equal(t, append(first[:3:3], Count{}), again, "what changes elsewhere changes no count")
	visits()
	more := still(t, h, c.Ports)
	require.Greater(t, more[1].Packets, first[1].Packets)

	c.Ports = c.Ports[1:]
	require.NoError(t, h.Set(c))
	c.Ports = ports[:3]
	require.NoError(t, h.Set(c))
	fresh, err := h.Counts(c.Ports)
	require.NoError(t, err)
	require.Zero(t, fresh[0], "a port that is published anew begins anew")
	require.Equal(t, more[1:3], fresh[1:3])

	c.Ports = nil
	require.NoError(t, h.Set(c))
	conn, err := nftables.New()
	require.NoError(t, err)
	tables, err := conn.ListTables()
	require.NoError(t, err)
	for _, table := range tables {
		require.NotEqual(t, "cobletest-counts", table.Name, "without ports there is nothing to count")
	}
}

// still are counts that have stopped: a connection's last packets come after it was closed.
func still(t *testing.T, h *Host, ports []Port) (counts []Count) {
	for {
		before := counts
		var err error
		counts, err = h.Counts(ports)
		require.NoError(t, err)
		if slices.Equal(before, counts) {
			return counts
		}
		time.Sleep(100 * time.Millisecond)
	}
}
