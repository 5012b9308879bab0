package nstest

import (
	"os"
	"os/exec"
	"testing"
)

func TestMain(m *testing.M) { os.Exit(Main(m)) }

func FuzzNothing(f *testing.F) { f.Fuzz(func(*testing.T, []byte) {}) }

// Fuzz workers are the test binary too, started once more inside.
func TestFuzzing(t *testing.T) {
	cmd := exec.Command("/proc/self/exe", "-test.run=^$", "-test.fuzz=FuzzNothing", "-test.fuzztime=10x", "-test.fuzzcachedir="+t.TempDir())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}
