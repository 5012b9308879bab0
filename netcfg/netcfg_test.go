package netcfg

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
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
	l, err := net.Listen("tcp4", "0.0.0.0:80")
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
func container(t *testing.T, b *Bridge, hostIf, addr string) {
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
	require.NoError(t, b.Plug(Endpoint{HostIf: hostIf, IfName: "eth0", Pid: cmd.Process.Pid, Addr: p, MAC: MACFor(p.Addr())}))
	in.Write([]byte{'\n'})
	io.ReadFull(out, make([]byte, len("ready")))
}

// dial asks from this thread's namespace.
func dial(addr string) (string, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	tv := unix.Timeval{Sec: 2}
	unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &tv)
	unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv)
	ap := netip.MustParseAddrPort(addr)
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: int(ap.Port()), Addr: ap.Addr().As4()}); err != nil {
		return "", err
	}
	buf := make([]byte, 64)
	n, err := unix.Read(fd, buf)
	return string(buf[:max(n, 0)]), err
}

func testBridge() *Bridge {
	return NewBridge(Options{Name: "tbr0", Table: "cobletest", Subnet: netip.MustParsePrefix("10.99.0.0/24"), Gateway: netip.MustParseAddr("10.99.0.1")})
}

func port(ip string, host uint16, to string) Port {
	a, _ := netip.ParseAddr(ip)
	return Port{Proto: "tcp", HostIP: a, HostPort: host, To: netip.MustParseAddrPort(to)}
}

func TestPublishedPorts(t *testing.T) {
	inNamespace(t)
	b := testBridge()
	container(t, b, "tv1", "10.99.0.2/24")
	container(t, b, "tv2", "10.99.0.3/24")
	links := map[string]bool{"tv1": true, "tv2": true}
	require.NoError(t, b.Set(Config{Links: links, Ports: []Port{port("", 8080, "10.99.0.2:80"), port("127.0.0.1", 8081, "10.99.0.3:80")}}))
	for _, to := range []string{"10.99.0.2:80", "10.99.0.3:80", "127.0.0.1:8080", "127.0.0.1:8081", "10.99.0.1:8080"} {
		_, err := dial(to)
		require.NoError(t, err, to)
	}
	_, err := dial("10.99.0.1:8081")
	require.Error(t, err, "a port published on 127.0.0.1 answers on another address")
	require.NoError(t, b.Set(Config{Links: links}))
	_, err = dial("127.0.0.1:8080")
	require.Error(t, err, "a port answers that is published no more")
	// A link that nobody claims goes.
	require.NoError(t, b.Set(Config{Links: map[string]bool{"tv1": true}}))
	_, err = netlink.LinkByName("tv2")
	require.Error(t, err)
	require.NoError(t, b.Unplug("tv1"))
	require.NoError(t, CleanUp("tbr0", "cobletest"))
	_, err = netlink.LinkByName("tbr0")
	require.Error(t, err)
}

// The same state again sends nothing: the generation of the rule set does not move.
func TestSetTwiceChangesNothing(t *testing.T) {
	inNamespace(t)
	b := testBridge()
	c := Config{Links: map[string]bool{"x": true}, Ports: []Port{port("", 8080, "10.99.0.2:80")}}
	require.NoError(t, b.Set(c))
	before := generation(t)
	require.NoError(t, b.Set(c))
	require.NoError(t, testBridge().Set(c)) // a new engine
	require.Equal(t, before, generation(t))
	c.Ports = append(c.Ports, port("", 8082, "10.99.0.2:81"))
	require.NoError(t, b.Set(c))
	require.NotEqual(t, before, generation(t))
}

func TestNothingWantedNothingMade(t *testing.T) {
	inNamespace(t)
	require.NoError(t, sysctl("net/ipv4/ip_forward", "0")) // a new namespace may have the host's value
	require.NoError(t, testBridge().Set(Config{}))
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
	b := testBridge()
	container(t, b, "tv1", "10.99.0.2/24")
	require.NoError(t, b.Set(Config{Links: map[string]bool{"tv1": true}, Ports: []Port{port("127.0.0.1", 8081, "10.99.0.2:80"), port("", 8080, "10.99.0.2:80")}}))
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
