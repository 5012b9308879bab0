package daemon_test

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/layers/driver/devmapper/dm"
)

// Containers on thin volumes: what one writes is its own and bounded, an
// engine that is killed takes nothing away from those that run, the next one
// goes on with them, and nothing is left of all that when the daemon is gone.
func TestThinVolumes(t *testing.T) {
	for _, disk := range []bool{false, true} {
		t.Run(map[bool]string{false: "files", true: "disk"}[disk], func(t *testing.T) { thinVolumes(t, disk) })
	}
}

func thinVolumes(t *testing.T, disk bool) {
	m := newFolders(t)
	if err := dm.NeedTarget("thin-pool", "CONFIG_DM_THIN_PROVISIONING", "dm_thin_pool"); err != nil {
		t.Skip(err) // qemu-tests/tests runs it on others
	}
	if m.driver = "devmapper"; disk {
		m.driver = ""
		m.writeConfig(fmt.Sprintf("[storage]\npool = %q\n", loopDisk(t, 200<<20)))
	}
	m.boot()
	m.loadBox()
	id := m.start("web", func(r *request) { r.HostConfig.StorageOpt = map[string]string{"size": "8m"} },
		"sh", "-c", "cat /etc/passwd; echo x > /mine; dd if=/dev/zero of=/big bs=1M count=20 2>/dev/null || echo full; rm /big; rm /etc/plain; echo done; sleep 1000")
	m.until("the container has written", func() bool { return strings.HasSuffix(m.logs(id), "done\n") })
	require.Equal(t, "root:x:0:0:root:/:/bin/sh\nfull\ndone\n", m.logs(id))
	require.Contains(t, m.do("GET", "/info", nil), `"Driver":"devmapper"`)
	require.Regexp(t, `"ext4 on thin pool [0-9a-f]{16}, \d+ of \d+ MiB used"`, m.do("GET", "/info", nil))
	require.Contains(t, m.do("GET", "/containers/"+id+"/changes", nil), `{"Kind":2,"Path":"/etc/plain"}`)
	require.NotContains(t, m.do("GET", "/containers/"+id+"/changes", nil), "lost+found")

	pid := m.inspect(id).State.Pid
	m.awaitEngine(m.killEngine())
	require.Equal(t, pid, m.inspect(id).State.Pid)
	require.Contains(t, m.do("GET", "/containers/"+id+"/changes", nil), `{"Kind":1,"Path":"/mine"}`)
	require.Equal(t, 0, m.wait(m.start("next", nil, "sh", "-c", "test ! -e /mine && test -e /etc/plain")))

	m.do("POST", "/containers/"+id+"/restart?t=0", nil)
	m.do("DELETE", "/containers/"+id+"?force=1", nil)
	m.do("DELETE", "/containers/next", nil)
	m.do("DELETE", "/images/box", nil)
	record, err := os.ReadFile(m.root() + "/devmapper/pool.json")
	require.NoError(t, err)
	var pool struct{ ID string }
	require.NoError(t, json.Unmarshal(record, &pool))
	require.NotEmpty(t, pool.ID)
	m.stop()
	m.until("no device is left", func() bool {
		names, err := dm.List()
		require.NoError(t, err)
		return !slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(n, "coble-"+pool.ID) })
	})
	require.NoError(t, os.RemoveAll(m.root()))
}

// loopDisk is a block device of so many bytes, all zero, that goes with the
// test.
func loopDisk(t *testing.T, size int64) string {
	t.Helper()
	file, err := os.CreateTemp(t.TempDir(), "disk")
	require.NoError(t, err)
	defer file.Close()
	require.NoError(t, file.Truncate(size))
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	require.NoError(t, err)
	defer control.Close()
	n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
	require.NoError(t, err)
	dev, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", n), os.O_RDWR, 0)
	require.NoError(t, err)
	t.Cleanup(func() { dev.Close() })
	require.NoError(t, unix.IoctlLoopConfigure(int(dev.Fd()), &unix.LoopConfig{Fd: uint32(file.Fd()), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR}}))
	return dev.Name()
}
