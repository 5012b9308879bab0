// Package serving boots appliances whose containers serve, on every kernel that is promised to work: from power-on to
// an answer through a published port, twice from one disk.
package serving

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/coble-os/coble/qemu-tests/box"
	"github.com/coble-os/coble/qemu-tests/vm"
)

// config has a web server, a client that asks it by address, and three sections that are wrong in different ways.
const config = `
hostname = "gateway"
[storage]
device = "LABEL=data"
[network.default]
subnet = "10.88.0.0/24"
[uplink.eth0]
address = "10.0.2.15/24"
gateway = "10.0.2.2"

[image.box]
source = "/data/box.tar"

[container.web]
image     = "box"
command   = ["httpd", "-f", "-p", "80", "-h", "/www"]
ports     = ["80:80"]
memory    = "16MiB"
pids      = 16
cpus      = 0.5
read_only = true
stop_signal = "KILL" # a shell or web server as process 1 has no handler for TERM, and would be waited for

[container.asks]
image   = "box"
command = ["sh", "-c", "until wget -q -O - http://10.88.0.2/; do sleep 0.1; done; sleep 1000"]
after   = ["web"]
stop_signal = "KILL"

[container.mistyped]
image = "box"
memry = "1MiB"

[container.nocommand]
image   = "box"
command = ["no-such-command"]
restart = "no"

[container.noimage]
image   = "nowhere"
restart = "no"
`

func TestServing(t *testing.T) {
	for _, c := range []struct{ arch, series string }{{"amd64", "6.1"}, {"amd64", "6.12"}, {"arm64", "6.1"}} {
		t.Run(c.arch+"-"+c.series, func(t *testing.T) {
			data := t.TempDir()
			require.NoError(t, box.Write(t.Context(), c.arch, data+"/box.tar", "box:latest"))
			port := vm.FreePort(t)
			a := vm.NewAppliance(t, vm.ApplianceOptions{
				Kernel: vm.FetchKernelT(t, c.arch, c.series), TOML: config, DataDir: data, DataMiB: 128, Shell: true,
				Forwards: []vm.Forward{{Host: port, Guest: 80}},
			})
			first := use(t, a, port)
			require.Contains(t, first, " load ", "the first boot unpacks")
			second := use(t, a, port)
			require.NotContains(t, second, " load ", "the second boot unpacks nothing")
		})
	}
}

// use boots once, looks at everything, and switches off. It returns the list of jobs.
func use(t *testing.T, a *vm.Appliance, port int) string {
	start := time.Now()
	ctx, v := a.Boot(t, 20*time.Second)
	require.Equal(t, "box serves\n", get(ctx, t, port))
	t.Logf("first answer after %d ms of QEMU", time.Since(start).Milliseconds())
	ask := func(command, want string) string {
		t.Helper()
		require.NoError(t, v.Send("echo be''gin; "+command+"; echo e''nd"))
		m, err := v.WaitFor(ctx, `(?s)begin\r?\n(.*?)end\r?\n`)
		require.NoError(t, err)
		require.Regexp(t, want, m[1])
		return m[1]
	}
	ask("until coble logs asks | grep serves; do sleep 0.2; done", `box serves`)
	for _, problem := range []string{
		`unknown key container.mistyped.memry; did you mean "memory"?`,
		`container noimage: No such image: nowhere:latest`,
		`exec: "no-such-command": executable file not found`, // said when its turn has come
	} {
		ask("until coble status | grep -F '"+problem+"'; do sleep 0.2; done", "(?s)"+regexp.QuoteMeta(problem))
	}
	ask("coble ps", `(?s)asks.*web`)
	ask("cat /sys/fs/cgroup/coble/*/memory.max | grep -v max", `16777216`)
	ask("coble plan web | head -n 400 | grep -c mount", `\d+`)
	jobs := ask("coble jobs", `launch`)
	require.NoError(t, v.Send("coble poweroff"))
	_, err := v.WaitFor(ctx, `keeper: poweroff`)
	require.NoError(t, err)
	require.NoError(t, v.Wait(ctx))
	require.NotContains(t, v.Console(), "panic")
	return jobs
}

// get asks until the page comes.
func get(ctx context.Context, t *testing.T, port int) string {
	t.Helper()
	client := http.Client{Timeout: 3 * time.Second}
	for {
		resp, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/", port))
		if err == nil {
			b, rerr := io.ReadAll(resp.Body)
			resp.Body.Close()
			if rerr == nil && resp.StatusCode == http.StatusOK {
				return string(b)
			}
		}
		select {
		case <-ctx.Done():
			require.FailNow(t, "no answer", "%v", err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
