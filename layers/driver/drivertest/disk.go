package drivertest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// Environment of processes that Main starts.
const (
	envAlone  = "COBLE_DRIVERTEST_ALONE"  // set in the mount namespace of the tests
	envVictim = "COBLE_DRIVERTEST_VICTIM" // root folder of the driver that a process to be killed works with
)

// Main is TestMain of a driver's package. Run by root, the tests run in a
// mount namespace of their own, so that what they mount is gone with them,
// however they end. open is what the tests that kill a process kill.
func Main(m *testing.M, open Open) {
	switch root := os.Getenv(envVictim); {
	case root != "":
		os.Exit(victim(root, open))
	case os.Geteuid() != 0 || os.Getenv(envAlone) != "":
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), envAlone+"=1")
	// Unshareflags, not Cloneflags: the package then makes the mounts private.
	cmd.SysProcAttr = &unix.SysProcAttr{Unshareflags: unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		println("run tests in a mount namespace:", err.Error())
	}
	os.Exit(cmd.ProcessState.ExitCode())
}

// NeedTool skips a test that can't run without a program.
func NeedTool(t testing.TB, name string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Skipf("needs %s: make deps", name)
	}
}

// Disk makes a file system of size MiB in a sparse file with mkfs, words to
// which the file's path is added, and mounts it until the test's end. It
// gives the folder. Main must have been called.
func Disk(t testing.TB, mib int64, options string, mkfs ...string) string {
	t.Helper()
	dir, err := TryDisk(t, mib, options, mkfs...)
	require.NoError(t, err)
	return dir
}

// TryDisk is Disk for what the kernel may not be able to mount.
func TryDisk(t testing.TB, mib int64, options string, mkfs ...string) (string, error) {
	t.Helper()
	NeedRoot(t)
	NeedTool(t, mkfs[0])
	require.NotEmpty(t, os.Getenv(envAlone), "call drivertest.Main from TestMain")
	file, dir := filepath.Join(t.TempDir(), "disk"), t.TempDir()
	f, err := os.Create(file)
	require.NoError(t, err)
	require.NoError(t, f.Truncate(mib<<20))
	require.NoError(t, f.Close())
	out, err := exec.Command(mkfs[0], append(mkfs[1:], file)...).CombinedOutput()
	require.NoError(t, err, "%s", out)
	kind := kindOf(mkfs)
	if options != "" {
		options = "," + options
	}
	if out, err = exec.Command("mount", "-t", kind, "-o", "loop"+options, file, dir).CombinedOutput(); err != nil {
		return "", fmt.Errorf("mount %s: %w: %s", kind, err, out)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
	return dir, nil
}

// Btrfs is a Disk with an empty btrfs.
func Btrfs(t testing.TB, mib int64) string {
	t.Helper()
	return Disk(t, mib, "", "mkfs.btrfs", "-q", "--nodiscard")
}

// kindOf is the type of the file system that mkfs makes.
func kindOf(mkfs []string) string { return strings.TrimPrefix(mkfs[0], "mkfs.") }
