package netcfg

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/netcfg/nft"
)

func TestMain(m *testing.M) {
	if os.Getenv("COBLE_TEST_SERVE") != "" {
		serve()
	}
	os.Exit(m.Run())
}

// serve is the container's side: it waits for its address, then tells each caller where that comes from.
func serve() {
	os.Stdin.Read(make([]byte, 1))
	l, err := net.Listen("tcp", ":80")
	if err != nil {
		panic(err)
	}
	fmt.Println("ready")
	for {
		c, err := l.Accept()
		if err != nil {
			panic(err)
		}
		fmt.Fprint(c, c.RemoteAddr().(*net.TCPAddr).IP)
		c.Close()
	}
}

// inNamespace runs the rest of the test in a network namespace of its own.
func inNamespace(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: run as root or make test-vm")
	}
	runtime.LockOSThread() // never unlocked: the thread ends with the test
	require.NoError(t, unix.Unshare(unix.CLONE_NEWNET))
	lo, err := netlink.LinkByName("lo")
	require.NoError(t, err)
	require.NoError(t, netlink.LinkSetUp(lo))
}

// container starts a server in a namespace of its own and plugs it in.
func container(t *testing.T, h *Host, n Network, hostIf, addr string) int {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{"COBLE_TEST_SERVE=1"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: unix.SIGKILL}
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	p := netip.MustParsePrefix(addr)
	e := Endpoint{HostIf: hostIf, IfName: "eth0", Pid: cmd.Process.Pid, MAC: MACFor(p.Addr())}
	if p.Addr().Is4() {
		e.V4, e.Default4 = p, n.Gateway4
	} else {
		e.V6, e.Default6 = p, n.Gateway6
	}
	require.NoError(t, h.Plug(n, e))
	in.Write([]byte{'\n'})
	io.ReadFull(out, make([]byte, len("ready")))
	return cmd.Process.Pid
}

// dial asks from this thread's namespace.
func dial(addr string) (string, error) {
	ap := netip.MustParseAddrPort(addr)
	family, to := unix.AF_INET, unix.Sockaddr(nil)
	if ap.Addr().Is4() {
		to = &unix.SockaddrInet4{Port: int(ap.Port()), Addr: ap.Addr().As4()}
	} else {
		family, to = unix.AF_INET6, &unix.SockaddrInet6{Port: int(ap.Port()), Addr: ap.Addr().As16()}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	tv := unix.Timeval{Sec: 1}
	unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &tv)
	unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv)
	if err := unix.Connect(fd, to); err != nil {
		return "", err
	}
	buf := make([]byte, 64)
	n, err := unix.Read(fd, buf)
	return string(buf[:max(n, 0)]), err
}

func testHost() (*Host, Network) {
	return New("cobletest"), testNetwork("tbr0", "10.99.0.0/24")
}

func testNetwork(bridge, subnet string) Network {
	p := netip.MustParsePrefix(subnet)
	return Network{Network: nft.Network{Bridge: bridge, V4: p, Masquerade: true, ICC: true}, Gateway4: p.Addr().Next()}
}

func port(ip string, host uint16, to string) Port {
	a, _ := netip.ParseAddr(ip)
	return Port{Proto: "tcp", HostIP: a, HostPort: host, To: netip.MustParseAddrPort(to)}
}

func TestPublishedPorts(t *testing.T) {
	inNamespace(t)
	b, n := testHost()
	container(t, b, n, "tv1", "10.99.0.2/24")
	container(t, b, n, "tv2", "10.99.0.3/24")
	links := map[string]bool{"tv1": true, "tv2": true}
	require.NoError(t, b.Set(Config{Networks: []Network{n}, Links: links, Ports: []Port{port("", 8080, "10.99.0.2:80"), port("127.0.0.1", 8081, "10.99.0.3:80")}}))
	for _, to := range []string{"10.99.0.2:80", "10.99.0.3:80", "127.0.0.1:8080", "127.0.0.1:8081", "10.99.0.1:8080"} {
		_, err := dial(to)
		require.NoError(t, err, to)
	}
	_, err := dial("10.99.0.1:8081")
	require.Error(t, err, "a port published on 127.0.0.1 answers on another address")
	require.NoError(t, b.Set(Config{Networks: []Network{n}, Links: links}))
	_, err = dial("127.0.0.1:8080")
	require.Error(t, err, "a port answers that is published no more")
	// A link that nobody claims goes.
	require.NoError(t, b.Set(Config{Networks: []Network{n}, Links: map[string]bool{"tv1": true}}))
	_, err = netlink.LinkByName("tv2")
	require.Error(t, err)
	require.NoError(t, b.Unplug("tv1"))
	require.NoError(t, CleanUp("cobletest", "tbr0"))
	_, err = netlink.LinkByName("tbr0")
	require.Error(t, err)
}

// The same state again sends nothing: the generation of the rule set does not move.
func TestSetTwiceChangesNothing(t *testing.T) {
	inNamespace(t)
	b, n := testHost()
	c := Config{Networks: []Network{n}, Links: map[string]bool{"x": true}, Ports: []Port{port("", 8080, "10.99.0.2:80")}}
	require.NoError(t, b.Set(c))
	before := generation(t)
	require.NoError(t, b.Set(c))
	require.NoError(t, New("cobletest").Set(c)) // a new engine
	require.Equal(t, before, generation(t))
	c.Ports = append(c.Ports, port("", 8082, "10.99.0.2:81"))
	require.NoError(t, b.Set(c))
	require.NotEqual(t, before, generation(t))
}

func TestNothingWantedNothingMade(t *testing.T) {
	inNamespace(t)
	require.NoError(t, sysctl("net/ipv4/ip_forward", "0")) // a new namespace may have the host's value
	require.NoError(t, New("cobletest").Set(Config{}))
	_, err := netlink.LinkByName("tbr0")
	require.Error(t, err)
	b, err := os.ReadFile("/proc/sys/net/ipv4/ip_forward")
	require.NoError(t, err)
	require.Equal(t, "0\n", string(b))
}

// A neighbour may not reach what the host publishes on 127.0.0.1, nor what it listens on there.
func TestNeighbourStaysOutside(t *testing.T) {
	inNamespace(t)
	host, err := os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
	require.NoError(t, err)
	b, n := testHost()
	container(t, b, n, "tv1", "10.99.0.2/24")
	require.NoError(t, b.Set(Config{Networks: []Network{n}, Links: map[string]bool{"tv1": true}, Ports: []Port{port("127.0.0.1", 8081, "10.99.0.2:80"), port("", 8080, "10.99.0.2:80")}}))
	// A neighbour on another link of the host's, that routes to the containers through it.
	require.NoError(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "lan", MTU: 1500}, PeerName: "nb"}))
	lan, _ := netlink.LinkByName("lan")
	require.NoError(t, netlink.AddrAdd(lan, &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix("192.0.2.1/24"))}))
	require.NoError(t, netlink.LinkSetUp(lan))
	require.NoError(t, unix.Unshare(unix.CLONE_NEWNET))
	self, err := os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
	require.NoError(t, err)
	require.NoError(t, unix.Setns(int(host.Fd()), unix.CLONE_NEWNET))
	nb, _ := netlink.LinkByName("nb")
	require.NoError(t, netlink.LinkSetNsFd(nb, int(self.Fd())))
	require.NoError(t, unix.Setns(int(self.Fd()), unix.CLONE_NEWNET))
	nb, err = netlink.LinkByName("nb")
	require.NoError(t, err)
	require.NoError(t, netlink.AddrAdd(nb, &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix("192.0.2.2/24"))}))
	require.NoError(t, netlink.LinkSetUp(nb))
	require.NoError(t, netlink.RouteAdd(&netlink.Route{LinkIndex: nb.Attrs().Index, Gw: net.IPv4(192, 0, 2, 1)}))
	var from string
	for range 5 { // in this thread: the namespace is its own
		if from, err = dial("192.0.2.1:8080"); err == nil {
			break
		}
	}
	require.NoError(t, err, "a published port answers")
	require.Equal(t, "192.0.2.2", from, "the container sees who calls")
	for _, closed := range []string{"192.0.2.1:8081", "10.99.0.2:80"} {
		_, err := dial(closed)
		require.Error(t, err, closed)
	}
}

// dialFrom asks from the namespace of a process.
func dialFrom(t *testing.T, pid int, addr string) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
		if err == nil {
			defer ns.Close()
			err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
		}
		if err == nil {
			_, err = dial(addr)
		}
		done <- err
	}()
	return <-done
}

// TestWhoReachesWhom runs the table of all pairs: within a network, across, from and to one that is internal, and one
// whose containers keep apart; the host reaches all of them.
func TestWhoReachesWhom(t *testing.T) {
	inNamespace(t)
	h := New("cobletest")
	open, other, internal, apart, six := testNetwork("tbr0", "10.99.0.0/24"), testNetwork("tbr1", "10.99.1.0/24"),
		testNetwork("tbr2", "10.99.2.0/24"), testNetwork("tbr3", "10.99.3.0/24"), testNetwork("tbr4", "10.99.4.0/24")
	internal.Internal, apart.ICC = true, false
	six.V6, six.Gateway6 = netip.MustParsePrefix("fd00:99::/64"), netip.MustParseAddr("fd00:99::1")
	c := Config{Networks: []Network{open, other, internal, apart, six}, Links: map[string]bool{}, Ports: []Port{port("", 8080, "10.99.1.2:80")}}
	members := map[string]int{}
	for i, m := range []struct {
		n    Network
		addr string
	}{
		{open, "10.99.0.2/24"}, {open, "10.99.0.3/24"}, {other, "10.99.1.2/24"}, {internal, "10.99.2.2/24"}, {internal, "10.99.2.3/24"},
		{apart, "10.99.3.2/24"}, {apart, "10.99.3.3/24"}, {six, "fd00:99::2/64"}, {six, "fd00:99::3/64"},
	} {
		link := fmt.Sprintf("tv%d", i)
		c.Links[link] = true
		members[netip.MustParsePrefix(m.addr).Addr().String()] = container(t, h, m.n, link, m.addr)
	}
	require.NoError(t, h.Set(c))
	allowed := map[string]string{
		"10.99.0.2": "10.99.0.3", "10.99.0.3": "10.99.0.2", "10.99.2.2": "10.99.2.3", "10.99.2.3": "10.99.2.2", "fd00:99::2": "fd00:99::3", "fd00:99::3": "fd00:99::2",
	}
	var wg sync.WaitGroup
	for from, pid := range members {
		for to := range members {
			if from == to {
				continue
			}
			wg.Go(func() {
				if err := dialFrom(t, pid, netip.AddrPortFrom(netip.MustParseAddr(to), 80).String()); allowed[from] == to {
					assert.NoError(t, err, "%s to %s", from, to)
				} else {
					assert.Error(t, err, "%s to %s", from, to)
				}
			})
		}
	}
	wg.Wait()
	for to := range members {
		_, err := dial(netip.AddrPortFrom(netip.MustParseAddr(to), 80).String())
		require.NoError(t, err, to)
	}
	require.NoError(t, dialFrom(t, members["10.99.0.2"], "10.99.0.1:8080"), "a published port is reached by the host's address")
	require.Error(t, dialFrom(t, members["10.99.2.2"], "10.99.0.1:8080"), "but not from an internal network")

	// What is wanted no more goes, and nothing else.
	require.NoError(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "foreign"}}))
	require.NoError(t, h.Set(Config{Networks: []Network{open}, Links: map[string]bool{"tv0": true}}))
	links, err := netlink.LinkList()
	require.NoError(t, err)
	var names []string
	for _, l := range links {
		names = append(names, l.Attrs().Name)
	}
	require.ElementsMatch(t, []string{"lo", "tbr0", "tv0", "foreign"}, names)
	require.NoError(t, SetDefault(members["10.99.0.2"], netip.Addr{}, netip.Addr{}))
	require.ErrorIs(t, dialFrom(t, members["10.99.0.2"], "192.0.2.1:80"), unix.ENETUNREACH)
	require.NoError(t, CleanUp("cobletest", "tbr0"))
}

func TestChooseSubnet(t *testing.T) {
	p, err := chooseSubnet(nil)
	require.NoError(t, err)
	require.Equal(t, "10.88.0.0/16", p.String())
	p, err = chooseSubnet([]netip.Prefix{netip.MustParsePrefix("10.88.4.0/24"), netip.MustParsePrefix("10.89.0.0/15")})
	require.NoError(t, err)
	require.Equal(t, "10.90.0.0/16", p.String())
	_, err = chooseSubnet([]netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")})
	require.Error(t, err)
}

// generation is the rule set's, as NFT_MSG_GETGEN gives it; each transaction counts it up.
func generation(t *testing.T) string {
	const getGen = unix.NFNL_SUBSYS_NFTABLES<<8 | 16 // NFT_MSG_GETGEN
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_NETFILTER)
	require.NoError(t, err)
	defer unix.Close(fd)
	req := []byte{20, 0, 0, 0, getGen & 0xff, getGen >> 8, unix.NLM_F_REQUEST, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	require.NoError(t, unix.Sendto(fd, req, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}))
	buf := make([]byte, 512)
	n, _, err := unix.Recvfrom(fd, buf, 0)
	require.NoError(t, err)
	require.Greater(t, n, 28)
	return fmt.Sprintf("%x", buf[24:28])
}
