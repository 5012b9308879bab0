package netcfg

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/netcfg/nft"
	"github.com/coble-os/coble/netcfg/nstest"
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

// noBridgeNetfilter switches off in the test's namespace what nobody but other engines switches on.
func noBridgeNetfilter(t testing.TB) {
	for _, f := range []string{"net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables"} {
		if _, err := os.Stat("/proc/sys/" + f); err == nil {
			require.NoError(t, sysctl(f, "0"))
		}
	}
}

// container starts a server in a namespace of its own and plugs it in.
func container(t *testing.T, h *Host, n Network, hostIf, addr string) int {
	p := netip.MustParsePrefix(addr)
	return server(t, func(pid int) {
		e := Endpoint{HostIf: hostIf, IfName: "eth0", Pid: pid, MAC: MACFor(p.Addr())}
		if p.Addr().Is4() {
			e.V4, e.Default4 = p, Way{Gateway: n.Gateway4}
		} else {
			e.V6, e.Default6 = p, Way{Gateway: n.Gateway6}
		}
		require.NoError(t, h.Plug(n, e))
	})
}

// server starts a server in a namespace of its own, which waits until plug has given it an address.
func server(t *testing.T, plug func(pid int)) int {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{"COBLE_TEST_SERVE=1"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: unix.SIGKILL}
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	plug(cmd.Process.Pid)
	in.Write([]byte{'\n'})
	io.ReadFull(out, make([]byte, len("ready")))
	return cmd.Process.Pid
}

// dial asks from this thread's namespace.
func dial(addr string) (string, error) {
	c, err := net.DialTimeout("tcp", addr, time.Second) // the socket is made by this very goroutine
	if err != nil {
		return "", err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Second))
	buf := make([]byte, 64)
	n, err := c.Read(buf)
	return string(buf[:n]), err
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
	nstest.Own(t)
	b, n := testHost()
	container(t, b, n, "tv1", "10.99.0.2/24")
	container(t, b, n, "tv2", "10.99.0.3/24")
	links := map[string]Link{"tv1": {}, "tv2": {}}
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
	require.NoError(t, b.Set(Config{Networks: []Network{n}, Links: map[string]Link{"tv1": {}}}))
	_, err = netlink.LinkByName("tv2")
	require.Error(t, err)
	require.NoError(t, b.Unplug("tv1"))
	require.NoError(t, CleanUp("cobletest", "tbr0"))
	_, err = netlink.LinkByName("tbr0")
	require.Error(t, err)
}

// The same state again sends nothing: the generation of the rule set does not move.
func TestSetTwiceChangesNothing(t *testing.T) {
	nstest.Own(t)
	b, n := testHost()
	c := Config{Networks: []Network{n}, Links: map[string]Link{"x": {}}, Ports: []Port{port("", 8080, "10.99.0.2:80")}}
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
	nstest.Own(t)
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
	nstest.Own(t)
	host, err := os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
	require.NoError(t, err)
	b, n := testHost()
	container(t, b, n, "tv1", "10.99.0.2/24")
	require.NoError(t, b.Set(Config{Networks: []Network{n}, Links: map[string]Link{"tv1": {}}, Ports: []Port{port("127.0.0.1", 8081, "10.99.0.2:80"), port("", 8080, "10.99.0.2:80")}}))
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
	for range 50 { // until the links carry
		if from, err = dial("192.0.2.1:8080"); err == nil {
			break
		}
		time.Sleep(50 * time.Millisecond)
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
	return nstest.Visit(pid, func() error { _, err := dial(addr); return err })
}

// ear is a UDP socket in the namespace of a process, or with pid 0 in the test's own.
func ear(t *testing.T, pid int, at string) int {
	fd := -1
	listen := func() (err error) {
		a := netip.MustParseAddrPort(at)
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err == nil {
			err = unix.Bind(fd, &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()})
		}
		return err
	}
	if pid == 0 {
		require.NoError(t, listen())
	} else {
		require.NoError(t, nstest.Visit(pid, listen))
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// hears tells whether anything arrives of what is sent, a few times: one datagram is enough, where a connection needs answers
// too.
func hears(t *testing.T, fd int, send func()) bool {
	for { // what was sent before, and is late
		set := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if n, err := unix.Poll(set, 500); err != nil || n == 0 {
			break
		}
		_, _, err := unix.Recvfrom(fd, make([]byte, 64), 0)
		require.NoError(t, err)
	}
	for range 5 {
		send()
		set := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if n, err := unix.Poll(set, 200); err == nil && n > 0 {
			_, _, err = unix.Recvfrom(fd, make([]byte, 64), 0)
			require.NoError(t, err)
			return true
		}
	}
	return false
}

// say sends a datagram from the namespace of a process, from an address of its own if that is valid.
func say(t *testing.T, pid int, from netip.Addr, to string) {
	require.NoError(t, nstest.Visit(pid, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if from.IsValid() {
			if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: from.As4()}); err != nil {
				return err
			}
		}
		a := netip.MustParseAddrPort(to)
		return unix.Sendto(fd, []byte("hello"), 0, &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()})
	}))
}

// send puts an Ethernet frame onto eth0 in the namespace of a process.
func send(t *testing.T, pid int, frame []byte) {
	require.NoError(t, nstest.Visit(pid, func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: link.Attrs().Index, Halen: 6})
	}))
	time.Sleep(100 * time.Millisecond)
}

// udpFrame is an IPv4 datagram that no stack would send.
func udpFrame(to, from net.HardwareAddr, src, dst netip.AddrPort) []byte {
	ip := []byte{0x45, 0, 0, 29, 0, 0, 0, 0, 64, unix.IPPROTO_UDP, 0, 0}
	ip = append(append(ip, src.Addr().AsSlice()...), dst.Addr().AsSlice()...)
	sum := uint32(0)
	for i := 0; i < len(ip); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum+sum>>16))
	udp := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, src.Port()), dst.Port())
	return slices.Concat(to, from, []byte{8, 0}, ip, udp, []byte{0, 9, 0, 0, 'x'})
}

// TestWhoReachesWhom runs the table of all pairs: within a network, across, from and to one that is internal, and one
// whose containers keep apart; the host reaches all of them.
func TestWhoReachesWhom(t *testing.T) {
	nstest.Own(t)
	noBridgeNetfilter(t)
	h := New("cobletest")
	open, other, internal, apart, six := testNetwork("tbr0", "10.99.0.0/24"), testNetwork("tbr1", "10.99.1.0/24"),
		testNetwork("tbr2", "10.99.2.0/24"), testNetwork("tbr3", "10.99.3.0/24"), testNetwork("tbr4", "10.99.4.0/24")
	internal.Internal, apart.ICC = true, false
	six.V6, six.Gateway6 = netip.MustParsePrefix("fd00:99::/64"), netip.MustParseAddr("fd00:99::1")
	c := Config{Networks: []Network{open, other, internal, apart, six}, Links: map[string]Link{}, Ports: []Port{port("", 8080, "10.99.1.2:80")}}
	members := map[string]int{}
	for i, m := range []struct {
		n    Network
		addr string
	}{
		{open, "10.99.0.2/24"},
		{open, "10.99.0.3/24"},
		{other, "10.99.1.2/24"},
		{internal, "10.99.2.2/24"},
		{internal, "10.99.2.3/24"},
		{apart, "10.99.3.2/24"},
		{apart, "10.99.3.3/24"},
		{six, "fd00:99::2/64"},
		{six, "fd00:99::3/64"},
	} {
		link := fmt.Sprintf("tv%d", i)
		c.Links[link] = Link{}
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
				if at := netip.AddrPortFrom(netip.MustParseAddr(to), 80).String(); allowed[from] == to {
					assert.NoError(t, reaches(t, pid, at), "%s to %s", from, to)
				} else {
					assert.Error(t, dialFrom(t, pid, at), "%s to %s", from, to)
				}
			})
		}
	}
	wg.Wait()
	// Somebody outside hears whoever may go out.
	heard := ear(t, neighbour(t, "lan", "192.0.2.1/24"), "192.0.2.2:7777")
	require.True(t, hears(t, heard, func() { say(t, members["10.99.0.2"], netip.Addr{}, "192.0.2.2:7777") }))
	require.False(t, hears(t, heard, func() { say(t, members["10.99.2.2"], netip.Addr{}, "192.0.2.2:7777") }), "from an internal network")

	// A frame to the host's own 127.0.0.1, which is routed there for published ports.
	own := ear(t, 0, "127.0.0.1:7777")
	require.False(t, hears(t, own, func() {
		send(t, members["10.99.0.2"], udpFrame(MACFor(open.Gateway4), MACFor(netip.MustParseAddr("10.99.0.2")), netip.MustParseAddrPort("10.99.0.2:7"), netip.MustParseAddrPort("127.0.0.1:7777")))
	}))

	for to := range members {
		_, err := dial(netip.AddrPortFrom(netip.MustParseAddr(to), 80).String())
		require.NoError(t, err, to)
	}
	require.NoError(t, dialFrom(t, members["10.99.0.2"], "10.99.0.1:8080"), "a published port is reached by the host's address")
	require.Error(t, dialFrom(t, members["10.99.2.2"], "10.99.0.1:8080"), "but not from an internal network")

	// What is wanted no more goes, and nothing else.
	require.NoError(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "foreign"}}))
	require.NoError(t, h.Set(Config{Networks: []Network{open}, Links: map[string]Link{"tv0": {}}}))
	links, err := netlink.LinkList()
	require.NoError(t, err)
	var names []string
	for _, l := range links {
		names = append(names, l.Attrs().Name)
	}
	require.ElementsMatch(t, []string{"lo", "lan", "tbr0", "tv0", "foreign"}, names)
	require.NoError(t, SetDefault(members["10.99.0.2"], Way{}, Way{}))
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

// generation is the rule set's.
func generation(t *testing.T) uint32 {
	g, err := nft.Generation()
	require.NoError(t, err)
	return g
}
