package mdns

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/netcfg/nstest"
)

func TestMain(m *testing.M) { os.Exit(nstest.Main(m)) }

// avahi starts Debian's avahi-daemon as another host. Its socket for nss-mdns is the way to ask it.
func avahi(t *testing.T, p *nstest.Peer, host string) {
	require.NoError(t, os.MkdirAll("/run/avahi-daemon", 0o755))
	require.NoError(t, unix.Mount("tmpfs", "/run/avahi-daemon", "tmpfs", 0, ""))
	t.Cleanup(func() { unix.Unmount("/run/avahi-daemon", unix.MNT_DETACH) })
	conf := filepath.Join(t.TempDir(), "avahi.conf")
	text := fmt.Sprintf("[server]\nhost-name=%s\nallow-interfaces=srv0\nuse-ipv4=yes\nuse-ipv6=yes\nenable-dbus=no\n[publish]\npublish-hinfo=no\npublish-workstation=no\n", host)
	require.NoError(t, os.WriteFile(conf, []byte(text), 0o600))
	p.Start(t, nstest.Program(t, "avahi-daemon", "avahi-daemon"), "--no-drop-root", "--no-rlimits", "--no-chroot", "-f", conf)
	nstest.Until(t, "avahi", func() bool { return resolve("IPV4", host) != "" })
}

// resolve asks it as libnss-mdns does.
func resolve(family, host string) string {
	c, err := net.Dial("unix", "/run/avahi-daemon/socket")
	if err != nil {
		return ""
	}
	defer c.Close()
	fmt.Fprintf(c, "RESOLVE-HOSTNAME-%s %s.local\n", family, host)
	line, _ := bufio.NewReader(c).ReadString('\n')
	if f := strings.Fields(line); len(f) == 5 && f[0] == "+" {
		return f[4]
	}
	return ""
}

// speak runs a responder on veth0.
func speak(t *testing.T, host string, addresses ...string) (set func(...string), said func() string, stop func()) {
	index, _ := nstest.Up(t, "veth0", true)
	l, err := netlink.LinkByName("veth0")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile("/proc/sys/net/ipv6/conf/veth0/accept_dad", []byte("0"), 0))
	var mu sync.Mutex
	var lines []string
	ch := make(chan []netip.Prefix)
	set = func(addresses ...string) {
		var all []netip.Prefix
		for _, s := range addresses {
			a, err := netlink.ParseAddr(s)
			require.NoError(t, err)
			require.NoError(t, netlink.AddrReplace(l, a))
			all = append(all, netip.MustParsePrefix(s))
		}
		ch <- all
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		Link{Name: "veth0", Index: index, Host: host, Log: func(format string, args ...any) {
			mu.Lock()
			defer mu.Unlock()
			lines = append(lines, fmt.Sprintf(format, args...))
		}}.Run(ctx, ch)
	}()
	stop = func() { cancel(); <-ended }
	t.Cleanup(stop)
	set(addresses...)
	return set, func() string { mu.Lock(); defer mu.Unlock(); return strings.Join(lines, "\n") }, stop
}

// Avahi finds us, hears of another address, and of our end.
func TestAvahi(t *testing.T) {
	p := nstest.NewPeer(t)
	p.Veth(t, "veth0", "srv0", "10.3.0.2/24", "fd00:5::2/64")
	nstest.Up(t, "veth0", true)
	avahi(t, p, "neighbor")
	set, said, stop := speak(t, "gateway", "10.3.0.1/24", "fd00:5::1/64")
	nstest.Until(t, "IPv4 address", func() bool { return resolve("IPV4", "gateway") == "10.3.0.1" })
	require.Equal(t, "fd00:5::1", resolve("IPV6", "gateway"))
	nstest.Until(t, "word of it", func() bool { return strings.Contains(said(), "this machine is gateway.local") })
	set("10.3.0.9/24")
	nstest.Until(t, "end of the IPv6 address", func() bool { return resolve("IPV6", "gateway") == "" })
	nstest.Until(t, "the other address", func() bool { return resolve("IPV4", "gateway") == "10.3.0.9" })
	stop()
	start := time.Now()
	nstest.Until(t, "end", func() bool { return resolve("IPV4", "gateway") == "" && resolve("IPV6", "gateway") == "" })
	require.Less(t, time.Since(start), 30*time.Second, "it was told, before what it knew was two minutes old")
}

// The name is another's already.
func TestAvahiHasTheName(t *testing.T) {
	p := nstest.NewPeer(t)
	p.Veth(t, "veth0", "srv0", "10.3.0.2/24")
	nstest.Up(t, "veth0", true)
	avahi(t, p, "gateway")
	_, said, _ := speak(t, "gateway", "10.3.0.1/24")
	nstest.Until(t, "another name", func() bool { return strings.Contains(said(), "this machine is gateway-2.local") })
	nstest.Until(t, "answer", func() bool { return resolve("IPV4", "gateway-2") == "10.3.0.1" })
	require.Equal(t, "10.3.0.2", resolve("IPV4", "gateway"))
}
