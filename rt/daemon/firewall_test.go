package daemon_test

import (
	"encoding/json"
	"os/exec"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/system"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/coble-os/coble/netcfg/nstest"
)

func publish(port string) func(*request) {
	return func(r *request) {
		r.HostConfig.NetworkMode = "bridge"
		r.HostConfig.PortBindings = network.PortMap{network.MustParsePort("80/tcp"): {{HostPort: port}}}
	}
}

func (m *machine) info() (i system.Info) {
	m.t.Helper()
	require.NoError(m.t, json.Unmarshal([]byte(m.do("GET", "/info", nil)), &i))
	return i
}

// TestGuest: info names the firewall and what to do for published ports to get through, a start says so once, and no life of
// the engine changes the firewall's rules.
func TestGuest(t *testing.T) {
	nstest.Own(t)
	require.NoError(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "br-lan", MTU: 1500}, PeerName: "wan"}))
	out, err := exec.Command("nft", "-f", "../../netcfg/testdata/firewalls/fw4.nft").CombinedOutput()
	require.NoError(t, err, string(out))
	theirs := func() string {
		out, err := exec.Command("nft", "-a", "-s", "list", "table", "inet", "fw4").Output()
		require.NoError(t, err)
		return string(out)
	}
	before := theirs()
	m := newMachine(t, "listen = \"lan\"\n")
	m.loadBox()
	m.start("one", publish("23201"), "sleep", "1000")
	m.start("two", publish("23202"), "sleep", "1000")
	i := m.info()
	require.Contains(t, i.DriverStatus, [2]string{"Firewall", "guest of fw4 (zones lan, wan)"})
	require.Len(t, i.Warnings, 1)
	require.Contains(t, i.Warnings[0], "fw4 drops what is forwarded to "+m.name())
	m.until("the problem", func() bool { return strings.Contains(m.do("GET", "/coble/status", nil), "fw4 drops what is forwarded") })
	require.Equal(t, 1, strings.Count(m.do("GET", "/coble/status", nil), "fw4 drops what is forwarded"))
	require.Equal(t, []string{"br-lan lan: 23201 23202"}, listens(t, m.name()), "a zone stands for its links")
	require.Equal(t, before, theirs(), "with containers")
	m.awaitEngine(m.killEngine())
	m.do("DELETE", "/containers/one?force=1", nil)
	m.stop()
	m.cleanUp()
	require.Equal(t, before, theirs(), "after the clean-up")
}
