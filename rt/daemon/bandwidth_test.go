package daemon_test

import (
	"encoding/json"
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// buckets are the limits of a container's links in bits per second, as the kernel has them: what each receives and sends.
func (m *machine) buckets(name string) (out [][2]uint64) {
	m.t.Helper()
	ns, err := netns.GetFromPid(m.inspect(name).State.Pid)
	require.NoError(m.t, err)
	defer ns.Close()
	inside, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	require.NoError(m.t, err)
	defer inside.Close()
	host, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	require.NoError(m.t, err)
	defer host.Close()
	rate := func(h *netlink.Handle, index int) uint64 {
		list, err := h.QdiscList(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: index}})
		require.NoError(m.t, err)
		for _, q := range list {
			if tbf, ok := q.(*netlink.Tbf); ok {
				return 8 * tbf.Rate
			}
		}
		return 0
	}
	links, err := inside.LinkList()
	require.NoError(m.t, err)
	for _, l := range links {
		switch l.Type() {
		case "veth":
			out = append(out, [2]uint64{rate(host, l.Attrs().ParentIndex), rate(inside, l.Attrs().Index)})
		case "macvlan":
			out = append(out, [2]uint64{0, rate(inside, l.Attrs().Index)})
		}
	}
	return out
}

// TestBandwidth: a container's limits are on each of its links, from the start or from when it joins, also when it is started
// again and by another engine; they change and go while it runs, and what cannot be had is refused and changes nothing.
func TestBandwidth(t *testing.T) {
	m := newMachine(t, "")
	m.loadBox()
	type rates map[string]uint64
	create := func(name string, mode container.NetworkMode, b rates) (int, string) {
		return m.call("POST", "/containers/create?name="+name, map[string]any{
			"Image": "box", "Cmd": []string{"sleep", "1000"}, "StopSignal": "KILL", "HostConfig": map[string]any{"NetworkMode": mode}, "Bandwidth": b,
		})
	}
	status, text := create("web", "bridge", rates{"In": 10e6, "Out": 2e6})
	require.Equal(t, 201, status, text)
	m.do("POST", "/networks/create", map[string]any{"Name": "lan"})
	m.do("POST", "/containers/web/start", nil)
	require.Equal(t, [][2]uint64{{10e6, 2e6}}, m.buckets("web"))
	m.do("POST", "/networks/lan/connect", map[string]string{"Container": "web"})
	require.Equal(t, [][2]uint64{{10e6, 2e6}, {10e6, 2e6}}, m.buckets("web"))
	inspect := func() string {
		var out struct{ Bandwidth json.RawMessage }
		require.NoError(t, json.Unmarshal([]byte(m.do("GET", "/containers/web/json", nil)), &out))
		return string(out.Bandwidth)
	}
	require.Equal(t, `{"In":10000000,"Out":2000000}`, inspect())

	update := func(b rates) (int, string) {
		return m.call("POST", "/containers/web/update", map[string]any{"Bandwidth": b})
	}
	status, text = update(rates{"In": 5e6})
	require.Equal(t, 200, status, text)
	require.Equal(t, [][2]uint64{{5e6, 2e6}, {5e6, 2e6}}, m.buckets("web"), "what is not said stays")
	m.do("POST", "/containers/web/update", container.UpdateConfig{RestartPolicy: container.RestartPolicy{Name: "always"}})
	m.awaitEngine(m.killEngine())
	require.Equal(t, [][2]uint64{{5e6, 2e6}, {5e6, 2e6}}, m.buckets("web"), "Docker's client says nothing of it")
	m.do("POST", "/containers/web/restart", nil)
	require.Equal(t, [][2]uint64{{5e6, 2e6}, {5e6, 2e6}}, m.buckets("web"), "kept over a restart")
	status, text = update(rates{"In": 100})
	require.Equal(t, 400, status, text)
	status, text = update(rates{"In": 0})
	require.Equal(t, 200, status, text)
	require.Equal(t, [][2]uint64{{0, 2e6}, {0, 2e6}}, m.buckets("web"))
	status, text = update(rates{"Out": 0})
	require.Equal(t, 200, status, text)
	require.Equal(t, [][2]uint64{{}, {}}, m.buckets("web"))
	require.Empty(t, inspect(), "Docker's answer is as it is")

	parent := "p" + m.name()[len(m.name())-8:]
	require.NoError(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: parent}, PeerName: parent + "x"}))
	t.Cleanup(func() { netlink.LinkDel(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: parent}}) })
	m.do("POST", "/networks/create", map[string]any{
		"Name": "phones", "Driver": "macvlan", "Options": map[string]string{"parent": parent},
		"IPAM": map[string]any{"Config": []any{map[string]string{"Subnet": "10.213.9.0/24"}}},
	})
	m.do("POST", "/networks/phones/connect", map[string]string{"Container": "web"})
	status, text = update(rates{"In": 3e6, "Out": 3e6})
	require.Equal(t, 409, status, text)
	require.Contains(t, text, "limit the bandwidth of container web in network phones: limit what comes in through eth2: a link without an end on the host")
	require.Equal(t, [][2]uint64{{}, {}, {}}, m.buckets("web"), "all or none")
	require.Empty(t, inspect())
	status, text = update(rates{"Out": 3e6})
	require.Equal(t, 200, status, text)
	require.Equal(t, [][2]uint64{{0, 3e6}, {0, 3e6}, {0, 3e6}}, m.buckets("web"))

	for _, mode := range []container.NetworkMode{"host", "container:web"} {
		status, text = create("other", mode, rates{"Out": 1e6})
		require.Equal(t, 400, status, text)
		require.Contains(t, text, "no link of its own that could be limited")
	}
	m.do("DELETE", "/containers/web?force=1", nil)
	m.do("DELETE", "/networks/lan", nil)
	m.do("DELETE", "/networks/phones", nil)
}
