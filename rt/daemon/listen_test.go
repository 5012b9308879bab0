package daemon_test

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/moby/moby/api/types/network"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// listens are the links and addresses of the engine's table that each group of ports is reached from, as "links: ports".
func listens(t *testing.T, table string) (list []string) {
	conn, err := nftables.New()
	require.NoError(t, err)
	sets, err := conn.GetSets(&nftables.Table{Name: table, Family: nftables.TableFamilyIPv4})
	if err != nil {
		return nil // there is no such table yet
	}
	places, ports := map[string][]string{}, map[string][]string{}
	for _, s := range sets {
		kind, suffix, _ := strings.Cut(s.Name, "-")
		elements, err := conn.GetSetElements(s)
		if err != nil {
			return nil // the table has just been replaced
		}
		for _, e := range elements {
			switch {
			case kind == "links":
				places[suffix] = append(places[suffix], strings.TrimRight(string(e.Key), "\x00"))
			case kind == "addresses":
				a, _ := netip.AddrFromSlice(e.Key)
				places[suffix] = append(places[suffix], a.String())
			case kind == "ports" && suffix != "of-address":
				ports[suffix] = append(ports[suffix], strconv.Itoa(int(binary.BigEndian.Uint16(e.Key[4:]))))
			}
		}
	}
	for suffix, p := range ports {
		slices.Sort(places[suffix])
		slices.Sort(p)
		list = append(list, strings.Join(places[suffix], " ")+": "+strings.Join(p, " "))
	}
	slices.Sort(list)
	return list
}

// TestListen: ports that name no address are reached from where the file says, by the name that a link has or gets later;
// a container may have its own; an address that is named is as it is; and a file that was read again counts.
func TestListen(t *testing.T) {
	m := newFolders(t)
	m.writeConfig("listen = \"lan\"\n")
	m.boot()
	m.loadBox()
	config := "\n[container.first]\nimage = \"box\"\ncommand = [\"sleep\", \"1000\"]\nports = [\"23101:80\"]\nstop_signal = \"KILL\"\n" +
		"[container.second]\nimage = \"box\"\ncommand = [\"sleep\", \"1000\"]\nports = [\"23102:80\", \"127.0.0.1:23103:80\"]\nlisten = [\"cbtz0\", \"192.0.2.7\"]\nstop_signal = \"KILL\"\n"
	m.writeConfig("listen = \"cbtlan\"\n" + config)
	require.NoError(t, unix.Kill(m.enginePid(), unix.SIGHUP))
	m.start("third", func(r *request) {
		r.HostConfig.NetworkMode = "bridge"
		r.HostConfig.PortBindings = network.PortMap{
			network.MustParsePort("80/tcp"): {{HostPort: "23104"}}, network.MustParsePort("81/tcp"): {{HostIP: netip.IPv4Unspecified(), HostPort: "23105"}},
		}
	}, "sleep", "1000")
	want := func(list ...string) {
		t.Helper()
		m.until("ports reached from "+strings.Join(list, ", "), func() bool { return slices.Equal(list, listens(t, m.name())) })
	}
	want("192.0.2.7 cbtz0: 23102", ": 23105", "cbtlan: 23101 23104")

	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "cbtx0", MTU: 1500}, PeerName: "cbtx1"}
	require.NoError(t, netlink.LinkAdd(veth))
	t.Cleanup(func() { netlink.LinkDel(veth) })
	require.NoError(t, netlink.LinkSetAlias(veth, "cbtlan"))
	want("192.0.2.7 cbtz0: 23102", ": 23105", "cbtlan cbtx0: 23101 23104")
	before := rules(t, m.name())
	m.awaitEngine(m.killEngine())
	require.Equal(t, before, rules(t, m.name()), "the next engine has nothing to change")

	m.writeConfig(config)
	require.NoError(t, unix.Kill(m.enginePid(), unix.SIGHUP))
	want("192.0.2.7 cbtz0: 23102", ": 23101 23104 23105")
}
