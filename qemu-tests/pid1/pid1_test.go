// Package pid1 proves the keeper as process 1 on real kernels, without an
// engine: its place is taken by testengine.
package pid1

import (
	"context"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/coble-os/coble/init/boot"
	"github.com/coble-os/coble/init/mkimage"
	"github.com/coble-os/coble/qemu-tests/vm"
)

func TestKeeperIsProcess1(t *testing.T) {
	for _, c := range []struct{ arch, series string }{
		{"amd64", "6.1"}, {"amd64", "6.12"}, {"arm64", "6.1"}, {"amd64", "5.10"},
	} {
		t.Run(c.arch+"-"+c.series, func(t *testing.T) { lives(t, c.arch, c.series) })
	}
}

// lives goes through two lives of an engine.
func lives(t *testing.T, arch, series string) {
	kernel := vm.FetchKernelT(t, arch, series)
	im := image(t, arch)
	initrd := filepath.Join(t.TempDir(), "initrd")
	require.NoError(t, im.WriteFile(initrd))

	ctx, v := vm.StartT(t, vm.Options{Kernel: kernel, Initrd: initrd}, 12*time.Second)
	follow(t, ctx, v,
		`keeper: mounts done`,
		`testengine: first life, kernel `+regexp.QuoteMeta(kernel.Release()),
		`keeper: engine \d+ ended: signal killed`,
		`testengine: second life, the orphan's parent is 1\b`,
		`testengine: orphan ended, start time right: true, signal: terminated`,
		`testengine: told to stop`,
		`keeper: poweroff`)
	require.NoError(t, v.Wait(ctx))
	require.NotRegexp(t, `(?i)panic|stays mounted|mount .*: `, v.Console())
}

// image is an initramfs with testengine as /init.
func image(t *testing.T, arch string) *mkimage.Image {
	exe := filepath.Join(t.TempDir(), "init")
	require.NoError(t, vm.Build(t.Context(), arch, "github.com/coble-os/coble/qemu-tests/testengine", exe))
	im := mkimage.New()
	require.NoError(t, im.Copy("init", exe))
	return im
}

// follow waits for console lines one after the other and says when they came.
func follow(t *testing.T, ctx context.Context, v *vm.VM, lines ...string) {
	t.Helper()
	start := time.Now()
	for _, want := range lines {
		_, err := v.WaitFor(ctx, want)
		require.NoError(t, err)
		t.Logf("%5d ms  %s", time.Since(start).Milliseconds(), want)
	}
}

func TestStepsOfBoot(t *testing.T) {
	for _, c := range []struct{ arch, series string }{
		{"amd64", "6.1"}, {"amd64", "6.12"}, {"arm64", "6.1"}, {"amd64", "5.10"},
	} {
		t.Run(c.arch+"-"+c.series, func(t *testing.T) { steps(t, c.arch, c.series) })
	}
}

// steps boots twice from one disk. amd64 is stopped by its power button; the
// cloud kernel of arm64 has no driver for QEMU's.
func steps(t *testing.T, arch, series string) {
	kernel := vm.FetchKernelT(t, arch, series)
	im := image(t, arch)
	missing, err := im.Modules(kernel.Modules, boot.DefaultModules())
	require.NoError(t, err)
	t.Log("not in this kernel:", missing)
	dir := t.TempDir()
	require.NoError(t, im.WriteFile(dir+"/initrd"))
	require.NoError(t, mkimage.Ext4(t.Context(), dir+"/data", "", "data", 16))

	for i, uplink := range []string{"", " test.dhcp"} { // a static address, then DHCP
		port := vm.FreePort(t)
		ctx, v := vm.StartT(t, vm.Options{
			Kernel: kernel, Initrd: dir + "/initrd", Append: "test.script=boot" + uplink,
			Drives: []vm.Drive{{File: dir + "/data"}}, Forwards: []vm.Forward{{Host: port, Guest: 7}},
		}, 12*time.Second)
		follow(t, ctx, v, `modules done`, `hostname done`, `loopback done`, `link done`,
			fmt.Sprintf(`boots on this disk: %d\s`, i+1), `pivot done`, `listening`)
		require.Equal(t, uplink != "", strings.Contains(v.Console(), "is up, nameserver 10.0.2.3\r"))
		require.Equal(t, "echo hello\n", ask(t, port, "hello"))
		if arch == "amd64" {
			require.NoError(t, v.PowerButton(ctx))
			follow(t, ctx, v, `testengine: power button`)
		} else {
			ask(t, port, "poweroff")
		}
		follow(t, ctx, v, `told to stop`, `keeper: poweroff`)
		require.NoError(t, v.Wait(ctx))
		require.NotRegexp(t, `(?i)panic|stays mounted|mount .*: `, v.Console())
	}
}

func ask(t *testing.T, port int, line string) string {
	t.Helper()
	c, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), time.Minute)
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.SetDeadline(time.Now().Add(time.Minute)))
	_, err = fmt.Fprintln(c, line)
	require.NoError(t, err)
	answer, err := io.ReadAll(c)
	require.NoError(t, err)
	return string(answer)
}
