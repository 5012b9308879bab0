package daemon_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/stretchr/testify/require"

	"github.com/coble-os/coble/netcfg"
)

func (m *machine) network(name string) (n network.Inspect) {
	m.t.Helper()
	require.NoError(m.t, json.Unmarshal([]byte(m.do("GET", "/networks/"+name, nil)), &n))
	return n
}

// ask runs a command in a container of its own in the network and returns its exit code and what it printed.
func (m *machine) ask(name, network string, cmd ...string) (int, string) {
	m.t.Helper()
	id := m.start(name, func(r *request) { r.HostConfig.NetworkMode = container.NetworkMode(network) }, cmd...)
	code := m.wait(id)
	out := m.logs(id)
	m.do("DELETE", "/containers/"+id, nil)
	return code, out
}

// TestNetworksOutliveTheEngine: names are answered, addresses stay and ports lead on after the engine was killed, with
// nothing sent to the kernel that was there already; a network that was made is there after a restart of the daemon, and all
// is gone after a clean-up.
func TestNetworksOutliveTheEngine(t *testing.T) {
	m := newMachine(t, "")
	m.loadBox()
	m.do("POST", "/networks/create", map[string]any{"Name": "lan", "IPAM": map[string]any{"Config": []any{map[string]string{"Subnet": "10.213.1.0/24"}}}})
	id := m.start("web", func(r *request) { r.HostConfig.NetworkMode = "lan" }, "sh", "-c", "mkdir /w; echo here > /w/index.html; exec busybox httpd -f -p 80 -h /w")
	address := m.inspect(id).NetworkSettings.Networks["lan"].IPAddress
	require.True(t, netip.MustParsePrefix("10.213.1.0/24").Contains(address))
	bridge := m.network("lan").Options["com.docker.network.bridge.name"]
	require.True(t, netcfg.Exists(bridge))

	before := rules(t, m.name())
	m.awaitEngine(m.killEngine())
	require.Equal(t, before, rules(t, m.name()), "a new engine finds the rules as they should be, and keeps them: with their handles")
	code, out := m.ask("asks", "lan", "busybox", "wget", "-qO-", "http://web/")
	require.Equal(t, "here\n", out)
	require.Zero(t, code)
	require.Equal(t, address, m.inspect(id).NetworkSettings.Networks["lan"].IPAddress)

	require.Zero(t, m.exec("web", "busybox", "nslookup", "web"), "a container from before asks the new engine")
	m.do("POST", "/networks/create", map[string]any{"Name": "other"})
	code, _ = m.ask("stranger", "other", "busybox", "nslookup", "web")
	require.NotZero(t, code, "a name is its network's")
	m.do("DELETE", "/networks/other", nil)

	m.stop()
	m.boot()
	require.Equal(t, "10.213.1.0/24", m.network("lan").IPAM.Config[0].Subnet.String())
	m.do("POST", "/containers/web/start", nil)
	require.Equal(t, address, m.inspect(id).NetworkSettings.Networks["lan"].IPAddress, "kept over a restart")
	status, text := m.call("DELETE", "/networks/lan", nil)
	require.Equal(t, 403, status, text)
	require.Contains(t, text, "has active endpoints")
	m.do("DELETE", "/containers/web?force=1", nil)
	m.do("DELETE", "/networks/lan", nil)
	require.False(t, netcfg.Exists(bridge))
}

// rules are the chains of the engine's table and its rules, each by its handle, which no other gets again.
func rules(t *testing.T, table string) (list []string) {
	conn, err := nftables.New()
	require.NoError(t, err)
	chains, err := conn.ListChainsOfTableFamily(nftables.TableFamilyIPv4)
	require.NoError(t, err)
	for _, c := range chains {
		if c.Table.Name != table {
			continue
		}
		list = append(list, "chain "+c.Name)
		all, err := conn.GetRules(c.Table, c)
		require.NoError(t, err)
		for _, r := range all {
			list = append(list, fmt.Sprintf("rule %d", r.Handle))
		}
	}
	require.NotEmpty(t, list)
	return list
}

// descriptors is how many a process has open.
func descriptors(t *testing.T, pid int) int {
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	require.NoError(t, err)
	return len(list)
}

// TestConnects: neither links nor addresses, rules or descriptors are left behind. COBLE_CONNECTS is how many times.
func TestConnects(t *testing.T) {
	rounds := 40
	if n, err := strconv.Atoi(os.Getenv("COBLE_CONNECTS")); err == nil {
		rounds = n
	}
	m := newMachine(t, "")
	m.loadBox()
	m.do("POST", "/networks/create", map[string]any{"Name": "lan", "IPAM": map[string]any{"Config": []any{map[string]string{"Subnet": "10.213.2.0/29"}}}})
	id := m.start("box", func(r *request) { r.HostConfig.NetworkMode = "bridge" }, "sleep", "1000")
	connect := func() {
		m.do("POST", "/networks/lan/connect", network.ConnectRequest{Container: "box"})
		m.do("POST", "/networks/lan/disconnect", map[string]string{"Container": "box"})
	}
	connect()
	before, links := len(rules(t, m.name())), m.left()
	open := descriptors(t, m.enginePid())
	for range rounds {
		connect()
	}
	require.Equal(t, links, m.left())
	require.Len(t, rules(t, m.name()), before)
	require.InDelta(t, open, descriptors(t, m.enginePid()), 3)
	require.Len(t, m.inspect(id).NetworkSettings.Networks, 1)
	m.do("POST", "/networks/lan/connect", network.ConnectRequest{Container: "box"})
	require.Equal(t, "eth1", interfaceOf(m, "10.213.2."))
}

// interfaceOf is the link in the container box whose address begins so.
func interfaceOf(m *machine, prefix string) string {
	out, err := exec.Command("nsenter", "-t", fmt.Sprint(m.inspect("box").State.Pid), "-n", "ip", "-4", "-o", "addr").CombinedOutput()
	require.NoError(m.t, err, "%s", out)
	for line := range strings.Lines(string(out)) {
		if f := strings.Fields(line); len(f) > 3 && strings.HasPrefix(f[3], prefix) {
			return f[1]
		}
	}
	return ""
}

// TestStartsBesideEachOther: what one start tells the network takes nothing away from the others.
func TestStartsBesideEachOther(t *testing.T) {
	m := newMachine(t, "")
	m.loadBox()
	const many = 60
	ids := make([]string, many)
	for i := range ids {
		ids[i] = m.create(fmt.Sprintf("c%d", i), func(r *request) { r.HostConfig.NetworkMode = "bridge" }, "sh", "-c", "sleep 2; test -e /sys/class/net/eth0")
	}
	var wg sync.WaitGroup
	for i, id := range ids {
		wg.Go(func() {
			time.Sleep(time.Duration(i) * 4 * time.Millisecond) // some look while others are plugged in
			m.try("POST", "/containers/"+id+"/start", nil)
		})
	}
	wg.Wait()
	for _, id := range ids {
		require.Zero(t, m.wait(id), "its link is gone")
	}
	log, err := os.ReadFile(m.dir + "/log")
	require.NoError(t, err)
	require.NotContains(t, string(log), "made link anew", "a link was taken away, if only for a moment")
}

// TestAttachedNetwork: a container on a link of the host's is reached by who is on that link, at its own address, by name by its
// sibling, and stays so under a new engine. What it publishes is not, and it is told.
func TestAttachedNetwork(t *testing.T) {
	m := newMachine(t, "")
	m.loadBox()
	parent := "p" + m.name()[len(m.name())-8:]
	ip := func(args ...string) {
		t.Helper()
		out, err := exec.Command("ip", args...).CombinedOutput()
		require.NoError(t, err, "ip %v: %s", args, out)
	}
	ip("link", "add", parent, "type", "veth", "peer", "name", parent+"x")
	t.Cleanup(func() { _ = exec.Command("ip", "link", "del", parent).Run() })
	ip("link", "set", parent, "up")
	ip("link", "set", parent+"x", "up")
	ip("addr", "add", "10.213.4.1/24", "dev", parent+"x")
	lan := map[string]any{"Name": "lan", "Driver": "macvlan", "Options": map[string]string{"parent": parent}, "IPAM": map[string]any{"Config": []any{map[string]string{"Subnet": "10.213.4.0/24"}}}}
	m.do("POST", "/networks/create", lan)
	require.Equal(t, "macvlan", m.network("lan").Driver)
	status, text := m.call("POST", "/networks/create", map[string]any{"Name": "other", "Driver": "ipvlan", "Options": map[string]string{"parent": parent}})
	require.Equal(t, 409, status, text)
	require.Contains(t, text, "network lan is macvlan's there")
	status, text = m.call("POST", "/networks/create", map[string]any{"Name": "other", "Driver": "macvlan", "Options": map[string]string{"parent": "nope7"}})
	require.GreaterOrEqual(t, status, 400, text)
	require.Contains(t, text, "find parent nope7: the host has no link of that name")

	var made container.CreateResponse
	web := request{Config: container.Config{Image: "box", StopSignal: "KILL", Cmd: []string{"sh", "-c", "mkdir /w; echo here > /w/index.html; exec busybox httpd -f -p 80 -h /w"}}}
	web.HostConfig.NetworkMode = "lan"
	web.HostConfig.PortBindings = network.PortMap{network.MustParsePort("80/tcp"): {{HostPort: "0"}}}
	require.NoError(t, json.Unmarshal([]byte(m.do("POST", "/containers/create?name=web", web)), &made))
	require.Contains(t, strings.Join(made.Warnings, " "), "Published ports are discarded")
	m.do("POST", "/containers/web/start", nil)
	address := m.inspect("web").NetworkSettings.Networks["lan"].IPAddress.String()
	require.Empty(t, m.inspect("web").NetworkSettings.Ports[network.MustParsePort("80/tcp")])
	client := http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	get := func() error {
		resp, err := client.Get("http://" + address + "/")
		if err == nil {
			resp.Body.Close()
		}
		return err
	}
	require.Eventually(t, func() bool { return get() == nil }, 10*time.Second, 50*time.Millisecond)
	m.awaitEngine(m.killEngine())
	require.NoError(t, get())
	code, out := m.ask("asks", "lan", "busybox", "wget", "-qO-", "http://web/")
	require.Equal(t, "here\n", out)
	require.Zero(t, code)

	m.do("POST", "/networks/bridge/connect", network.ConnectRequest{Container: "web"})
	require.NoError(t, get())
	m.do("POST", "/networks/lan/disconnect", map[string]string{"Container": "web"})
	require.Error(t, get())
	m.do("POST", "/networks/lan/connect", network.ConnectRequest{Container: "web"})
	m.do("DELETE", "/containers/web?force=1", nil)
	m.do("DELETE", "/networks/lan", nil)
	require.True(t, netcfg.Exists(parent), "what is the host's stays")
}

// TestCounts: what went through a published port is told by coble's own route, and counted on by the next engine and over changes
// of other containers.
func TestCounts(t *testing.T) {
	m := newMachine(t, "")
	m.loadBox()
	serve := "mkdir /w; echo here > /w/index.html; exec busybox httpd -f -p 80 -h /w"
	m.start("web", publishAt("0.0.0.0", "23311"), "sh", "-c", serve)
	m.start("other", publishAt("127.0.0.1", "23312"), "sh", "-c", serve)
	type port struct {
		At, Proto      string
		To             uint16
		Packets, Bytes uint64
	}
	counts := func() map[string]port {
		var v struct {
			Counts   string
			Networks []struct {
				Name, Driver, Link string
				Gateways           []string
				Members            []struct {
					Name, HostLink, Link string
					Addresses            []string
					Ports                []port
				}
			}
		}
		require.NoError(t, json.Unmarshal([]byte(m.do("GET", "/coble/net", nil)), &v))
		require.Empty(t, v.Counts)
		out := map[string]port{}
		for _, n := range v.Networks {
			for _, member := range n.Members {
				require.Equal(t, "bridge", n.Driver)
				require.Len(t, member.Addresses, 1)
				require.Len(t, member.Ports, 1)
				out[member.Name] = member.Ports[0]
			}
		}
		return out
	}
	require.Equal(t, map[string]port{"web": {At: "23311", Proto: "tcp", To: 80}, "other": {At: "127.0.0.1:23312", Proto: "tcp", To: 80}}, counts())
	get := func() {
		m.until("the page", func() bool {
			resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Get("http://127.0.0.1:23311/")
			if err == nil {
				resp.Body.Close()
			}
			return err == nil
		})
	}
	get()
	first := counts()
	require.Greater(t, first["web"].Packets, uint64(7))
	require.Greater(t, first["web"].Bytes, uint64(400))
	require.Zero(t, first["other"].Packets)
	m.do("DELETE", "/containers/other?force=1", nil)
	m.awaitEngine(m.killEngine())
	require.GreaterOrEqual(t, counts()["web"].Packets, first["web"].Packets, "neither another's end nor another engine begins anew")
	get()
	require.Greater(t, counts()["web"].Packets, first["web"].Packets)
}
