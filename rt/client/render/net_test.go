package render

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/coble-os/coble/rt/netview"
)

var update = flag.Bool("update", false, "write the golden files")

func golden(t *testing.T, name, have string) {
	file := filepath.Join("testdata", name)
	if *update {
		require.NoError(t, os.WriteFile(file, []byte(have), 0o644))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, string(want), have, file)
}

func sampleNet(t *testing.T) *netview.View {
	v := &netview.View{}
	require.NoError(t, json.Unmarshal([]byte(`{
		"Firewall": "guest of fw4 (zones lan, wan)", "Advice": ["fw4 drops what is forwarded to coble0"],
		"Networks": [
			{"Name": "bridge", "Driver": "bridge", "Subnets": ["10.88.0.0/16"], "Gateways": ["10.88.0.1"], "Link": "coble0", "Members": [
				{"ID": "2", "Name": "web", "Link": "eth0", "Addresses": ["10.88.0.2"], "Ports": [
					{"At": "8080", "From": ["br-lan", "192.0.2.1"], "To": 80, "Proto": "tcp", "Packets": 1204, "Bytes": 3400000},
					{"At": "443", "From": ["wan"], "Except": true, "To": 443, "Proto": "tcp"},
					{"At": "127.0.0.1:53", "To": 53, "Proto": "udp", "Packets": 2, "Bytes": 130}]}]},
			{"Name": "host", "Driver": "host", "Members": [{"ID": "4", "Name": "wifi"}]},
			{"Name": "lan", "Driver": "bridge", "Internal": true, "Subnets": ["10.89.0.0/24", "fd00:9::/64"], "Gateways": ["10.89.0.1", "fd00:9::1"], "Link": "br-1", "Members": [
				{"ID": "1", "Name": "db<1>", "Link": "eth0", "Addresses": ["10.89.0.2", "fd00:9::2"]},
				{"ID": "2", "Name": "web", "Link": "eth1", "Addresses": ["10.89.0.3", "fd00:9::3"]}]},
			{"Name": "none", "Driver": "null", "Members": []},
			{"Name": "phones", "Driver": "macvlan", "Subnets": ["192.168.50.0/24"], "Gateways": ["192.168.50.1"], "Link": "eth0.50", "Members": [
				{"ID": "3", "Name": "pbx-with-a-name-longer-than-a-box", "Link": "eth0", "Addresses": ["192.168.50.9"]}]}]}`), v))
	return v
}

// TestNet: what `coble net` shows, as text and as pictures.
func TestNet(t *testing.T) {
	v := sampleNet(t)
	show := func() string {
		var b bytes.Buffer
		Table(&b, NetRows(v))
		for _, note := range NetNotes(v) {
			b.WriteString(note + "\n")
		}
		return b.String()
	}
	golden(t, "net.txt", show())
	var svg, dot bytes.Buffer
	NetGraph(v).SVG(&svg)
	golden(t, "net.svg", svg.String())
	NetGraph(v).DOT(&dot)
	golden(t, "net.dot", dot.String())

	v.Firewall, v.Advice, v.Proxy = "", nil, "the kernel has no nftables"
	require.Contains(t, show(), "8080->80/tcp (from br-lan, 192.0.2.1)   -         3.4MB", "a proxy sees no packets")
	v.Networks[0].Members[0].Ports[0].Connections = 7
	dot.Reset()
	NetGraph(v).DOT(&dot)
	require.Contains(t, dot.String(), `7 connections, 3.4MB`)
	v.Proxy, v.Counts = "", "the kernel has no counters"
	require.Contains(t, show(), "8080->80/tcp (from br-lan, 192.0.2.1)   -         -")
	require.Contains(t, show(), "the kernel has no counters")
}
