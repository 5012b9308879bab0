// Package appliance boots coble itself, without containers: from power-on to a
// shell on the console, through the death of an engine, to power-off, twice from
// one disk.
package appliance

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/coble-os/coble/qemu-tests/vm"
)

const config = `
hostname = "gateway"

[storage]
device = "LABEL=data"

[uplink.eth0]
address = "10.0.2.15/24"
gateway = "10.0.2.2"
`

func TestEmptyAppliance(t *testing.T) {
	for _, c := range []struct{ arch, series string }{{"amd64", "6.1"}, {"amd64", "6.12"}, {"arm64", "6.1"}} {
		t.Run(c.arch+"-"+c.series, func(t *testing.T) {
			a := vm.NewAppliance(t, vm.ApplianceOptions{
				Kernel: vm.FetchKernelT(t, c.arch, c.series), TOML: config, Shell: true, DataMiB: 64,
			})
			useOnce(t, a)
			useOnce(t, a)
		})
	}
}

func useOnce(t *testing.T, a *vm.Appliance) {
	start := time.Now()
	ctx, v := a.Boot(t, 15*time.Second)
	wait := func(what string) {
		t.Helper()
		_, err := v.WaitFor(ctx, what)
		require.NoError(t, err)
		t.Logf("%5d ms  %s", time.Since(start).Milliseconds(), what)
	}
	wait(`keeper: engine \d+ is ready`)
	// The shell may start before or after that; what is typed waits for it.
	require.NoError(t, v.Send(`cat /proc/1/comm; hostname; grep -c ' /data ext4 ' /proc/mounts; echo e"nd 1"`))
	wait(`(?s)init\s+gateway\s+1\s+end 1`)
	require.NoError(t, v.Send(`kill -9 $(cat /run/coble/engine.pid); echo e"nd 2"`))
	wait(`keeper: engine \d+ ended: signal killed`)
	wait(`keeper: engine \d+ is ready`)
	require.NoError(t, v.Send(`kill -TERM 1`))
	wait(`keeper: poweroff: terminated`)
	wait(`keeper: poweroff\s`)
	require.NoError(t, v.Wait(ctx))
	require.NotContains(t, v.Console(), "stays mounted")
	require.NotContains(t, v.Console(), "panic")
}

func TestRescueShell(t *testing.T) {
	a := vm.NewAppliance(t, vm.ApplianceOptions{
		Kernel: vm.FetchKernelT(t, "amd64", "6.1"), TOML: config, Shell: true, DataMiB: 64, Append: "coble.rescue",
	})
	ctx, v := a.Boot(t, 15*time.Second)
	for _, line := range []struct{ wait, send string }{
		{`keeper: coble.rescue: no engine, a shell instead`, `tty; ps | grep -c engin[e]; exit`},
		{`(?s)/dev/(console|ttyS0)\s+0\s.*keeper: engine \d+ ended: status`, ``}, // there is always another one
		{`keeper: engine started`, `kill -TERM 1`},
		{`keeper: poweroff\s`, ``},
	} {
		_, err := v.WaitFor(ctx, line.wait)
		require.NoError(t, err)
		if line.send != "" {
			require.NoError(t, v.Send(line.send))
		}
	}
	require.NoError(t, v.Wait(ctx))
}
