package daemon_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"

	"github.com/coble-os/coble/layers/registry/registrytest"
	"github.com/coble-os/coble/layers/registry/server"
)

// freePort is one that nobody listens on now.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func (m *machine) awaitRegistry(host string) {
	m.t.Helper()
	m.until("the registry", func() bool {
		c, err := net.Dial("tcp", host)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

func pullPath(host, name, tag string) string {
	return "/images/create?" + url.Values{"fromImage": {host + "/" + name}, "tag": {tag}}.Encode()
}

// One machine offers its images; another takes them, and brings one back, which outlives the engine that took it.
func TestMachinesFeedEachOther(t *testing.T) {
	host := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	giver := launched(t, fmt.Sprintf("[registry.serve]\nlisten = %q\n", host))
	giver.settle(1)
	giver.awaitRegistry(host)
	taker := newMachine(t, "")

	said := taker.do("POST", pullPath(host, "library/box", "latest"), nil)
	require.Contains(t, said, "Status: Downloaded newer image for "+host+"/library/box:latest")
	var at, there struct{ Id string }
	require.NoError(t, json.Unmarshal([]byte(taker.do("GET", "/images/"+host+"/library/box:latest/json", nil)), &at))
	require.NoError(t, json.Unmarshal([]byte(giver.do("GET", "/images/box/json", nil)), &there))
	require.Equal(t, there.Id, at.Id)

	taker.do("POST", "/images/"+host+"/library/box:latest/tag?repo="+host+"/back/box&tag=1", nil)
	said = taker.do("POST", "/images/"+host+"/back/box/push?tag=1", nil)
	require.Contains(t, said, "Pushed")
	digest := said[strings.Index(said, "sha256:"):][:71]
	giver.killEngine()
	giver.awaitRegistry(host)
	taker.do("DELETE", "/images/"+at.Id+"?force=1", nil)
	said = taker.do("POST", pullPath(host, "back/box", digest), nil)
	require.Contains(t, said, "Digest: "+digest)

	status, text := taker.call("POST", pullPath(host, "none", "1"), nil)
	require.Equal(t, 404, status)
	require.Contains(t, text, "manifest unknown")
}

// What `coble registry serve` asks for ends with the one who asked.
func TestRegistryServeRefusals(t *testing.T) {
	m := newMachine(t, "")
	for body, want := range map[string]string{
		`{"Listen":"0.0.0.0:0"}`:                        "anybody who reaches it could push",
		`{"Listen":"nonsense"}`:                         "serve registry",
		`{"Listen":"127.0.0.1:0","Htpasswd":"me:x"}`:    "bcrypt",
		`{"Listen":"127.0.0.1:0","TLSCert":"nonsense"}`: "certificate",
	} {
		status, text := m.call("POST", "/coble/registry/serve", json.RawMessage(body))
		require.Equal(t, 400, status, text)
		require.Contains(t, text, want)
	}
}

// What a pull has left that failed is there after a restart, and goes with `image prune`.
func TestPruneForgetsPulls(t *testing.T) {
	reg := registrytest.New(t, server.Access{}, nil)
	var layers [][]byte
	var ids []string
	for _, name := range []string{"first", "second"} {
		raw, err := io.ReadAll(tarOf(t, name, "text"))
		require.NoError(t, err)
		layers, ids = append(layers, raw), append(ids, fmt.Sprintf("%q", digest.FromBytes(raw)))
	}
	config := fmt.Appendf(nil, `{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[%s]}}`, strings.Join(ids, ","))
	reg.Put(t, "c", "1", "application/vnd.oci.image.layer.v1.tar", config, layers...)
	reg.Spoil("blobs/"+digest.FromBytes(layers[1]).String(), -1, registrytest.Status(http.StatusForbidden))
	m := newMachine(t, "")
	folders := func() int {
		list, err := filepath.Glob(m.root() + "/*/d/*")
		require.NoError(t, err)
		return len(list)
	}
	_, text := m.call("POST", pullPath(reg.Host(), "c", "1"), nil)
	require.Contains(t, text, "error")
	m.awaitEngine(m.killEngine())
	require.Equal(t, 1, folders())
	for filters, want := range map[string]int{`{"label":["x"]}`: 1, `{"until":["1h"]}`: 1} {
		m.do("POST", "/images/prune?"+url.Values{"filters": {filters}}.Encode(), nil)
		require.Equal(t, want, folders(), filters)
	}
	require.Contains(t, m.do("POST", "/images/prune", nil), `"SpaceReclaimed":4`)
	require.Zero(t, folders())
}
