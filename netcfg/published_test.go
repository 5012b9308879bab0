package netcfg

import (
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/nftables"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestProxied: where rules cannot publish ports, or the owner does not want them to, the proxy does: from where listen says, for
// both families, as far as the kernel can have the rest of the rules.
func TestProxied(t *testing.T) {
	for _, row := range []struct {
		name   string
		lacks  lack
		forced bool
		rules  bool   // there is a table
		why    string // of Proxied
		said   string // by Lacks
	}{
		{name: "forced", forced: true, rules: true, why: "the TOML file says so"},
		{name: "without NAT", lacks: lacksNAT, rules: true, why: "the kernel has no NAT by nftables", said: "NFT_NAT"},
		{name: "without nftables", lacks: lacksAll, why: "the kernel has no nftables", said: "are not kept apart"},
	} {
		t.Run(row.name, func(t *testing.T) {
			if !alone(t) {
				return
			}
			noBridgeNetfilter(t)
			for _, key := range forwardKeys {
				require.NoError(t, sysctl(key, "0"))
			}
			h, n := testHost()
			n.V6, n.Gateway6 = netip.MustParsePrefix("fd00:99::/64"), netip.MustParseAddr("fd00:99::1")
			h.lacks, h.why = row.lacks, map[bool]string{true: row.why}[row.lacks != lacksNothing]
			if row.forced {
				h.UseProxy()
			}
			inside := container(t, h, n, "tv1", "10.99.0.2/24")
			container(t, h, n, "tv2", "fd00:99::2/64")
			lan, wan := neighbour(t, "br-lan", "192.0.2.1/24", "2001:db8:1::1/64"), neighbour(t, "wan0", "198.51.100.1/24", "2001:db8:2::1/64")
			set := func(l Listen) {
				c := Config{Networks: []Network{n}, Links: map[string]Link{"tv1": {}, "tv2": {}}}
				for _, to := range []string{"10.99.0.2:80", "[fd00:99::2]:80"} {
					p := port("", 8080, to)
					p.Listen = l
					c.Ports = append(c.Ports, p)
				}
				c.Ports = append(c.Ports, port("127.0.0.1", 8081, "10.99.0.2:80"))
				require.NoError(t, h.Set(c))
			}
			check := func(what, from string, pid int, to string, allowed bool) {
				err := dialFrom(t, pid, to)
				if allowed && err != nil {
					err = reaches(t, pid, to)
				}
				require.Equal(t, allowed, err == nil, "%s: from %s to %s: %v", what, from, to, err)
			}
			lan4, lan6, wan4, wan6 := "192.0.2.1:8080", "[2001:db8:1::1]:8080", "198.51.100.1:8080", "[2001:db8:2::1]:8080"
			for _, l := range []struct {
				Listen
				lan, wan bool
			}{
				{Listen{}, true, true},
				{Listen{Links: []string{"br-lan", "later"}}, true, false},
				{Listen{Except: true, Links: []string{"wan0"}}, true, false},
				{Listen{Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8:1::1")}}, true, false},
				{Listen{Links: []string{"wan0"}, Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8:1::1")}}, true, true},
			} {
				set(l.Listen)
				check(row.name, "lan", lan, lan4, l.lan)
				check(row.name, "lan", lan, lan6, l.lan)
				check(row.name, "wan", wan, wan4, l.wan)
				check(row.name, "wan", wan, wan6, l.wan)
			}
			set(Listen{})
			require.Equal(t, row.why, h.Proxied())
			for _, to := range []string{"127.0.0.1:8080", "[::1]:8080", "127.0.0.1:8081", "192.0.2.1:8080"} {
				_, err := dial(to)
				require.NoError(t, err, to)
			}
			check("of one address", "lan", lan, "192.0.2.1:8081", false)
			check("from a container", "itself", inside, "10.99.0.1:8080", true)
			require.Equal(t, row.rules, hasTable(t), "the rest of the rules")
			if row.said == "" {
				require.NoError(t, h.Lacks())
			} else {
				require.ErrorContains(t, h.Lacks(), row.said)
			}
			want := "11"
			if !row.rules { // nothing could keep the host from being a router
				want = "00"
			}
			require.Equal(t, want, forwarding(t))

			// A link that came back is another to a socket.
			if row.forced {
				set(Listen{Links: []string{"br-lan"}})
				link, err := netlink.LinkByName("br-lan")
				require.NoError(t, err)
				require.NoError(t, netlink.LinkDel(link))
				join(t, "br-lan", lan, "192.0.2.1/24")
				set(Listen{Links: []string{"br-lan"}})
				check("again", "lan", lan, lan4, true)
			}
			require.NoError(t, h.Set(Config{Networks: []Network{n}}))
			check("published no more", "lan", lan, lan4, false)
			require.NoError(t, CleanUp("cobletest", "tbr0"))
		})
	}
}

// alone tells whether the process is in a network namespace of its own, with all its threads, as the proxy needs; if it is not, it
// runs the test in one that is.
func alone(t *testing.T) bool {
	const mark = "COBLE_TEST_ALONE"
	runtime.LockOSThread() // never unlocked: the processes that it starts end with it
	if os.Getenv(mark) != "" {
		lo, err := netlink.LinkByName("lo")
		require.NoError(t, err)
		require.NoError(t, netlink.LinkSetUp(lo))
		return true
	}
	if os.Getuid() != 0 {
		t.Skip("needs root: run as root or make test-vm")
	}
	cmd := exec.Command("/proc/self/exe", "-test.run", "^"+strings.ReplaceAll(t.Name(), "/", "$/^")+"$", "-test.v")
	cmd.Env = append(os.Environ(), mark+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: unix.SIGKILL}
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	require.Contains(t, string(out), "--- PASS: "+t.Name()+" ")
	return false
}

func hasTable(t *testing.T) bool {
	conn, err := nftables.New()
	require.NoError(t, err)
	tables, err := conn.ListTablesOfFamily(nftables.TableFamilyIPv4)
	require.NoError(t, err)
	return slices.ContainsFunc(tables, func(table *nftables.Table) bool { return table.Name == "cobletest" })
}
