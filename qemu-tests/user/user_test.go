// Package user runs what has code of its own for each architecture under QEMU's user mode emulation, on those that no
// virtual machine of the tests has.
package user

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/coble-os/coble/qemu-tests/vm"
)

// TestReaper writes the container's init as coble for that architecture would, and has it run commands of this machine.
func TestReaper(t *testing.T) {
	for arch, emulator := range map[string]string{"arm64": "aarch64", "arm": "arm", "riscv64": "riscv64", "mipsle": "mipsel"} {
		t.Run(arch, func(t *testing.T) {
			qemu, err := exec.LookPath("qemu-" + emulator)
			require.NoError(t, err, "run make vm-deps (package qemu-user)")
			dir := t.TempDir()
			tests, program := filepath.Join(dir, "tests"), filepath.Join(dir, "init")
			require.NoError(t, vm.BuildTest(t.Context(), arch, "github.com/coble-os/coble/sandbox/reaper", tests))
			write := exec.Command(qemu, tests)
			write.Env = append(os.Environ(), "REAPER_WRITE="+program)
			out, err := write.CombinedOutput()
			require.NoError(t, err, "%s", out)
			for _, c := range []struct {
				script string
				want   int
				say    string
			}{
				{"echo $0 $1; exit 42", 42, "zero one\n"},
				{"kill -9 $$", 137, ""},
				{"trap 'exit 5' HUP; kill -HUP $PPID; while :; do sleep 0.05; done", 5, ""},
				{"for i in 1 2 3; do (sleep 0.0$i &); done; sleep 0.3; exit 9", 9, ""},
			} {
				cmd := exec.Command(qemu, program, "--", "/bin/sh", "zero", "-c", c.script, "zero", "one")
				out, err := cmd.CombinedOutput()
				require.Equal(t, c.want, cmd.ProcessState.ExitCode(), "%s: %v %s", c.script, err, out)
				require.Equal(t, c.say, string(out))
			}
			cmd := exec.Command(qemu, program, "--", "/no/such/program", "x")
			said, _ := cmd.CombinedOutput()
			require.Equal(t, 127, cmd.ProcessState.ExitCode())
			require.Equal(t, "init: the command cannot be executed\n", string(said))
		})
	}
}
