package netcfg

import (
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/coble-os/coble/netcfg/nft"
	"github.com/coble-os/coble/netcfg/nstest"
)

// TestKernelWithout is for machines whose kernel command line says which modules are not loaded (qemu-tests/tests,
// TestKernelsWithout): what is missing is named, with its option and its module, and what can be had is.
func TestKernelWithout(t *testing.T) {
	cmdline, err := os.ReadFile("/proc/cmdline")
	require.NoError(t, err)
	_, without, is := strings.Cut(string(cmdline), "test.without=")
	if !is {
		t.Skip("needs a kernel without some module: go test ./qemu-tests/tests -run TestKernelsWithout")
	}
	without = strings.FieldsFunc(without, func(c rune) bool { return c == ' ' || c == ',' })[0]
	for _, key := range forwardKeys {
		require.NoError(t, sysctl(key, "0"))
	}
	h, n := testHost()
	switch without {
	case "bridge":
		err := h.Set(Config{Networks: []Network{n}})
		require.ErrorContains(t, err, "the kernel has no bridge (CONFIG_BRIDGE; is the module bridge loaded?)")
		return
	case "veth":
		require.NoError(t, h.Set(Config{Networks: []Network{n}}))
		err := h.Plug(n, Endpoint{HostIf: "tv1", IfName: "eth0", Pid: nstest.NewPeer(t).Thread, V4: netip.MustParsePrefix("10.99.0.2/24"), MAC: MACFor(n.Gateway4)})
		require.ErrorContains(t, err, "the kernel has no veth (CONFIG_VETH; is the module veth loaded?)")
		return
	}
	pid := container(t, h, n, "tv1", "10.99.0.2/24")
	ports := []Port{port("", 8080, "10.99.0.2:80")}
	require.NoError(t, h.Set(Config{Networks: []Network{n}, Links: map[string]Link{"tv1": {Bridge: "tbr0"}}, Ports: ports}))
	_, err = dial("127.0.0.1:8080")
	require.NoError(t, err)
	switch without {
	case "sch_tbf":
		require.NoError(t, Limit("tv1", pid, "eth0", Bandwidth{}))
		for _, b := range []Bandwidth{{In: 1e6}, {Out: 1e6}} {
			err := Limit("tv1", pid, "eth0", b)
			require.ErrorIs(t, err, ErrNoShaper)
			require.ErrorContains(t, err, "CONFIG_NET_SCH_TBF")
		}
		return
	case "nft_counter":
		require.NoError(t, h.Lacks())
		_, err := h.Counts(ports)
		require.ErrorIs(t, err, nft.ErrNoCounters)
		require.ErrorContains(t, err, "CONFIG_NFT_COUNTER")
		return
	}
	counts, err := h.Counts(ports)
	require.NoError(t, err)
	require.EqualValues(t, 1, counts[0].Connections)
	require.ErrorIs(t, h.Lacks(), nft.ErrMissing)
	require.ErrorContains(t, h.Lacks(), "NFT_NAT")
	if without == "nf_tables" {
		require.Equal(t, "the kernel has no nftables", h.Proxied())
		require.Equal(t, "00", forwarding(t), "nothing could guard it")
		require.ErrorIs(t, h.Loose(), nft.ErrNoBridgeFilter)
	} else {
		require.Equal(t, "the kernel has no NAT by nftables", h.Proxied())
		require.Equal(t, "10", forwarding(t))
		require.True(t, hasTable(t))
		require.NoError(t, h.Loose())
	}
	rules, err := Firewalls()
	require.NoError(t, err)
	require.Empty(t, rules.Guests())
	require.NoError(t, CleanUp("cobletest", "tbr0"))
	require.Equal(t, "00", forwarding(t))
}
