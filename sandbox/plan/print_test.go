package plan

import (
	"encoding/json"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestPrint: a plan says all that the child and its parent will do.
func TestPrint(t *testing.T) {
	p := &Plan{
		CloneFlags: unix.CLONE_NEWNS | unix.CLONE_NEWPID, Enter: []Join{{"/ns/net", unix.CLONE_NEWNET}},
		Slots: []string{"", "sync", "fd"}, Inputs: []string{"sync"},
		Calls: []Call{
			{Name: "write", Args: []Arg{{Kind: Value, Slot: 1}, {Kind: Str, Str: "r"}, {Int: 1}}, Want: 1},
			{Name: "openat", Args: []Arg{{Int: 3, Text: "THREE"}, {Kind: FdPath, Slot: 2}, {Int: unix.O_PATH | 1<<30, Bits: OpenBits}}, To: 2, Want: Any, Ignore: []syscall.Errno{unix.ENOENT}, SkipOn: 1},
			{Name: "getcwd", Args: []Arg{{Kind: Mem, Mem: make([]byte, 9)}}, Want: Any, SkipOK: 1, Checks: []Check{{0, 0, 1, 0xff, '/'}}},
			{Name: "execve", Args: []Arg{{Kind: Vector, Strs: []string{"a", "b c"}}}, Want: Any, Ignore: []syscall.Errno{unix.ENOENT, unix.EACCES}},
		},
		Stops: []Stop{{Maps: &Maps{"0 1 1", "0 2 1"}, CopyUp: "/var", Created: true}},
	}
	require.Equal(t, `clone3(CLONE_VM|CLONE_VFORK|CLONE_PIDFD|CLONE_NEWNS|CLONE_NEWPID, CLONE_NEWNET /ns/net)
write($sync, "r", 1) want 1
# parent: uid_map "0 1 1", gid_map "0 2 1"; copy up /var; caller's hook
$fd = openat(THREE, "/proc/self/fd/$fd", O_PATH|0x40000000) ENOENT: skip 1
getcwd(<9 bytes>) check [0]&0xff==0x2f ok: skip 1
execve(["a" "b c"]) ENOENT|EACCES: go on
`, p.String())
	b, err := json.Marshal(&Plan{Slots: p.Slots, Calls: p.Calls[1:2]})
	require.NoError(t, err)
	require.JSONEq(t, `{"clone": "CLONE_VM|CLONE_VFORK|CLONE_PIDFD", "inputs": null, "calls": [{"call": "openat", "result": "fd", "for": "",
		"args": ["THREE", "\"/proc/self/fd/$fd\"", "O_PATH|0x40000000"], "ignore": ["ENOENT"], "skipOnIgnored": 1}]}`, string(b))
	require.Equal(t, "0", MountBits.Text(0))
}
