package names

import (
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"

	"github.com/coble-os/coble/init/notify"
	"github.com/coble-os/coble/rt/containers"
	"github.com/coble-os/coble/rt/networks"
	"github.com/coble-os/coble/rt/store"
)

type free struct{}

func (free) Add(*bolt.Tx, string, string) error    { return nil }
func (free) Rename(*bolt.Tx, string, string) error { return nil }
func (free) Remove(*bolt.Tx, string) error         { return nil }

// running makes names for running containers, each with its ends.
func running(t *testing.T, all map[string][]store.End) (*Names, *containers.Table) {
	root, run := t.TempDir(), t.TempDir()
	s, err := store.Open(root, run, free{})
	require.NoError(t, err)
	t.Cleanup(func() { s.Close() })
	nets, err := networks.Open(networks.Options{DB: s.Durable, FixID: func(n string) string { return n }, Bridge: "br", Subnet: netip.MustParsePrefix("10.1.0.0/16")})
	require.NoError(t, err)
	tab := containers.New(s, root, run, slog.New(slog.DiscardHandler))
	for name, ends := range all {
		spec := store.Spec{ID: name + "0123456789ab", Name: name, Networks: map[string]*network.EndpointSettings{"a": {Aliases: []string{"alias-" + name}}}}
		spec.Config.Hostname = "host-" + name
		c := tab.Add(spec, store.State{Status: container.StateRunning, Ends: ends})
		require.NoError(t, os.MkdirAll(c.RunDir(), 0o755))
	}
	return New(tab, nets, &notify.Link{}), tab
}

func end(network, addr string) store.End {
	return store.End{Network: network, Name: network, V4: netip.MustParsePrefix(addr)}
}

// A container is told of those that are in a network with it, by all of their names, and of nobody else; in the default network
// of nobody.
func TestZone(t *testing.T) {
	n, tab := running(t, map[string][]store.End{
		"web":  {end("a", "10.2.0.2/24"), end(networks.Default, "10.1.0.2/16")},
		"db":   {end("a", "10.2.0.3/24"), end("b", "10.3.0.3/24")},
		"far":  {end("b", "10.3.0.4/24")},
		"near": {end(networks.Default, "10.1.0.5/16")},
	})
	web, err := tab.Find("web")
	require.NoError(t, err)
	z := &zone{n: n, c: web}
	for _, name := range []string{"db", "DB", "db.a", "alias-db", "host-db", "db0123456789"} {
		got, known := z.Resolve(name)
		require.True(t, known, name)
		require.Equal(t, []netip.Addr{netip.MustParseAddr("10.2.0.3")}, got, name)
	}
	for _, name := range []string{"far", "far.b", "near", "db.b", "alias-far", "x"} {
		_, known := z.Resolve(name)
		require.False(t, known, name)
	}
	name, known := z.Reverse(netip.MustParseAddr("10.2.0.3"))
	require.True(t, known)
	require.Equal(t, "db.a", name)
	_, known = z.Reverse(netip.MustParseAddr("10.3.0.4"))
	require.False(t, known)
}

func TestFiles(t *testing.T) {
	n, tab := running(t, map[string][]store.End{"web": {end("a", "10.2.0.2/24")}, "db": {end(networks.Default, "10.1.0.3/16")}})
	web, err := tab.Find("web")
	require.NoError(t, err)
	require.NoError(t, web.SetSpec(func(s *store.Spec) {
		s.Host.ExtraHosts, s.Host.Links = []string{"gw:host-gateway", "x:192.0.2.1"}, []string{"/db:/web/store"}
		s.Config.Domainname = "example"
	}))
	require.NoError(t, n.Write(web, web.View().State.Ends))
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join(web.RunDir(), name))
		require.NoError(t, err)
		return string(b)
	}
	require.Equal(t, "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n"+
		"10.1.0.1\tgw\n192.0.2.1\tx\n10.2.0.2\thost-web.example host-web\n10.1.0.3\tstore host-db db\n", read("hosts"))
	require.Equal(t, "host-web\n", read("hostname"))
	require.Contains(t, read("resolv.conf"), "nameserver 127.0.0.11\n")

	require.NoError(t, web.SetSpec(func(s *store.Spec) { s.Host.Links = []string{"nobody:x"} }))
	require.ErrorContains(t, n.Write(web, nil), "No such container: nobody")
	asked := web.Spec()
	asked.Host.DNS, asked.Host.DNSSearch, asked.Host.DNSOptions = []netip.Addr{netip.MustParseAddr("192.0.2.53")}, []string{"example", "test"}, []string{"timeout:1"}
	conf := resolvConf(asked, false) // between the two is what else the host's file has
	require.Equal(t, 1, strings.Count(conf, "nameserver"))
	require.True(t, strings.HasPrefix(conf, "nameserver 192.0.2.53\n"), conf)
	require.True(t, strings.HasSuffix(conf, "search example test\noptions timeout:1\n"), conf)
}
