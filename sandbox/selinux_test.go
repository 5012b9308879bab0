package sandbox

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestSELinux loads a policy of its own for the machine, so it runs alone, in one that qemu-tests/tests boots.
func TestSELinux(t *testing.T) {
	if cmdline, err := os.ReadFile("/proc/cmdline"); err != nil || os.Getenv("COBLE_VM") == "" || !strings.Contains(string(cmdline), "lsm=selinux") {
		t.Skip("takes a whole machine with SELinux: qemu-tests/tests boots one")
	}
	enforceSELinux(t)
	const process, files = "user_u:role_r:box_t", "user_u:object_r:box_file_t"
	script := `cat /proc/self/attr/current; echo; echo > /dev/shm/mine && echo mine; echo > /theirs && echo theirs; exit 0`

	spec := newSpec(newRoot(t), "sh", "-c", script)
	res, err := runConfig(t, Config{Spec: spec})
	require.NoError(t, err)
	require.Equal(t, "user_u:role_r:base_t\nmine\ntheirs\n", stripNUL(res.out), "without a label nothing changes")

	spec.Process.SelinuxLabel, spec.Linux.MountLabel = process, files
	res, err = runConfig(t, Config{Spec: spec})
	require.NoError(t, err)
	require.Equal(t, process+"\nmine\nsh: can't create /theirs: Permission denied\n", stripNUL(res.out))

	spec.Linux.MountLabel = ""
	res, err = runConfig(t, Config{Spec: spec})
	require.NoError(t, err)
	require.NotContains(t, res.out, "\nmine", "a mount without the label is not the container's")

	spec.Process.SelinuxLabel = "user_u:role_r:nobody_t"
	_, err = Start(context.Background(), Config{Spec: spec})
	require.EqualError(t, err, "take SELinux label user_u:role_r:nobody_t: invalid argument")
	spec.Process.SelinuxLabel, spec.Linux.MountLabel = process, "user_u:object_r:nobody_t"
	_, err = Start(context.Background(), Config{Spec: spec})
	require.ErrorIs(t, err, unix.EINVAL)

	target, c := startLong(t, nil)
	proc := *c.Spec.Process
	proc.SelinuxLabel, proc.Args = process, []string{"cat", "/proc/self/attr/current"}
	res, err = execIn(t, target, c, &proc)
	require.NoError(t, err)
	require.Equal(t, process, stripNUL(res.out))
}

func stripNUL(s string) string { return strings.ReplaceAll(s, "\x00", "") }

// enforceSELinux loads testdata/selinux.cil into a kernel that has no policy yet.
func enforceSELinux(t *testing.T) {
	require.NoError(t, unix.Mount("selinuxfs", "/sys/fs/selinux", "selinuxfs", 0, ""))
	policy := filepath.Join(t.TempDir(), "policy")
	out, err := exec.Command("secilc", "-o", policy, "-f", "/dev/null", "testdata/selinux.cil").CombinedOutput()
	require.NoError(t, err, "%s", out)
	b, err := os.ReadFile(policy)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile("/sys/fs/selinux/load", b, 0))
	require.NoError(t, os.WriteFile("/sys/fs/selinux/enforce", []byte("1"), 0))
}
