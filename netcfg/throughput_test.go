package netcfg

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/coble-os/coble/netcfg/nstest"
)

// BenchmarkThroughput compares what iperf3 gets through coble's bridges and rules with what it gets through such as one writes
// by hand: through a published port, and between two containers of a network. Each turn measures all four, of which the two
// of a path come first by turns; the median of a path's ratios must be at least 0.98. A turn is short, and iperf3 goes before
// other programs, so that a machine at work is one in few of them.
func BenchmarkThroughput(b *testing.B) {
	nstest.Own(b)
	ours, hand := newTestbed(b, cobleSide), newTestbed(b, handSide)
	paths := []struct {
		name string
		run  func(*testbed) float64
	}{
		{"published", func(d *testbed) float64 { return iperf(b, d.client, "192.0.2.1") }},
		{"between", func(d *testbed) float64 { return iperf(b, d.other, "10.99.0.2") }},
	}
	rates, ratios := map[string][]float64{}, map[string][]float64{}
	turn := 0
	for b.Loop() {
		for _, p := range paths {
			var a, o float64
			if turn%2 == 0 {
				a = p.run(ours)
			}
			o = p.run(hand)
			if turn%2 == 1 {
				a = p.run(ours)
			}
			rates[p.name], ratios[p.name] = append(rates[p.name], a), append(ratios[p.name], a/o)
		}
		turn++
	}
	for _, p := range paths {
		ratio := median(ratios[p.name])
		b.ReportMetric(median(rates[p.name])/1e9, p.name+"-Gbit/s")
		b.ReportMetric(ratio, p.name+"-ratio")
		if ratio < 0.98 {
			b.Errorf("%s: %.3f of what rules by hand let through, want at least 0.98", p.name, ratio)
		}
	}
}

// testbed is a host with two containers, of which the first is published at port 5201, and a client before its door.
type testbed struct{ host, client, server, other *nstest.Peer }

func newTestbed(b *testing.B, side func(*testing.B, *testbed)) *testbed {
	iperf3 := nstest.Program(b, "iperf3", "iperf3")
	d := &testbed{nstest.NewPeer(b), nstest.NewPeer(b), nstest.NewPeer(b), nstest.NewPeer(b)}
	d.host.Do(func() {
		noBridgeNetfilter(b)
		require.NoError(b, sysctl("net/ipv4/ip_forward", "1"))
		d.client.Veth(b, "up0", "eth0", "192.0.2.2/24")
	})
	d.host.Output(b, "/usr/bin/env", "ip", "address", "add", "192.0.2.1/24", "dev", "up0")
	d.host.Output(b, "/usr/bin/env", "ip", "link", "set", "up0", "up")
	side(b, d)
	d.server.Start(b, "/usr/bin/nice", "-n", "-20", iperf3, "-s", "--logfile", "/dev/null")
	return d
}

func cobleSide(b *testing.B, d *testbed) {
	h, n := testHost()
	links := map[string]Link{}
	for i, p := range []*nstest.Peer{d.server, d.other} {
		a := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 99, 0, byte(2 + i)}), 24)
		e := Endpoint{HostIf: fmt.Sprint("tv", i), IfName: "eth0", Pid: p.Thread, V4: a, MAC: MACFor(a.Addr()), Default4: Way{Gateway: n.Gateway4}}
		links[e.HostIf] = Link{Name: e.HostIf, Bridge: n.Bridge, MAC: e.MAC, V4: a.Addr()}
		d.host.Do(func() {
			require.NoError(b, h.Set(Config{Networks: []Network{n}, Links: links, Ports: []Port{port("", 5201, "10.99.0.2:5201")}}))
			require.NoError(b, h.Plug(n, e))
		})
	}
	require.NoError(b, h.Loose())
	require.Empty(b, h.Proxied())
}

// handSide is what a careful administrator writes: one rule for the port, one for what goes out, and nothing else comes in.
func handSide(b *testing.B, d *testbed) {
	sh := func(p *nstest.Peer, script string) { p.Output(b, "/bin/sh", "-e", "-c", script) }
	sh(d.host, "ip link add br0 type bridge; ip address add 10.99.0.1/24 dev br0; ip link set br0 up")
	for i, p := range []*nstest.Peer{d.server, d.other} {
		sh(d.host, fmt.Sprintf("ip link add hv%d type veth peer name eth0 netns %d; ip link set hv%[1]d master br0 up", i, p.Thread))
		sh(p, fmt.Sprintf("ip link set lo up; ip address add 10.99.0.%d/24 dev eth0; ip link set eth0 up; ip route add default via 10.99.0.1", 2+i))
	}
	sh(d.host, `nft -f - <<END
table ip hand {
	chain publish { type nat hook prerouting priority dstnat; fib daddr type local tcp dport 5201 dnat to 10.99.0.2:5201; }
	chain out { type nat hook postrouting priority srcnat; ip saddr 10.99.0.0/24 oifname != "br0" masquerade; }
	chain forward { type filter hook forward priority filter; oifname "br0" ct state established,related accept
		oifname "br0" ct status dnat accept; oifname "br0" drop; }
}
END`)
}

// iperf sends 256 MiB over one TCP connection; it returns the bits per second that arrived.
func iperf(b *testing.B, from *nstest.Peer, to string) float64 {
	var out []byte
	var err error
	cmd := exec.Command("/usr/bin/nice", "-n", "-20", "iperf3", "-c", to, "-n", "256M", "-J")
	from.Do(func() { out, err = cmd.Output() })
	require.NoError(b, err, "%s", out)
	var r struct {
		End struct {
			Received struct {
				Rate float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		} `json:"end"`
	}
	require.NoError(b, json.Unmarshal(out, &r))
	require.NotZero(b, r.End.Received.Rate, "%s", out)
	return r.End.Received.Rate
}

func median(x []float64) float64 {
	x = slices.Sorted(slices.Values(x))
	return (x[len(x)/2] + x[(len(x)-1)/2]) / 2
}
