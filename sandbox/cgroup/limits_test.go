package cgroup

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// knobs are all resources that have a file on v1 and on v2.
func knobs() *specs.LinuxResources {
	throttle := func(rate uint64) []specs.LinuxThrottleDevice {
		d := specs.LinuxThrottleDevice{Rate: rate}
		d.Major, d.Minor = 8, 16
		return []specs.LinuxThrottleDevice{d}
	}
	weight := specs.LinuxWeightDevice{Weight: ptr(uint16(500))}
	weight.Major, weight.Minor = 8, 16
	return &specs.LinuxResources{
		BlockIO: &specs.LinuxBlockIO{
			Weight: ptr(uint16(100)), WeightDevice: []specs.LinuxWeightDevice{weight}, ThrottleWriteIOPSDevice: throttle(7),
		},
		HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 4 << 20}},
		Rdma:           map[string]specs.LinuxRdma{"mlx5_1": {HcaHandles: ptr(uint32(2)), HcaObjects: ptr(uint32(3))}},
		CPU:            &specs.LinuxCPU{Idle: ptr(int64(1)), Burst: ptr(uint64(5)), Mems: "0"},
	}
}

func files(names ...string) map[string]string {
	out := map[string]string{}
	for _, n := range names {
		out[n] = ""
	}
	return out
}

// TestKnobs: each resource goes to its file, in the kernel's form.
func TestKnobs(t *testing.T) {
	for name, c := range map[string]struct {
		unified bool
		want    map[string]string
	}{
		"v1": {false, map[string]string{
			"blkio.weight": "100", "blkio.weight_device": "8:16 500", "blkio.throttle.write_iops_device": "8:16 7",
			"hugetlb.2MB.limit_in_bytes": "4194304", "hugetlb.2MB.rsvd.limit_in_bytes": "4194304",
			"rdma.max": "mlx5_1 hca_handle=2 hca_object=3", "cpu.idle": "1", "cpu.cfs_burst_us": "5", "cpuset.mems": "0",
		}},
		"v1 with BFQ": {false, map[string]string{
			"blkio.bfq.weight": "100", "blkio.bfq.weight_device": "8:16 500", "blkio.throttle.write_iops_device": "8:16 7",
			"hugetlb.2MB.limit_in_bytes": "4194304", "rdma.max": "mlx5_1 hca_handle=2 hca_object=3", "cpu.idle": "1",
			"cpu.cfs_burst_us": "5", "cpuset.mems": "0",
		}},
		"v2": {true, map[string]string{
			"io.weight": "8:16 4950", "io.max": "8:16 wiops=7", "hugetlb.2MB.max": "4194304", "hugetlb.2MB.rsvd.max": "4194304",
			"rdma.max": "mlx5_1 hca_handle=2 hca_object=3", "cpu.idle": "1", "cpu.max.burst": "5", "cpuset.mems": "0",
		}},
		"v2 with BFQ": {true, map[string]string{
			"io.bfq.weight": "8:16 500", "io.max": "8:16 wiops=7", "hugetlb.2MB.max": "4194304",
			"rdma.max": "mlx5_1 hca_handle=2 hca_object=3", "cpu.idle": "1", "cpu.max.burst": "5", "cpuset.mems": "0",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			var names []string
			for f := range c.want {
				names = append(names, f)
			}
			g := fake(t, c.unified, files(names...))
			require.NoError(t, g.Update(knobs()))
			for f, want := range c.want {
				require.Equal(t, want, content(t, g, f)[:len(want)], f) // a plain file keeps what a shorter write leaves
			}
		})
	}
	require.Equal(t, []uint64{1, 910, 10000}, []uint64{ioWeight(10), ioWeight(100), ioWeight(1000)})
}

// TestNetwork: v1 only.
func TestNetwork(t *testing.T) {
	g := fake(t, false, files("net_cls.classid", "net_prio.ifpriomap"))
	require.NoError(t, g.Update(&specs.LinuxResources{Network: &specs.LinuxNetwork{
		ClassID: ptr(uint32(0x100001)), Priorities: []specs.LinuxInterfacePriority{{Name: "eth0", Priority: 5}},
	}}))
	require.Equal(t, "1048577", content(t, g, "net_cls.classid"))
	require.Equal(t, "eth0 5", content(t, g, "net_prio.ifpriomap"))
}

// TestMemoryDetails: zeros are no limits, kernel memory is let be, and a limit below the use is refused if asked for.
func TestMemoryDetails(t *testing.T) {
	for _, unified := range []bool{false, true} {
		g := fake(t, unified, map[string]string{"memory.usage_in_bytes": "5000\n", "memory.current": "5000\n"})
		//lint:ignore SA1019 the field is deprecated, and let be
		m := &specs.LinuxMemory{Limit: ptr(int64(0)), Swap: ptr(int64(0)), Reservation: ptr(int64(0)), Kernel: ptr(int64(7)), UseHierarchy: ptr(true)}
		require.NoError(t, g.Update(&specs.LinuxResources{Memory: m}))
		m.Limit, m.CheckBeforeUpdate = ptr(int64(4999)), ptr(true)
		require.EqualError(t, g.Update(&specs.LinuxResources{Memory: m}),
			"resources.memory: checkBeforeUpdate: 5000 bytes are in use, more than the limit 4999")
	}
	g := fake(t, true, files("memory.max", "memory.swap.max"))
	require.NoError(t, g.Update(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(-1))}}))
	require.Equal(t, "max", content(t, g, "memory.max"))
	require.Equal(t, "max", content(t, g, "memory.swap.max"), "swap follows")
	g = fake(t, true, map[string]string{"cpu.max": "7000 50000\n", "cpu.max.burst": ""})
	require.NoError(t, g.Update(&specs.LinuxResources{CPU: &specs.LinuxCPU{Period: ptr(uint64(60000))}}))
	require.Equal(t, "7000 60000", content(t, g, "cpu.max")[:10], "the quota stays")
}

// TestNeeds: a controller that is not there is an error with the kernel option, before anything is made.
func TestNeeds(t *testing.T) {
	l := Layout{Unified: true, Hierarchies: []Hierarchy{{"/sys/fs/cgroup", []string{"cpu", "memory", "pids"}}}}
	for want, r := range map[string]*specs.LinuxResources{
		`cgroup controller "io", which a limit needs, is missing: kernel option CONFIG_BLK_CGROUP`:                                            {BlockIO: knobs().BlockIO},
		`cgroup controller "hugetlb", which a limit needs, is missing: kernel option CONFIG_CGROUP_HUGETLB (or its hierarchy is not mounted)`: {HugepageLimits: knobs().HugepageLimits},
		`cgroup controller "rdma", which a limit needs, is missing: kernel option CONFIG_CGROUP_RDMA`:                                         {Rdma: knobs().Rdma},
		`cgroup controller "cpuset", which a limit needs, is missing: kernel option CONFIG_CPUSETS`:                                           {CPU: knobs().CPU},
		`cgroup controller "misc", which a limit needs, is missing: kernel option CONFIG_CGROUP_MISC`:                                         {Unified: map[string]string{"misc.max": "x"}},
	} {
		_, err := Select("/coble/x", l, r)
		require.EqualError(t, err, want)
	}
	_, err := Select("/coble/x", l, &specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{}, Network: &specs.LinuxNetwork{}})
	require.NoError(t, err, "nothing is asked for")
	l.Unified = false
	_, err = Select("/coble/x", l, &specs.LinuxResources{Network: &specs.LinuxNetwork{ClassID: ptr(uint32(1))}})
	require.EqualError(t, err, `cgroup controller "net_cls", which a limit needs, is missing: kernel option CONFIG_CGROUP_NET_CLASSID (or its v1 hierarchy is not mounted)`)
}

// disk returns the numbers of some disk of this machine.
func disk(t *testing.T) (major, minor int64) {
	t.Helper()
	devs, err := filepath.Glob("/sys/block/*/dev")
	require.NoError(t, err)
	for _, d := range devs {
		b, err := os.ReadFile(d)
		require.NoError(t, err)
		if _, err := fmt.Sscanf(string(b), "%d:%d", &major, &minor); err == nil && major != 7 && major != 1 {
			return major, minor
		}
	}
	t.Fatal("no disk in /sys/block")
	return 0, 0
}

// TestKernelKnobs: what this machine's kernel has takes the values, on v1 and on v2.
func TestKernelKnobs(t *testing.T) {
	needRoot(t)
	major, minor := disk(t)
	d := specs.LinuxThrottleDevice{Rate: 1 << 20}
	d.Major, d.Minor = major, minor
	l, err := Detect()
	require.NoError(t, err)
	r := &specs.LinuxResources{
		BlockIO: &specs.LinuxBlockIO{ThrottleReadBpsDevice: []specs.LinuxThrottleDevice{d}, ThrottleWriteBpsDevice: []specs.LinuxThrottleDevice{d}},
		CPU:     &specs.LinuxCPU{Quota: ptr(int64(20000)), Period: ptr(uint64(50000)), Mems: "0"},
		Memory:  &specs.LinuxMemory{Limit: ptr(int64(64 << 20)), CheckBeforeUpdate: ptr(true)},
	}
	g, err := Create(fmt.Sprintf("/coble-test-%d/knobs", os.Getpid()), r)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, g.Remove())
		g.Path = filepath.Dir(g.Path)
		require.NoError(t, g.Remove())
	})
	name, want := "blkio.throttle.read_bps_device", fmt.Sprintf("%d:%d 1048576", major, minor)
	if l.Unified {
		name, want = "io.max", fmt.Sprintf("%d:%d rbps=1048576 wbps=1048576 riops=max wiops=max", major, minor)
	}
	got, err := g.read(map[bool]string{false: "blkio", true: "io"}[l.Unified], name)
	require.NoError(t, err)
	require.Equal(t, want, got)
	// From one pair of quota and period to another, each of whose parts alone does not go with the old other.
	for _, c := range [][2]int64{{1000, 1000}, {900000, 1000000}, {1000, 1000}} {
		err := g.Update(&specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: &c[0], Period: ptr(uint64(c[1]))}})
		require.NoError(t, err, "%v", c)
	}
	if !g.exists("cpu", map[bool]string{false: "cpu.cfs_burst_us", true: "cpu.max.burst"}[l.Unified]) {
		return // before Linux 5.14
	}
	require.NoError(t, g.Update(&specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: ptr(int64(500000)), Period: ptr(uint64(100000)), Burst: ptr(uint64(400000))}}))
	require.NoError(t, g.Update(&specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: ptr(int64(50000)), Burst: ptr(uint64(40000))}}))
}

// TestRealtime: the groups above get what the group needs, on v1 kernels that divide real time.
func TestRealtime(t *testing.T) {
	needRoot(t)
	l, err := Detect()
	require.NoError(t, err)
	if l.Unified {
		t.Skip("cgroup v2 has no real-time limits: TestLimits2 holds the error")
	}
	r := &specs.LinuxResources{CPU: &specs.LinuxCPU{RealtimeRuntime: ptr(int64(1000)), RealtimePeriod: ptr(uint64(500000))}}
	top := Group{Path: "/", layout: l}
	if !top.exists("cpu", "cpu.rt_runtime_us") {
		_, err = Create(fmt.Sprintf("/coble-test-%d/inner", os.Getpid()), r)
		require.ErrorContains(t, err, "CONFIG_RT_GROUP_SCHED")
		above, err := Open(fmt.Sprintf("/coble-test-%d", os.Getpid()))
		require.NoError(t, err)
		require.NoError(t, above.Remove())
		return
	}
	g := legacy(t, r)
	got, err := g.read("cpu", "cpu.rt_runtime_us")
	require.NoError(t, err)
	require.Equal(t, "1000", got)
}

// TestDevicesUnderSignals: a signal would cut the kernel's check of a program short.
func TestDevicesUnderSignals(t *testing.T) {
	needRoot(t)
	var top string
	for _, p := range []string{"/sys/fs/cgroup/unified", "/sys/fs/cgroup"} {
		if _, err := os.Stat(p + "/cgroup.procs"); err == nil && top == "" {
			top = p
		}
	}
	if top == "" {
		t.Skip("needs a cgroup v2 hierarchy")
	}
	dir := top + "/coble-signals"
	require.NoError(t, os.Mkdir(dir, 0o755))
	defer func() { require.NoError(t, os.Remove(dir)) }()
	f, err := os.Open(dir)
	require.NoError(t, err)
	defer f.Close()
	var rules []specs.LinuxDeviceCgroup
	for i := range int64(20) { // all that a filter may hold takes longer to check
		rules = append(rules, specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: ptr(int64(1)), Minor: ptr(i), Access: "rwm"})
	}
	prog := deviceProgram(rules)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	tid, quit, done := unix.Gettid(), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-quit:
				return
			default:
				_ = unix.Tgkill(os.Getpid(), tid, unix.SIGURG)
			}
		}
	}()
	for range 40 { // a folder holds 64 programs
		require.NoError(t, attachDevices(int(f.Fd()), prog))
	}
	close(quit)
	<-done
}
