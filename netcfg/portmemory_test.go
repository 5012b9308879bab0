package netcfg

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/netcfg/nstest"
)

// BenchmarkPortMemory measures what the kernel holds for a published port: what a control group is charged for (nftables'
// elements are charged since Linux 5.18) between the rules with one port and those with 20,000.
func BenchmarkPortMemory(b *testing.B) {
	nstest.Own(b)
	read := chargedKernelMemory(b)
	h, n := testHost()
	c := Config{Networks: []Network{n}, Ports: []Port{port("", 1, "10.99.0.2:80")}}
	const count = 20000
	for b.Loop() {
		require.NoError(b, h.Set(c))
		before := read()
		many := c
		for i := range uint16(count) {
			many.Ports = append(many.Ports, port("", 2+i, "10.99.0.2:80"))
		}
		require.NoError(b, h.Set(many))
		each := float64(read()-before) / count
		b.ReportMetric(each, "kernel-B/port")
		require.Greater(b, each, 40.0, "less than the bytes of an element: they are not charged")
		require.Less(b, each, 512.0)
	}
}

// chargedKernelMemory puts this thread, or with cgroup v2 this process, into a group of its own, and returns what reads its
// kernel memory in bytes.
func chargedKernelMemory(b *testing.B) func() int {
	dir, procs, file, field := "/sys/fs/cgroup/memory", "tasks", "memory.kmem.usage_in_bytes", ""
	if _, err := os.Stat(dir); err != nil {
		dir, procs, file, field = "/sys/fs/cgroup", "cgroup.procs", "memory.stat", "kernel "
	}
	group := fmt.Sprint(dir, "/cobletest-", os.Getpid())
	require.NoError(b, os.Mkdir(group, 0o755))
	id := strconv.Itoa(unix.Gettid())
	if field != "" {
		id = strconv.Itoa(os.Getpid())
	}
	require.NoError(b, os.WriteFile(group+"/"+procs, []byte(id), 0o644))
	b.Cleanup(func() {
		require.NoError(b, os.WriteFile(dir+"/"+procs, []byte(id), 0o644))
		os.Remove(group)
	})
	return func() (bytes int) {
		runtime.GC() // sockets that are not closed yet
		text, err := os.ReadFile(group + "/" + file)
		require.NoError(b, err)
		_, after, _ := strings.Cut("\n"+string(text), "\n"+field)
		_, err = fmt.Sscan(after, &bytes)
		require.NoError(b, err, "%s has no %q", file, field)
		return bytes
	}
}
