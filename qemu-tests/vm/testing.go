package vm

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Slow is how many times longer than on bare metal a test of arch may wait:
// without KVM every instruction is translated.
func Slow(arch string) time.Duration {
	if HasKVM(arch) {
		return 1
	}
	return 10
}

// FetchKernelT is FetchKernel for tests: what keeps it from working fails the
// test and says what is needed.
func FetchKernelT(t testing.TB, arch, series string) Kernel {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	k, err := FetchKernel(ctx, arch, series)
	if err != nil {
		t.Fatalf("%v (this needs apt-get, dpkg-deb and a Debian mirror, or a filled %s)", err, CacheDir())
	}
	return k
}

// StartT starts a machine for a test, bounded by limit on a machine with KVM and
// Slow times as much elsewhere. It is killed when the test ends; if the test
// failed, its console stays behind in $COBLE_ARTIFACTS (or the system's
// temporary folder) and the end of it is logged.
func StartT(t testing.TB, o Options, limit time.Duration) (context.Context, *VM) {
	t.Helper()
	if o.Log == "" {
		o.Log = filepath.Join(t.TempDir(), "console.log")
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit*Slow(o.Kernel.Arch))
	v, err := Start(ctx, o)
	if err != nil {
		cancel()
		t.Fatalf("%v (Debian packages: qemu-system-x86, qemu-system-arm)", err)
	}
	t.Cleanup(func() {
		cancel()
		v.Kill()
		if t.Failed() {
			t.Logf("console, kept in %s:\n%s", keepLog(t, v), v.tail())
		}
	})
	return ctx, v
}

func keepLog(t testing.TB, v *VM) string {
	dir := os.Getenv("COBLE_ARTIFACTS")
	if dir == "" {
		dir = filepath.Join(os.TempDir(), "coble-artifacts")
	}
	name := filepath.Join(dir, strings.ReplaceAll(t.Name(), "/", "_")+".console.log")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err.Error()
	}
	if err := os.WriteFile(name, []byte(v.Console()), 0o644); err != nil {
		return err.Error()
	}
	return name
}

// FreePort is a TCP port of 127.0.0.1 that nobody listened on a moment ago.
func FreePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}
