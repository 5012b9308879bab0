package links

import (
	"fmt"
	"os"
	"os/exec"
	"path"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/coble-os/coble/qemu-tests/box"
	"github.com/coble-os/coble/qemu-tests/vm"
)

// air has two radios that the kernel makes up: one is an access point with a DHCP server, the other a link as the
// documentation has it, which a container with wpa_supplicant gives carrier.
const air = `
hostname = "gateway"
[storage]
device = "LABEL=data"
[boot]
modules = ["mac80211_hwsim", "ccm", "ctr", "cmac"]

[uplink.wlan0]
dhcp = true

[link.wlan1]
address = "10.4.0.1/24"

[image.wifi]
source = "/data/wifi.tar"

[container.point]
image   = "wifi"
network = "host"
cap_add = ["NET_ADMIN", "NET_RAW"]
command = ["/usr/sbin/hostapd", "/etc/hostapd.conf"]

[container.addresses]
image   = "wifi"
network = "host"
cap_add = ["NET_ADMIN", "NET_RAW"]
command = ["/usr/sbin/dnsmasq", "--keep-in-foreground", "--user=root", "--conf-file=/dev/null", "--port=0", "--pid-file=", "--log-facility=-",
  "--dhcp-leasefile=/tmp/leases", "--interface=wlan1", "--bind-dynamic", "--dhcp-authoritative", "--dhcp-range=10.4.0.50,10.4.0.60,255.255.255.0,1h"]

[container.wifi]
image   = "wifi"
network = "host"
cap_add = ["NET_ADMIN", "NET_RAW"]
command = ["/sbin/wpa_supplicant", "-i", "wlan0", "-c", "/etc/wpa_supplicant.conf"]
`

// programs are the machine's own, with the libraries that they need.
func programs(t *testing.T, paths ...string) map[string][]byte {
	files := map[string][]byte{}
	for _, p := range paths {
		out, err := exec.CommandContext(t.Context(), "ldd", p).Output()
		require.NoError(t, err, "make vm-deps")
		for _, f := range append(regexp.MustCompile(`/\S+`).FindAllString(string(out), -1), p) {
			b, err := os.ReadFile(f)
			require.NoError(t, err)
			files[strings.TrimPrefix(path.Clean(f), "/")] = b
		}
	}
	return files
}

func TestWiFi(t *testing.T) {
	data := t.TempDir()
	files := programs(t, "/usr/sbin/hostapd", "/sbin/wpa_supplicant", "/usr/sbin/dnsmasq")
	files["etc/hostapd.conf"] = []byte("interface=wlan1\nssid=coble\nhw_mode=g\nchannel=1\nwpa=2\nwpa_key_mgmt=WPA-PSK\nrsn_pairwise=CCMP\nwpa_passphrase=out of the air\n")
	files["etc/wpa_supplicant.conf"] = []byte("network={\n\tssid=\"coble\"\n\tpsk=\"out of the air\"\n}\n")
	require.NoError(t, box.WriteWith(t.Context(), "amd64", data+"/wifi.tar", "wifi:latest", files))
	a := vm.NewAppliance(t, vm.ApplianceOptions{
		Kernel: vm.FetchKernelT(t, "amd64", "6.1-full"), TOML: air, Shell: true, DataDir: data, DataMiB: 128, MemMiB: 384,
		Modules: []string{"mac80211_hwsim", "ccm", "ctr", "cmac"},
	})
	ctx, v := a.Boot(t, 25*time.Second)
	until := func(command, words string) {
		t.Helper()
		require.NoError(t, v.Send(fmt.Sprintf("until %s | grep -E '%s'; do sleep 0.2; done; echo e''nd", command, words)))
		_, err := v.WaitFor(ctx, `end\r?\n`)
		require.NoError(t, err)
	}
	_, err := v.WaitFor(ctx, `keeper: engine \d+ is ready`)
	require.NoError(t, err)
	until("ip addr show wlan0", `inet 10\.4\.0\.(5.|60)/24`)

	// Without its container the link has no carrier, and with it all is as before.
	until("coble stop -t 1 wifi", "wifi")
	until("cat /sys/class/net/wlan0/carrier", "0")
	until("coble start wifi", "wifi")
	until("cat /sys/class/net/wlan0/carrier", "1")
	until("ip addr show wlan0", `inet 10\.4\.0\.(5.|60)/24`)
	require.NoError(t, v.Send("coble poweroff"))
	_, err = v.WaitFor(ctx, `keeper: poweroff`)
	require.NoError(t, err)
	require.NoError(t, v.Wait(ctx))
}
