package serving

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/coble-os/coble/qemu-tests/box"
	"github.com/coble-os/coble/qemu-tests/vm"
)

// router has two links, of which one leads to the world, and two servers: one of them says that it is for that.
const router = `
[storage]
device = "LABEL=data"
[uplink.eth0]
address = "10.0.2.15/24"
gateway = "10.0.2.2"
[uplink.eth1]
address = "192.0.2.1/24"

[image.box]
source = "/data/box.tar"
[container.inside]
image   = "box"
command = ["httpd", "-f", "-p", "80", "-h", "/www"]
ports   = ["80:80"]
stop_signal = "KILL"
[container.outside]
image   = "box"
command = ["httpd", "-f", "-p", "80", "-h", "/www"]
ports   = ["81:80"]
listen  = "eth0"
after   = ["inside"]
stop_signal = "KILL"
`

// TestUplink: on a machine of coble's own with several links, ports are not reached from the one that leads to the world, unless
// the file says so; the machine itself reaches them.
func TestUplink(t *testing.T) {
	data := t.TempDir()
	require.NoError(t, box.Write(t.Context(), "amd64", data+"/box.tar", "box:latest"))
	inside, outside := vm.FreePort(t), vm.FreePort(t)
	a := vm.NewAppliance(t, vm.ApplianceOptions{
		Kernel: vm.FetchKernelT(t, "amd64", "6.12"), TOML: router, DataDir: data, DataMiB: 128, Shell: true,
		Forwards: []vm.Forward{{Host: inside, Guest: 80}, {Host: outside, Guest: 81}},
	})
	ctx, v := a.Boot(t, 20*time.Second)
	require.Equal(t, "box serves\n", get(ctx, t, outside))
	client := http.Client{Timeout: 2 * time.Second}
	_, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/", inside))
	require.Error(t, err)
	require.NoError(t, v.Send("until wget -q -O - http://10.0.2.15/; do sleep 0.2; done"))
	_, err = v.WaitFor(ctx, `box serves`)
	require.NoError(t, err, "the machine itself reaches it")
	_, err = client.Get(fmt.Sprintf("http://127.0.0.1:%d/", inside))
	require.Error(t, err)
	require.NoError(t, v.Send("coble poweroff"))
	require.NoError(t, v.Wait(ctx))
}
