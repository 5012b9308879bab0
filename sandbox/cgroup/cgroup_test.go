package cgroup

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func ptr[T any](v T) *T { return &v }

// fake is a group whose folder is a plain one with the given files in it.
func fake(t *testing.T, unified bool, files map[string]string) *Group {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "coble/web"), 0o755))
	for name, text := range files {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "coble/web", name), []byte(text), 0o644))
	}
	h := Hierarchy{Mount: dir, Controllers: []string{
		"cpu", "cpuacct", "cpuset", "memory", "pids", "devices", "freezer", "blkio", "hugetlb", "net_cls", "net_prio", "rdma",
	}}
	return &Group{Path: "/coble/web", layout: Layout{Unified: unified, Hierarchies: []Hierarchy{h}}}
}

func content(t *testing.T, g *Group, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(g.Dirs()[0], name))
	require.NoError(t, err)
	return string(b)
}

func TestLimits2(t *testing.T) {
	empty := map[string]string{}
	for _, f := range []string{"memory.max", "memory.low", "memory.swap.max", "cpu.max", "cpu.weight", "cpu.max.burst", "cpuset.cpus", "pids.max", "io.max"} {
		empty[f] = ""
	}
	g := fake(t, true, empty)
	require.NoError(t, g.Update(&specs.LinuxResources{
		Memory:  &specs.LinuxMemory{Limit: ptr(int64(1000)), Swap: ptr(int64(1500)), Reservation: ptr(int64(-1))},
		CPU:     &specs.LinuxCPU{Quota: ptr(int64(50000)), Shares: ptr(uint64(1024)), Burst: ptr(uint64(7)), Cpus: "0-1"},
		Pids:    &specs.LinuxPids{Limit: ptr(int64(64))},
		Unified: map[string]string{"io.max": "8:0 rbps=1"},
	}))
	for name, want := range map[string]string{
		"memory.max": "1000", "memory.swap.max": "500", "memory.low": "max", "cpu.max": "50000 100000",
		"cpu.weight": "39", "cpu.max.burst": "7", "cpuset.cpus": "0-1", "pids.max": "64", "io.max": "8:0 rbps=1",
	} {
		require.Equal(t, want, content(t, g, name), name)
	}
	require.Equal(t, uint64(1), weight(0))
	require.Equal(t, uint64(10000), weight(1<<40))
	for want, r := range map[string]*specs.LinuxResources{
		"resources.memory: swap: 5 is less than the limit of memory 10":        {Memory: &specs.LinuxMemory{Limit: ptr(int64(10)), Swap: ptr(int64(5))}},
		"resources.memory: swap: needs a limit of memory":                      {Memory: &specs.LinuxMemory{Swap: ptr(int64(5))}},
		"resources.memory: swappiness: cgroup v2 has none":                     {Memory: &specs.LinuxMemory{Swappiness: ptr(uint64(5))}},
		"resources.memory: disableOOMKiller: cgroup v2 has none":               {Memory: &specs.LinuxMemory{DisableOOMKiller: ptr(true)}},
		"resources.memory: kernelTCP: cgroup v2 has none":                      {Memory: &specs.LinuxMemory{KernelTCP: ptr(int64(5))}},
		"resources.memory: useHierarchy: cgroup v2 has no other way":           {Memory: &specs.LinuxMemory{UseHierarchy: ptr(false)}},
		"resources.cpu: realtimeRuntime, realtimePeriod: cgroup v2 has none":   {CPU: &specs.LinuxCPU{RealtimeRuntime: ptr(int64(5))}},
		"resources.blockIO: leafWeight: cgroup v2 has none":                    {BlockIO: &specs.LinuxBlockIO{LeafWeight: ptr(uint16(5))}},
		"resources.network: cgroup v2 has none":                                {Network: &specs.LinuxNetwork{ClassID: ptr(uint32(5))}},
		`resources.hugepageLimits: "../2MB" is no size of a page, such as 2MB`: {HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "../2MB"}}},
		`resources.unified: "../x" is no file name`:                            {Unified: map[string]string{"../x": ""}},
	} {
		require.EqualError(t, g.Update(r), want)
	}
	err := g.Update(&specs.LinuxResources{HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 1}}})
	require.ErrorIs(t, err, os.ErrNotExist)
	require.ErrorContains(t, err, "this kernel has no hugetlb.2MB.max (no pages of this size)")
	err = fake(t, false, nil).Update(&specs.LinuxResources{Unified: map[string]string{"io.max": "x"}})
	require.EqualError(t, err, "resources.unified: needs cgroup v2")
}

func TestStats2(t *testing.T) {
	g := fake(t, true, map[string]string{
		"memory.current": "100\n", "memory.max": "max\n", "memory.peak": "200\n", "memory.stat": "anon 5\ninactive_file 30\n",
		"memory.events": "low 0\nmax 4\noom_kill 2\n", "cpu.stat": "usage_usec 3000\nuser_usec 1000\nsystem_usec 2000\n", "pids.current": "3\n", "pids.max": "9\n",
		"io.stat": "8:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\n7:1 \n253:16 rbytes=1 wbytes=2 rios=1 wios=1\n7:2 rbytes=0 wbytes=0\n",
	})
	s, err := g.Stats()
	require.NoError(t, err)
	require.Equal(t, Stats{
		MemoryUsage: 100, MemoryCache: 30, MemoryPeak: 200, OOMKills: 2, CPUUsage: 3 * time.Millisecond,
		CPUUser: time.Millisecond, CPUSystem: 2 * time.Millisecond, Pids: 3, PidsLimit: 9,
		Blocks: []Block{{8, 0, 10, 20}, {253, 16, 1, 2}},
	}, s)
	require.Equal(t, uint64(22), s.Written())
	hits, err := g.LimitHits()
	require.NoError(t, err)
	require.Equal(t, uint64(4), hits)
}

// TestBlocks1: v1 has a line for each disk and direction; older kernels count a group without those below it.
func TestBlocks1(t *testing.T) {
	text := "8:0 Read 10\n8:0 Write 20\n8:0 Sync 20\n8:0 Async 10\n8:0 Discard 0\n8:0 Total 30\n253:16 Read 0\n253:16 Write 2\n7:0 Read 0\n7:0 Write 0\nTotal 32\n"
	for _, name := range []string{"blkio.throttle.io_service_bytes_recursive", "blkio.throttle.io_service_bytes"} {
		s, err := fake(t, false, map[string]string{name: text}).Stats()
		require.NoError(t, err)
		require.Equal(t, []Block{{8, 0, 10, 20}, {253, 16, 0, 2}}, s.Blocks)
	}
	g := fake(t, false, map[string]string{"blkio.throttle.io_service_bytes_recursive": text})
	n, err := g.Written()
	require.NoError(t, err)
	require.Equal(t, uint64(22), n)
	n, err = fake(t, false, nil).Written()
	require.NoError(t, err)
	require.Zero(t, n)
}

func TestMissingController(t *testing.T) {
	l := Layout{Hierarchies: []Hierarchy{{"/sys/fs/cgroup/cpu", []string{"cpu"}}}}
	_, err := Select("/coble/x", l, &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(1))}})
	require.EqualError(t, err, `cgroup controller "memory", which a limit needs, is missing: kernel option CONFIG_MEMCG (perhaps cgroup_enable=memory on the kernel command line)`)
	for _, bad := range []string{"", "/", "x", "/a/../b", "/a/"} {
		_, err := Select(bad, l, nil)
		require.ErrorContains(t, err, "is not absolute and clean", bad)
	}
}

func TestMountLine(t *testing.T) {
	m, ok := mountLine("35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory")
	require.True(t, ok)
	require.Equal(t, cgroupMount{"/", "/sys/fs/cgroup/memory", "cgroup", "rw,memory"}, m)
	require.Equal(t, []string{"memory"}, v1Controllers(m.super))
	require.Empty(t, v1Controllers("rw,name=systemd"))
	_, ok = mountLine("garbage")
	require.False(t, ok)
}

// TestFindMounts: a container's cgroup mounts on the machine are not the machine's layout; within a container they are.
func TestFindMounts(t *testing.T) {
	const (
		own    = "30 1 0:29 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
		part   = "90 80 0:32 /c1 /srv/c1/sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
		part2  = "91 80 0:29 /c1 /srv/c1/sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
		memory = "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
		again  = "36 31 0:32 / /mnt rw - cgroup cgroup rw,memory\n"
	)
	v1 := func(at string) []Hierarchy { return []Hierarchy{{at, []string{"memory"}}} }
	for in, want := range map[string]mounts{
		"":                           {},
		own + part:                   {v2: "/sys/fs/cgroup"},
		part + part2 + own:           {v2: "/sys/fs/cgroup"},
		part + memory + again:        {v1: v1("/sys/fs/cgroup/memory")},
		part + part2:                 {v1: v1("/srv/c1/sys/fs/cgroup/memory"), v2: "/srv/c1/sys/fs/cgroup/unified"},
		memory + part2 + own + again: {v1: v1("/sys/fs/cgroup/memory"), v2: "/sys/fs/cgroup"},
	} {
		got, err := findMounts(strings.NewReader(in))
		require.NoError(t, err)
		require.Equal(t, want, got, in)
	}
}

func FuzzMountLine(f *testing.F) {
	f.Add("35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory")
	f.Fuzz(func(t *testing.T, s string) { mountLine(s) })
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: run as root or make test-vm")
	}
}

// unified returns a group on the machine's v2 hierarchy, wherever it is mounted, and removes it at the end.
func unified(t *testing.T) *Group {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, unix.Mount("cgroup2", dir, "cgroup2", 0, ""))
	g := &Group{Path: fmt.Sprintf("/coble-test-%d", os.Getpid()), layout: Layout{true, []Hierarchy{{dir, nil}}}}
	t.Cleanup(func() {
		require.NoError(t, g.Kill(context.Background()))
		require.NoError(t, g.Remove())
		require.NoError(t, unix.Unmount(dir, unix.MNT_DETACH))
	})
	require.NoError(t, os.Mkdir(g.Dirs()[0], 0o755))
	return g
}

// legacy returns a group on v1.
func legacy(t *testing.T, r *specs.LinuxResources) *Group {
	t.Helper()
	l, err := Detect()
	require.NoError(t, err)
	if l.Unified {
		t.Skip("this machine has no cgroup v1 mounted; its v2 is tested")
	}
	g, err := Create(fmt.Sprintf("/coble-test-%d/inner", os.Getpid()), r)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, g.Kill(context.Background()))
		require.NoError(t, g.Remove())
		g.Path = filepath.Dir(g.Path)
		require.NoError(t, g.Remove())
	})
	return g
}

// sleeper starts a process in g, and reaps it at the end.
func sleeper(t *testing.T, g *Group) int {
	t.Helper()
	cmd := exec.Command("/bin/sleep", "1000")
	require.NoError(t, cmd.Start())
	done := make(chan struct{})
	go func() { _ = cmd.Wait(); close(done) }()
	t.Cleanup(func() { _ = cmd.Process.Kill(); <-done })
	require.NoError(t, g.Add(cmd.Process.Pid))
	return cmd.Process.Pid
}

// TestFreezeAndKill goes through the life of a group, on v1 and v2.
func TestFreezeAndKill(t *testing.T) {
	needRoot(t)
	for name, make := range map[string]func(*testing.T) *Group{
		"v2": unified, "v1": func(t *testing.T) *Group { return legacy(t, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			g := make(t)
			pid := sleeper(t, g)
			pids, err := g.Pids()
			require.NoError(t, err)
			require.Equal(t, []int{pid}, pids)
			require.ErrorIs(t, g.Remove(), unix.EBUSY)
			require.NoError(t, g.Freeze(ctx))
			frozen, err := g.Frozen()
			require.NoError(t, err)
			require.True(t, frozen)
			require.NoError(t, g.Thaw())
			frozen, err = g.Frozen()
			require.NoError(t, err)
			require.False(t, frozen)
			require.NoError(t, g.Freeze(ctx))
			require.NoError(t, g.Kill(ctx), "a frozen group can be killed")
			require.NoError(t, g.Remove())
			require.NoError(t, g.Remove(), "gone already")
		})
	}
}

func TestLimits1(t *testing.T) {
	needRoot(t)
	g := legacy(t, &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: ptr(int64(32 << 20)), Swap: ptr(int64(64 << 20)), Reservation: ptr(int64(16 << 20))},
		CPU:    &specs.LinuxCPU{Shares: ptr(uint64(512)), Quota: ptr(int64(20000)), Period: ptr(uint64(50000)), Cpus: "0"},
		Pids:   &specs.LinuxPids{Limit: ptr(int64(12))},
	})
	sleeper(t, g)
	for file, want := range map[[2]string]string{
		{"memory", "memory.limit_in_bytes"}: "33554432", {"memory", "memory.memsw.limit_in_bytes"}: "67108864",
		{"memory", "memory.soft_limit_in_bytes"}: "16777216", {"cpu", "cpu.shares"}: "512", {"cpu", "cpu.cfs_quota_us"}: "20000",
		{"cpu", "cpu.cfs_period_us"}: "50000", {"cpuset", "cpuset.cpus"}: "0", {"pids", "pids.max"}: "12",
	} {
		got, err := g.read(file[0], file[1])
		require.NoError(t, err)
		require.Equal(t, want, got, file[1])
	}
	for _, limit := range []int64{128 << 20, 8 << 20} { // up and down, with swap: the order of the writes matters
		require.NoError(t, g.Update(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit, Swap: &limit}}))
		s, err := g.Stats()
		require.NoError(t, err)
		require.Equal(t, uint64(limit), s.MemoryLimit)
		require.Equal(t, uint64(1), s.Pids)
		require.Equal(t, uint64(12), s.PidsLimit)
	}
	names, err := Children(filepath.Dir(g.Path))
	require.NoError(t, err)
	require.Equal(t, []string{"inner"}, names)
	names, err = Children("/no/such/group")
	require.NoError(t, err)
	require.Empty(t, names)
	again, err := Open(g.Path)
	require.NoError(t, err)
	require.Equal(t, g.Dirs(), again.Dirs())
	_, err = Create(g.Path, nil)
	require.ErrorIs(t, err, os.ErrExist)
	pids, err := g.Pids()
	require.NoError(t, err)
	require.Len(t, pids, 1, "a refused Create harms nobody")
}

// rules deny all devices but zero for reading, and null.
func rules() []specs.LinuxDeviceCgroup {
	return []specs.LinuxDeviceCgroup{
		{Allow: false, Access: "rwm"},
		{Allow: true, Type: "c", Major: ptr(int64(1)), Minor: ptr(int64(5)), Access: "r"},
		{Allow: true, Type: "c", Major: ptr(int64(1)), Minor: ptr(int64(3))},
	}
}

// TestDevices: the same rules have the same effect on v1 and v2.
func TestDevices(t *testing.T) {
	needRoot(t)
	const script = `for f in null zero full; do
if true < /dev/$f; then printf "%s:r " $f; fi
if true > /dev/$f; then printf "%s:w " $f; fi
done 2>/dev/null`
	for name, make := range map[string]func(*testing.T) *Group{
		"v2": unified, "v1": func(t *testing.T) *Group { return legacy(t, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			g := make(t)
			if g.Unified() {
				require.NoError(t, g.devices2(rules()))
			} else {
				require.NoError(t, g.devices1(rules()))
			}
			join := ""
			for _, d := range g.Dirs() {
				join += "echo $$ > " + d + "/cgroup.procs || exit 1\n"
			}
			out, err := exec.Command("/bin/sh", "-c", join+script).CombinedOutput()
			require.NoError(t, err, "%s", out)
			require.Equal(t, "null:r null:w zero:r ", string(out))
		})
	}
	for _, bad := range []specs.LinuxDeviceCgroup{{Type: "x"}, {Type: "c", Access: "q"}, {Type: "a", Major: ptr(int64(1))}, {Access: "r"}} {
		_, err := accessBits(bad)
		require.Error(t, err, "%+v", bad)
	}
}

// TestCreateUnified makes a group with limits where v2 has the controllers.
func TestCreateUnified(t *testing.T) {
	needRoot(t)
	l, err := Detect()
	require.NoError(t, err)
	if !l.Unified {
		t.Skip("this machine's controllers are on cgroup v1: TestLimits1 is about them")
	}
	g, err := Create(fmt.Sprintf("/coble-test-%d/inner", os.Getpid()), &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: ptr(int64(32 << 20)), Swap: ptr(int64(48 << 20))},
		CPU:    &specs.LinuxCPU{Shares: ptr(uint64(512)), Quota: ptr(int64(20000)), Period: ptr(uint64(50000)), Cpus: "0"},
		Pids:   &specs.LinuxPids{Limit: ptr(int64(12))}, Devices: rules(),
	})
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, g.Kill(context.Background()))
		require.NoError(t, g.Remove())
		g.Path = filepath.Dir(g.Path)
		require.NoError(t, g.Remove())
	})
	sleeper(t, g)
	for file, want := range map[string]string{
		"memory.max": "33554432", "memory.swap.max": "16777216", "cpu.max": "20000 50000",
		"cpu.weight": "20", "cpuset.cpus": "0", "pids.max": "12",
	} {
		got, err := g.read("", file)
		require.NoError(t, err)
		require.Equal(t, want, got, file)
	}
	s, err := g.Stats()
	require.NoError(t, err)
	require.Equal(t, uint64(32<<20), s.MemoryLimit)
	require.Equal(t, uint64(1), s.Pids)
	require.NoError(t, g.Update(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(-1))}}))
	s, err = g.Stats()
	require.NoError(t, err)
	require.Zero(t, s.MemoryLimit)
	_, err = Create(g.Path, nil)
	require.ErrorIs(t, err, os.ErrExist)
}

// TestDetectSeesChanges: what is remembered holds only until the next mount.
func TestDetectSeesChanges(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: run as root or make test-vm")
	}
	before, err := readMounts()
	require.NoError(t, err)
	for range 3 { // the second and third are from memory
		m, err := mounted.get()
		require.NoError(t, err)
		require.Equal(t, before, m)
	}
	dir := t.TempDir()
	require.False(t, changed(mounted.fd))
	require.NoError(t, unix.Mount("x", dir, "tmpfs", 0, ""))
	require.True(t, changed(mounted.fd))
	require.NoError(t, unix.Unmount(dir, 0))
	mounted.found = mounts{v2: "/stale"}
	m, err := mounted.get()
	require.NoError(t, err)
	require.Equal(t, before, m, "the unmount was noticed")
	m.v1 = append(m.v1, Hierarchy{})
	l, err := Detect()
	require.NoError(t, err)
	l.Hierarchies[0].Mount = "changed by the caller"
	again, err := Detect()
	require.NoError(t, err)
	require.NotEqual(t, l, again)
}
