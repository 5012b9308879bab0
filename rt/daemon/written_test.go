package daemon_test

import (
	"bytes"
	"encoding/json"
	"os"
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/rt/engine"
	"github.com/coble-os/coble/rt/job"
)

// onSmallDisk is a booted machine whose root is an ext4 of so many MiB, with the image box.
func onSmallDisk(t *testing.T, size int64, config string) *machine {
	t.Helper()
	m := newFolders(t)
	require.NoError(t, os.Mkdir(m.root(), 0o755))
	smallDisk(t, m.root(), size)
	t.Cleanup(func() {
		m.stop()
		require.NoError(t, unix.Unmount(m.root(), unix.MNT_DETACH))
	})
	if config != "" {
		m.writeConfig(config)
	}
	m.boot()
	return m
}

func (m *machine) jobs(name string) (found []job.Info) {
	m.t.Helper()
	var all []job.Info
	require.NoError(m.t, json.Unmarshal([]byte(m.do("GET", "/coble/jobs", nil)), &all))
	for _, j := range all {
		if j.Name == name {
			found = append(found, j)
		}
	}
	return found
}

func (m *machine) written(name string) int64 {
	m.t.Helper()
	var s engine.Status
	require.NoError(m.t, json.Unmarshal([]byte(m.do("GET", "/coble/status", nil)), &s))
	for _, c := range s.Containers {
		if c.Name == name {
			return int64(c.Written)
		}
	}
	require.FailNow(m.t, "no such container: "+name)
	return 0
}

// TestWrittenByContainer: what a container writes to storage is counted, and the count outlives engines and restarts.
func TestWrittenByContainer(t *testing.T) {
	const mib = 1 << 20
	m := onSmallDisk(t, 64, "")
	m.loadBox()
	write := func(q *request) { q.HostConfig.NetworkMode = "none" }
	m.start("web", write, "sh", "-c", "dd if=/dev/zero of=/f bs=1M count=4 conv=fsync && sleep 1000")
	m.until("4 MiB", func() bool { return m.written("web") >= 4*mib })
	first := m.written("web")
	require.Less(t, first, int64(8*mib))

	var s container.StatsResponse
	require.NoError(t, json.Unmarshal([]byte(m.do("GET", "/containers/web/stats?stream=false&one-shot=1", nil)), &s))
	sum := uint64(0)
	for _, b := range s.BlkioStats.IoServiceBytesRecursive {
		if b.Op == "write" {
			sum += b.Value
		}
	}
	require.GreaterOrEqual(t, sum, uint64(4*mib), "docker stats has it too")

	m.awaitEngine(m.killEngine())
	require.GreaterOrEqual(t, m.written("web"), first, "the next engine knows it")
	m.do("POST", "/containers/web/stop", nil)
	stopped := m.written("web")
	require.GreaterOrEqual(t, stopped, first, "the count outlives the control group")
	m.awaitEngine(m.killEngine())
	require.Equal(t, stopped, m.written("web"), "and the engine that saw the end")

	m.do("POST", "/containers/web/start", nil)
	m.until("4 MiB more", func() bool { return m.written("web") >= stopped+4*mib })
	m.do("POST", "/containers/web/kill", nil)
	m.wait("web")
	require.Less(t, m.written("web"), int64(16*mib), "no run counts twice")
	m.do("DELETE", "/containers/web?force=1", nil)
}

// TestWrittenByJob: a load has written the unpacked files and their record, and nothing twice; so has a second one, which does
// not know before the archive's end that they are here.
func TestWrittenByJob(t *testing.T) {
	m := newMachine(t, "")
	archive := boxArchive(t)
	size := int64(len(archive))
	for range 2 {
		m.do("POST", "/images/load?quiet=1", bytes.NewReader(archive))
	}
	loads := m.jobs("load")
	require.Len(t, loads, 2)
	busybox, err := os.Stat("/bin/busybox")
	require.NoError(t, err)
	require.Greater(t, loads[0].Written, busybox.Size(), "files and record")
	require.Less(t, loads[0].Written, size)
	require.Equal(t, loads[0].Written, loads[1].Written)
	m.do("GET", "/images/json", nil)
	require.Zero(t, m.jobs("images")[0].Written, "who only reads has written nothing")
}
