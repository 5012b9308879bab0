package daemon_test

import (
	"fmt"
	"io"
	"net"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/coble-os/coble/netcfg/nstest"
)

// newUfw returns a function that runs ufw in the test's network namespace, with settings of its own.
func newUfw(t *testing.T) func(args ...string) {
	t.Helper()
	program, etc := nstest.Program(t, "ufw", "ufw"), t.TempDir()
	run := func(words ...string) {
		t.Helper()
		out, err := exec.Command(words[0], words[1:]...).CombinedOutput()
		require.NoError(t, err, "%s: %s", strings.Join(words, " "), out)
	}
	run("cp", "-a", "/etc/ufw", etc+"/ufw")
	run("cp", "-a", "/etc/default/ufw", etc+"/default")
	return func(args ...string) {
		t.Helper()
		run(append([]string{
			"unshare", "--mount", "sh", "-c", `mount --bind "$1/ufw" /etc/ufw && mount --bind "$1/default" /etc/default/ufw && mount -t tmpfs none /run && shift && exec "$@"`,
			"sh", etc, program,
		}, args...)...)
	}
}

// TestUfw: the real ufw lets nobody reach a published port until its owner has said what coble advises, and everybody from
// then on, also after it has loaded its rules anew.
func TestUfw(t *testing.T) {
	nstest.Own(t)
	ufw := newUfw(t)
	ufw("--force", "enable")
	outside := nstest.NewPeer(t)
	outside.Veth(t, "wan", "eth0", "192.0.2.2/24")
	nstest.Up(t, "wan", true)
	wan, err := netlink.LinkByName("wan")
	require.NoError(t, err)
	addr, err := netlink.ParseAddr("192.0.2.1/24")
	require.NoError(t, err)
	require.NoError(t, netlink.AddrAdd(wan, addr))
	m := newMachine(t, "")
	m.loadBox()
	m.start("web", publish("23401"), "sh", "-c", "mkdir /w; echo here > /w/index.html; exec busybox httpd -f -p 80 -h /w")
	page := func() (out string) {
		outside.Do(func() { // dialled here: an HTTP client would do it in another thread, and network
			conn, err := net.DialTimeout("tcp", "192.0.2.1:23401", time.Second)
			if err != nil {
				return
			}
			defer conn.Close()
			fmt.Fprint(conn, "GET / HTTP/1.0\r\n\r\n")
			b, _ := io.ReadAll(conn)
			_, out, _ = strings.Cut(string(b), "\r\n\r\n")
		})
		return out
	}
	require.Empty(t, page())
	require.Len(t, m.info().Warnings, 1)
	advice := regexp.MustCompile(`To let them through: (ufw .*); (ufw .*)$`).FindStringSubmatch(m.info().Warnings[0])
	require.Len(t, advice, 3, m.info().Warnings[0])
	for _, line := range advice[1:] {
		ufw(strings.Fields(line)[1:]...)
	}
	m.until("the page", func() bool { return page() == "here\n" })
	require.Empty(t, m.info().Warnings)
	ufw("reload")
	m.until("the page", func() bool { return page() == "here\n" })
}
