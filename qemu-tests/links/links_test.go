// Package links boots an appliance with links of many kinds: one device whose driver comes late, one whose carrier goes,
// bridge, VLAN, bond and tunnel, through the death of an engine and another reading of the TOML file.
package links

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/coble-os/coble/qemu-tests/box"
	"github.com/coble-os/coble/qemu-tests/vm"
)

const config = `
hostname = "gateway"
[storage]
device = "LABEL=data"

[uplink.eth0]
address = "10.0.2.15/24"
gateway = "10.0.2.2"
dns     = ["10.0.2.3"]

[uplink.wan1]
match_mac     = "52:54:00:00:00:02"
dhcp          = true
accept_ra     = true
addr_gen_mode = "eui64"
metric        = 50

[link.lan0]
kind      = "bridge"
ports     = ["bond0.7"]
addresses = ["192.168.7.1/24", "fd00:7::1/64"]
routes    = [{ to = "10.9.0.0/16", via = "192.168.7.9", table = 77 }]
rules     = [{ from = "192.168.7.0/24", table = 77 }]

[link."bond0.7"]
kind   = "vlan"
parent = "bond0"
id     = 7

[link.bond0]
kind = "bond"
mode = "active-backup"

[link.wg0]
kind             = "wireguard"
private_key_file = "/run/wg.key"
address          = "10.7.0.1/24"
peers            = [{ public_key = "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0=", endpoint = "10.0.2.2:51820", allowed_ips = ["10.7.0.0/24"] }]

[image.box]
source = "/data/box.tar"

[container.free]
image   = "box"
command = ["sleep", "1000"]

[container.asks]
image   = "box"
command = ["sleep", "1000"]
needs   = "wan1"
`

func TestLinks(t *testing.T) {
	data := t.TempDir()
	require.NoError(t, box.Write(t.Context(), "amd64", data+"/box.tar", "box:latest"))
	a := vm.NewAppliance(t, vm.ApplianceOptions{
		Kernel: vm.FetchKernelT(t, "amd64", "6.12"), TOML: config, Shell: true, DataDir: data, DataMiB: 64,
		Modules: []string{"8021q", "bonding", "wireguard", "vmxnet3"},
	})
	a.Options.Args = []string{"-netdev", "user,id=n1,net=10.0.3.0/24,ipv6-net=fd00:3::/64", "-device", "vmxnet3,netdev=n1,mac=52:54:00:00:00:02,romfile="}
	ctx, v := a.Boot(t, 15*time.Second)
	ask := func(command, want string) string {
		t.Helper()
		require.NoError(t, v.Send("echo be''gin; "+command+"; echo e''nd"))
		m, err := v.WaitFor(ctx, `(?s)begin\r?\n(.*?)end\r?\n`)
		require.NoError(t, err)
		require.Regexp(t, want, m[1])
		return m[1]
	}
	until := func(command, words string) {
		t.Helper()
		ask("until "+command+" | grep -E '"+words+"'; do sleep 0.2; done", words)
	}
	_, err := v.WaitFor(ctx, `keeper: engine \d+ is ready`)
	require.NoError(t, err)

	// A device that is not there holds nobody up but the one that asked for it.
	until("coble ps", "free")
	until("coble status", `wan1 +missing .* no device has the address 52:54:00:00:00:02`)
	until("coble status", `eth0 +up .* 10\.0\.2\.15/24`)
	until("coble status", `wg0 +waiting .* read key: open /run/wg\.key`)
	until("coble ps -a", `Created.*asks`)
	until("ip addr show lan0", `fd00:7::1/64`)
	ask("ip addr show lan0; ip rule; ip route show table 77", `(?s)192\.168\.7\.1/24.*from 192\.168\.7\.0/24 lookup 77.*10\.9\.0\.0/16 via 192\.168\.7\.9`)
	ask("cat /proc/net/vlan/bond0.7 /proc/net/bonding/bond0", `(?s)VID: 7.*active-backup`)
	until("cat /etc/resolv.conf", `nameserver 10\.0\.2\.3`)
	ask("busybox base64 -w0 /dev/urandom | head -c 43 > /run/k; (cat /run/k; echo =) > /run/wg.key; kill -HUP $(cat /run/coble/engine.pid)", ``)
	until("cat /sys/class/net/wg0/ifalias", `coble link [0-9a-f]+`)

	// Its driver comes, and with it the link, its addresses of both families and the container that waited.
	ask("busybox modprobe vmxnet3", ``)
	until("ip addr show wan1", `inet 10\.0\.3\.15/24`)
	until("ip addr show wan1", `inet6 fd00:3::5054:ff:fe00:2/64`)
	until("coble ps", "asks")
	until("coble status", `wan1 +up .* 10\.0\.3\.15/24`)
	until("cat /etc/resolv.conf", `nameserver 10\.0\.3\.3`)
	ask("ip route", `(?s)default via 10\.0\.2\.2 dev eth0.*default via 10\.0\.3\.2 dev wan1.*metric 50`)

	// Carrier goes and comes back.
	require.NoError(t, v.SetLink(ctx, "n1", false))
	until("cat /sys/class/net/wan1/carrier", `0`)
	until("coble status", `wan1 +no carrier .* see to the cable`)
	require.NoError(t, v.SetLink(ctx, "n1", true))
	until("cat /sys/class/net/wan1/carrier", `1`)
	until("ip addr show wan1", `inet 10\.0\.3\.15/24`)
	until("ping -c 1 10.0.3.2", `1 packets received`)

	// Another engine finds all as it is to be.
	before := ask("ip -o link | cut -d: -f1,2; ip -o addr | grep -v fe80 | cut -d' ' -f2-7", "wan1")
	require.NoError(t, v.Send(`kill -9 $(cat /run/coble/engine.pid)`))
	_, err = v.WaitFor(ctx, `keeper: engine \d+ is ready`)
	require.NoError(t, err)
	until("coble ps", "asks")
	require.Equal(t, before, ask("ip -o link | cut -d: -f1,2; ip -o addr | grep -v fe80 | cut -d' ' -f2-7", "wan1"))

	// The file without the tunnel and with another address: no more than that changes.
	ask(`sed -i '/^\[link.wg0\]/,/^peers/d; s/192.168.7.1/192.168.8.1/' /etc/coble/coble.toml; kill -HUP $(cat /run/coble/engine.pid)`, ``)
	until("ip addr show lan0", `192\.168\.8\.1/24`)
	ask("until ! ip link show wg0 2>/dev/null; do sleep 0.2; done; echo wg''0 is gone", `wg0 is gone`)
	after := ask("ip -o link | cut -d: -f1,2; ip -o addr | grep -v fe80 | cut -d' ' -f2-7", "wan1")
	lines := func(s string) (all []string) {
		for line := range strings.Lines(s) {
			if !strings.Contains(line, "wg0") {
				all = append(all, strings.ReplaceAll(strings.TrimSpace(line), "192.168.7.", "192.168.8."))
			}
		}
		return all
	}
	require.ElementsMatch(t, lines(before), lines(after), "links keep their numbers, others' addresses stay")

	require.NoError(t, v.Send("coble poweroff"))
	_, err = v.WaitFor(ctx, `keeper: poweroff`)
	require.NoError(t, err)
	require.NoError(t, v.Wait(ctx))
	require.NotContains(t, v.Console(), "panic")
}
