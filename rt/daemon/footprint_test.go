package daemon_test

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Budgets of memory, in KiB of proportional set size (proc_pid_smaps(5)). They may be raised with a reason, written
// here.
const (
	restBudget      = 12 * 1024 // keeper and engine, nothing running
	containerBudget = 100       // each container that sleeps, beside its own process
	sleepers        = 100
	portBudget      = 1 // each published port; what the kernel has of it is measured in netcfg
)

// TestFootprint measures what keeper and engine hold, at rest, per container and per published port.
func TestFootprint(t *testing.T) {
	m := newMachine(t, "")
	m.stop()
	m.bootBinary(buildCoble(t))
	m.loadBox()
	rest := m.settledPSS()
	for i := range sleepers {
		m.start(fmt.Sprintf("sleeper%d", i), nil, "sleep", "1000")
	}
	full := m.settledPSS()
	each := float64(full-rest) / sleepers
	t.Logf("at rest %d KiB, with %d containers %d KiB: %.1f KiB each", rest, sleepers, full, each)
	require.LessOrEqual(t, rest, restBudget)
	require.LessOrEqual(t, each, float64(containerBudget))
	m.do("POST", "/containers/"+m.createPublished("many", 20000, manyPorts)+"/start", nil)
	ports := float64(m.settledPSS()-full) - each
	t.Logf("with %d ports %.0f KiB more: %.2f KiB each", manyPorts, ports, ports/manyPorts)
	require.LessOrEqual(t, ports/manyPorts, float64(portBudget))
}

// buildCoble builds the binary as it is shipped: a test's binary has more in it.
func buildCoble(t testing.TB) string {
	out := t.TempDir() + "/coble"
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", out, "github.com/coble-os/coble/cmd/coble")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	text, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", text)
	return out
}

// bootBinary starts the daemon from a binary.
func (m *machine) bootBinary(path string) {
	m.cmd = exec.Command(path, "daemon", "--root", m.root(), "--run", m.run(), "-H", "unix://"+m.sock())
	require.NoError(m.t, m.cmd.Start())
	m.down = false
	m.awaitEngine(0)
}

// settledPSS is the least that was held within a while, which is longer than what passes before memory is given back.
func (m *machine) settledPSS() int {
	least := 1 << 30
	for end := time.Now().Add(12 * time.Second); time.Now().Before(end); time.Sleep(500 * time.Millisecond) {
		least = min(least, pss(m.t, m.cmd.Process.Pid)+pss(m.t, m.enginePid()))
	}
	return least
}

func pss(t testing.TB, pid int) (kib int) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	require.NoError(t, err)
	for line := range strings.Lines(string(b)) {
		if _, err := fmt.Sscanf(line, "Pss: %d kB", &kib); err == nil {
			return kib
		}
	}
	t.Fatalf("no Pss of process %d", pid)
	return 0
}

// TestFoldersAreClosed: no other user walks into images and containers (CVE-2021-41091), even where the folder was made
// by somebody careless.
func TestFoldersAreClosed(t *testing.T) {
	m := newMachine(t, "")
	m.stop()
	require.NoError(t, os.Chmod(m.root(), 0o755))
	m.boot()
	m.loadBox()
	m.start("open", nil, "sleep", "1000")
	for _, dir := range []string{m.root(), m.root() + "/containers", m.run() + "/c"} {
		st, err := os.Stat(dir)
		require.NoError(t, err)
		require.Zero(t, st.Mode().Perm()&0o007, "%s is open to others: %v", dir, st.Mode())
	}
}
