package netcfg

import (
	"io"
	"math"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/coble-os/coble/netcfg/nstest"
)

// pair is a TCP connection between the host and the namespace of a process.
func pair(t *testing.T, pid int, addr string) (host, inside net.Conn) {
	t.Helper()
	var l net.Listener
	require.NoError(t, nstest.Visit(pid, func() (err error) {
		l, err = net.Listen("tcp", addr)
		return err
	}))
	defer l.Close()
	var err error
	host, err = net.Dial("tcp", addr)
	require.NoError(t, err)
	inside, err = l.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { host.Close(); inside.Close() })
	return host, inside
}

// speed is how many bits per second get from one end of a connection to the other, without headers, once it is under way.
func speed(t *testing.T, from, to net.Conn) float64 {
	t.Helper()
	from.SetWriteDeadline(time.Now().Add(1700 * time.Millisecond))
	go func() {
		b := make([]byte, 1<<16)
		for {
			if _, err := from.Write(b); err != nil {
				return
			}
		}
	}()
	to.SetReadDeadline(time.Now().Add(400 * time.Millisecond))
	io.Copy(io.Discard, to)
	start := time.Now()
	to.SetReadDeadline(start.Add(1200 * time.Millisecond))
	n, _ := io.Copy(io.Discard, to)
	return 8 * float64(n) / time.Since(start).Seconds()
}

// TestBandwidth: a container receives and sends as fast as it may, and TCP makes use of that; a limit is changed, and lifted, while it
// runs, and what is not coble's queue is left alone.
func TestBandwidth(t *testing.T) {
	nstest.Own(t)
	noBridgeNetfilter(t)
	h, n := testHost()
	pid := container(t, h, n, "tv1", "10.99.0.2/24")
	limit := func(b Bandwidth) {
		t.Helper()
		err := Limit("tv1", pid, "eth0", b)
		require.NoError(t, err)
	}
	const payload = 1448. / 1514 // of a packet of TCP in a frame of Ethernet
	for i, b := range []Bandwidth{{In: 20e6, Out: 5e6}, {In: 2e6}, {Out: 50e6}} {
		limit(b)
		limit(b) // again: no harm
		for _, way := range []struct {
			name  string
			limit uint64
			in    bool
		}{{"in", b.In, true}, {"out", b.Out, false}} {
			host, inside := pair(t, pid, "10.99.0.2:5000")
			from, to := inside, host
			if way.in {
				from, to = host, inside
			}
			least, most := 80e6, math.Inf(1)
			if way.limit != 0 {
				want := float64(way.limit) * payload
				least, most = 0.85*want, 1.15*want // 0.99 on a machine that is no emulated one
			}
			// A busy machine is slow for a while, and then sends what waited at once: it is right in one of a few times.
			for try := 1; ; try++ {
				have := speed(t, from, to)
				t.Logf("%d %s: limit %d, %.0f bit/s of payload", i, way.name, way.limit, have)
				require.Less(t, have, 1.5*most, way.name)
				if have > least && have < most {
					break
				}
				require.Less(t, try, 8, "%s: %.0f bit/s of payload, and the limit is %d", way.name, have, way.limit)
			}
			host.Close()
			inside.Close()
		}
	}
	limit(Bandwidth{})
	limit(Bandwidth{})
	kinds := func() []string {
		l, err := netlink.LinkByName("tv1")
		require.NoError(t, err)
		list, err := netlink.QdiscList(l)
		require.NoError(t, err)
		var names []string
		for _, q := range list {
			names = append(names, q.Type())
		}
		return names
	}
	require.Equal(t, []string{"noqueue"}, kinds(), "the limit is gone with its queue")
	l, err := netlink.LinkByName("tv1")
	require.NoError(t, err)
	require.NoError(t, netlink.QdiscAdd(&netlink.Tbf{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: l.Attrs().Index, Parent: netlink.HANDLE_ROOT, Handle: netlink.MakeHandle(1, 0)}, Rate: 1e9, Buffer: 1e6, Limit: 1e6}))
	limit(Bandwidth{})
	require.Equal(t, []string{"tbf"}, kinds(), "somebody else's queue stays")
	require.ErrorContains(t, Limit("", pid, "eth0", Bandwidth{In: 1e6}), "can be limited in what it sends alone")
	require.Error(t, Limit("tv9", pid, "eth0", Bandwidth{In: 1e6}))
}

// TestBucket: what goes at once is never less than a packet, and the kernel counts it in its own unit.
func TestBucket(t *testing.T) {
	q := bucket(8e6, 1500)
	require.Equal(t, []uint32{1e6, 312500, 20e3 + 100e3}, []uint32{q.Rate.Rate, q.Buffer, q.Limit}, "20 ms in units of 64 ns")
	q = bucket(64e3, 1500)
	require.Equal(t, uint32(8000), q.Rate.Rate)
	require.InDelta(t, 2*1518, float64(q.Buffer)*64/1e9*8000, 1)
}
