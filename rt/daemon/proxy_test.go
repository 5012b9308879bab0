package daemon_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/network"
	"github.com/stretchr/testify/require"
)

// TestProxy: the whole engine with its own proxy forced on: a page comes by it, also from the next engine, which binds the
// ports again, and not after the stop.
func TestProxy(t *testing.T) {
	m := newMachine(t, "[network.default]\nproxy = true\n")
	m.loadBox()
	m.start("web", publishAt("127.0.0.1", "23301"), "sh", "-c", "mkdir /w; echo here > /w/index.html; exec busybox httpd -f -p 80 -h /w")
	page := func() string {
		resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Get("http://127.0.0.1:23301/")
		if err != nil {
			return err.Error()
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		return string(b)
	}
	m.until("the page", func() bool { return page() == "here\n" })
	require.Contains(t, m.info().DriverStatus, [2]string{"Published ports", "by a proxy inside the engine: the TOML file says so"})
	require.Empty(t, listens(t, m.name()), "no rule does it")
	require.Regexp(t, `"Proxy":"the TOML file says so".*"At":"127.0.0.1:23301","To":80,"Proto":"tcp","Packets":0,"Bytes":[1-9]\d+,"Connections":[1-9]`, m.do("GET", "/coble/net", nil))
	m.awaitEngine(m.killEngine())
	require.Equal(t, "here\n", page(), "the next engine binds the port again")
	status, text := m.call("POST", "/containers/"+m.create("other", publishAt("127.0.0.1", "23301"), "sleep", "1000")+"/start", nil)
	require.Equal(t, 409, status)
	require.Contains(t, text, "port is already allocated by container web")
	m.do("DELETE", "/containers/web?force=1", nil)
	require.Contains(t, page(), "connection refused")
	m.do("POST", "/containers/other/start", nil)
}

func publishAt(ip, port string) func(*request) {
	return func(r *request) {
		r.HostConfig.NetworkMode = "bridge"
		r.HostConfig.PortBindings = network.PortMap{network.MustParsePort("80/tcp"): {{HostIP: netip.MustParseAddr(ip), HostPort: port}}}
	}
}

// TestPortInUse: whoever has a port that is asked for is named.
func TestPortInUse(t *testing.T) {
	m := newMachine(t, "")
	m.loadBox()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	require.NoError(t, err)
	comm, err := os.ReadFile("/proc/self/comm")
	require.NoError(t, err)
	status, text := m.call("POST", "/containers/"+m.create("web", publish(port), "sleep", "1000")+"/start", nil)
	require.Equal(t, 409, status)
	require.Contains(t, text, fmt.Sprintf("publish port %s/tcp: failed to bind host port 0.0.0.0:%s: address already in use by %s (pid %d)", port, port, strings.TrimSpace(string(comm)), os.Getpid()))
}
