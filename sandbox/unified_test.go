package sandbox

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/sandbox/cgroup"
)

// unifiedEnv makes this test binary hide cgroup v1 from itself. It must run in a mount namespace of its own.
const unifiedEnv = "COBLE_TEST_UNIFIED"

func TestMain(m *testing.M) {
	if os.Getenv(unifiedEnv) != "" {
		if err := hideV1(); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}

// hideV1 leaves cgroup v2 as the only hierarchy in this mount namespace.
func hideV1() error {
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		return err
	}
	if err := unix.Unmount("/sys/fs/cgroup", unix.MNT_DETACH); err != nil {
		return err
	}
	return unix.Mount("cgroup2", "/sys/fs/cgroup", "cgroup2", 0, "")
}

// TestUnified runs the tests that are about joining, entering and freezing groups once more as on a machine that has
// cgroup v2 only. Limits need controllers, which a machine gives either to v1 or to v2: those run where v2 is the
// host's own.
func TestUnified(t *testing.T) {
	needRoot(t)
	l, err := cgroup.Detect()
	require.NoError(t, err)
	if l.Unified {
		t.Skip("this machine has cgroup v2 only: all tests run on it")
	}
	cmd := exec.Command("/proc/self/exe", "-test.run", "^(TestOutputAndStatus|TestIdentity|TestExec.*|TestSignals|TestTerminal|TestJoinNamespaces|TestUnifiedView|TestUserNames.*|TestJoinUser.*|TestSharedCgroups|TestNothingInherited)$",
		"-test.v", "-test.timeout", "2m")
	cmd.Env = append(os.Environ(), unifiedEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "--- PASS: TestExecUnseen")
	require.Contains(t, string(out), "--- PASS: TestUnifiedView")
}

// TestUnifiedView: the container sees its own group only, read-only, and its devices are filtered.
func TestUnifiedView(t *testing.T) {
	needRoot(t)
	if l, err := cgroup.Detect(); err != nil || !l.Unified {
		t.Skip("is about cgroup v2: TestUnified runs it")
	}
	res := run(t, "cat /proc/self/cgroup /sys/fs/cgroup/cgroup.procs; mkdir /sys/fs/cgroup/x; cat /dev/kmsg | head -c1; head -c1 /dev/zero | wc -c", func(s *specs.Spec) {
		s.Linux.Resources = &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}}
		s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/kmsg", Type: "c", Major: 1, Minor: 11}}
	})
	lines := strings.Split(res.out, "\n")
	require.Contains(t, lines, "0::/")
	require.Contains(t, lines, "1")
	require.Contains(t, res.out, "mkdir: can't create directory '/sys/fs/cgroup/x': Read-only file system")
	require.Contains(t, res.out, "/dev/kmsg': Operation not permitted")
	require.True(t, strings.HasSuffix(res.out, "\n1\n"), res.out)
}

// TestFrozenTarget: a container that does not stand still in time is an error, and runs on.
func TestFrozenTarget(t *testing.T) {
	needRoot(t)
	target, c := startLong(t, nil)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := Exec(ctx, ExecConfig{Target: target, CgroupPath: c.CgroupPath, Process: c.Spec.Process})
	require.ErrorIs(t, err, context.Canceled)
	g, err := cgroup.Open(c.CgroupPath)
	require.NoError(t, err)
	frozen, err := g.Frozen()
	require.NoError(t, err)
	require.False(t, frozen)
}
