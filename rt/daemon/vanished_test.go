package daemon_test

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/coble-os/coble/netcfg"
	"github.com/coble-os/coble/netcfg/nstest"
	"github.com/coble-os/coble/rt/daemon"
)

// TestVanishedLinks: somebody removes the bridge, and then a container's link, while it runs; the next change of the network makes
// them anew, and the engine lives.
func TestVanishedLinks(t *testing.T) {
	m := newMachine(t, "")
	m.loadBox()
	m.start("web", publish("23401"), "sh", "-c", "mkdir /w; echo here > /w/index.html; exec busybox httpd -f -p 80 -h /w")
	address := m.inspect("web").NetworkSettings.Networks["bridge"].IPAddress.String()
	answers := func() bool {
		code, out := m.ask("asks", "bridge", "timeout", "3", "busybox", "wget", "-qO-", "http://"+address+"/")
		return code == 0 && out == "here\n"
	}
	m.until("the page", answers)
	pid := m.enginePid()
	remove := func(name string) {
		link, err := netlink.LinkByName(name)
		require.NoError(t, err)
		require.NoError(t, netlink.LinkDel(link))
	}
	remove(m.name())
	m.until("the page over a new bridge", answers)
	links := m.left()
	i := 0
	for _, l := range links {
		if name, is := strings.CutPrefix(l, "link "); is {
			remove(name)
			i++
		}
	}
	require.Equal(t, 1, i, "%v", links)
	m.until("the page over a new link", answers)
	require.Equal(t, pid, m.enginePid())
	require.Empty(t, m.inspect("web").State.Error)
}

// TestTwoEngines: two engines that chose the same subnet, since neither had used it, do not collide; and a clean-up of one leaves
// the other's containers reachable.
func TestTwoEngines(t *testing.T) {
	nstest.Own(t)
	one, two := newMachine(t, ""), newMachine(t, "")
	serve := []string{"sh", "-c", "mkdir /w; echo here > /w/index.html; exec busybox httpd -f -p 80 -h /w"}
	subnet := func(m *machine) netip.Prefix { return m.network("bridge").IPAM.Config[0].Subnet }
	require.Equal(t, subnet(one), subnet(two), "the test has nothing to show")
	for i, m := range []*machine{one, two} {
		m.loadBox()
		m.start("web", publish([]string{"23411", "23412"}[i]), serve...)
		m.do("POST", "/networks/create", map[string]any{"Name": "own"})
	}
	require.False(t, subnet(one).Overlaps(subnet(two)))
	require.False(t, one.network("own").IPAM.Config[0].Subnet.Overlaps(two.network("own").IPAM.Config[0].Subnet))
	for _, options := range []string{`{"com.docker.network.bridge.name": "` + one.name() + `"}`, `{}`} {
		body := `{"Name": "theirs", "Options": ` + options + `, "IPAM": {"Config": [{"Subnet": "` + subnet(one).String() + `"}]}}`
		status, text := two.call("POST", "/networks/create", json.RawMessage(body))
		require.Equal(t, 409, status, text)
		require.Contains(t, text, "another engine has it")
	}
	page := func(m *machine, published string) bool { // by the host's own address
		code, out := m.ask("asks", "bridge", "timeout", "3", "busybox", "wget", "-qO-", "http://"+m.network("bridge").IPAM.Config[0].Gateway.String()+":"+published+"/")
		return code == 0 && out == "here\n"
	}
	one.until("the first's page", func() bool { return page(one, "23411") })
	two.until("the second's page", func() bool { return page(two, "23412") })
	one.stop()
	require.NoError(t, daemon.Clean(daemon.Options{Root: one.root(), Run: one.run()}))
	require.False(t, netcfg.Exists(one.name()))
	require.True(t, page(two, "23412"))
	two.awaitEngine(two.killEngine())
	require.True(t, page(two, "23412"))
}
