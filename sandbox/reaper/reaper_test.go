package reaper

import (
	"bytes"
	"debug/elf"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestMain writes the program to a file if it is asked to, for those who run it elsewhere.
func TestMain(m *testing.M) {
	if name := os.Getenv("REAPER_WRITE"); name != "" {
		if err := os.WriteFile(name, Executable(), 0o755); err != nil {
			panic(err)
		}
		return
	}
	os.Exit(m.Run())
}

func written(t *testing.T) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "init")
	require.NoError(t, os.WriteFile(name, Executable(), 0o755))
	return name
}

func TestFile(t *testing.T) {
	f, err := elf.NewFile(bytes.NewReader(Executable()))
	require.NoError(t, err)
	require.Len(t, f.Progs, 1)
	require.Equal(t, elf.PF_R|elf.PF_X, f.Progs[0].Flags, "nothing of it can be written")
	require.Less(t, len(Executable()), 1024)
	require.Equal(t, said, string(Executable()[words:words+len(said)]))
	require.Len(t, said, 37, "the program knows how long it is")
}

func TestStatus(t *testing.T) {
	name := written(t)
	for _, c := range []struct {
		script string
		want   int
	}{
		{"exit 0", 0},
		{"exit 42", 42},
		{"exit 255", 255},
		{"kill -9 $$", 137},
		{"kill -TERM $$", 143},
		{"(sleep 0.05; exit 3) & exit 7", 7},
		{"for i in 1 2 3 4 5; do (sleep 0.0$i &); done; sleep 0.3; exit 9", 9},
		{"test \"$0 $1\" = 'sh word' || exit 1; test \"$FROM\" = above", 0},
	} {
		cmd := exec.Command(name, "--", "/bin/sh", "sh", "-c", c.script, "sh", "word")
		cmd.Env = append(os.Environ(), "FROM=above")
		out, err := cmd.CombinedOutput()
		require.Equal(t, c.want, cmd.ProcessState.ExitCode(), "%s: %v %s", c.script, err, out)
	}
}

func TestCannotExecute(t *testing.T) {
	name := written(t)
	text := filepath.Join(t.TempDir(), "text")
	require.NoError(t, os.WriteFile(text, []byte("no program"), 0o755))
	for path, want := range map[string]int{"/no/such/program": 127, text: 126, "/etc/passwd": 126} {
		cmd := exec.Command(name, "--", path, path)
		out, _ := cmd.CombinedOutput()
		require.Equal(t, want, cmd.ProcessState.ExitCode(), path)
		require.Equal(t, said, string(out))
	}
}

// TestSignals: what is sent to it arrives at the command, whose end is its own.
func TestSignals(t *testing.T) {
	name := written(t)
	for sig, want := range map[syscall.Signal]int{syscall.SIGTERM: 143, syscall.SIGHUP: 5, syscall.SIGUSR1: 6, syscall.SIGINT: 130} {
		cmd := exec.Command(name, "--", "/bin/sh", "sh", "-c", "trap 'exit 5' HUP; trap 'exit 6' USR1; echo up; while :; do sleep 0.02; done")
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		up := make([]byte, 3)
		_, err = out.Read(up)
		require.NoError(t, err)
		require.NoError(t, cmd.Process.Signal(sig))
		timer := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() })
		err = cmd.Wait()
		timer.Stop()
		var exit *exec.ExitError
		require.True(t, errors.As(err, &exit), "%v", err)
		require.Equal(t, want, exit.ExitCode(), sig.String())
	}
}

// TestReaps: an orphan becomes its child, and is no zombie when it has ended.
func TestReaps(t *testing.T) {
	script := `(sh -c 'sleep 0.05' &) ; sleep 0.4; for s in /proc/[0-9]*/stat; do read -r pid name state ppid rest 2>/dev/null < $s || continue
[ "$ppid" = "$PPID" ] && echo "$name $state"; done; exit 0`
	out, err := exec.Command(written(t), "--", "/bin/sh", "sh", "-c", script).CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Equal(t, 1, strings.Count(string(out), "\n"), "only the shell itself is left: %s", out)
}
