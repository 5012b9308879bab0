package cgroup

import (
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// kernelOption names what a kernel without a controller was built or started without.
func kernelOption(c string) string {
	switch c {
	case "cpu":
		return "CONFIG_CGROUP_SCHED (with CONFIG_CFS_BANDWIDTH for quotas)"
	case "memory":
		return "CONFIG_MEMCG (perhaps cgroup_enable=memory on the kernel command line)"
	case "blkio", "io":
		return "CONFIG_BLK_CGROUP"
	case "cpuset":
		return "CONFIG_CPUSETS"
	case "devices":
		return "CONFIG_CGROUP_DEVICE"
	case "net_cls":
		return "CONFIG_CGROUP_NET_CLASSID (or its v1 hierarchy is not mounted)"
	case "net_prio":
		return "CONFIG_CGROUP_NET_PRIO (or its v1 hierarchy is not mounted)"
	case "hugetlb":
		return "CONFIG_CGROUP_HUGETLB (or its hierarchy is not mounted)"
	default:
		return "CONFIG_CGROUP_" + strings.ToUpper(c)
	}
}

// fileOption names, in brackets, what a kernel without a control file lacks, where that is known.
func fileOption(name string) string {
	switch {
	case strings.HasPrefix(name, "memory.memsw"), strings.HasPrefix(name, "memory.swap"):
		return " (CONFIG_SWAP, CONFIG_MEMCG_SWAP, swapaccount=1 on the kernel command line)"
	case strings.HasPrefix(name, "cpu.rt_"):
		return " (CONFIG_RT_GROUP_SCHED)"
	case strings.HasPrefix(name, "cpu.cfs_burst"), name == "cpu.max.burst":
		return " (Linux 5.14, CONFIG_CFS_BANDWIDTH)"
	case name == "cpu.idle":
		return " (Linux 5.15, CONFIG_FAIR_GROUP_SCHED)"
	case strings.HasPrefix(name, "cpu.cfs_"), name == "cpu.max":
		return " (CONFIG_CFS_BANDWIDTH)"
	case strings.Contains(name, "throttle"), name == "io.max":
		return " (CONFIG_BLK_DEV_THROTTLING)"
	case strings.HasPrefix(name, "blkio.") && strings.Contains(name, "weight"), name == "io.weight":
		return " (CONFIG_BFQ_GROUP_IOSCHED, or on v2 CONFIG_BLK_CGROUP_IOCOST)"
	case strings.HasPrefix(name, "hugetlb."):
		return " (no pages of this size)"
	case strings.HasPrefix(name, "memory.kmem"):
		return " (kernel memory has no limit of its own since Linux 6.16)"
	}
	return ""
}

// neededIn lists the controllers that limits need, by their names in v1 or v2.
func neededIn(r *specs.LinuxResources, unified bool) []string {
	if r == nil {
		return nil
	}
	var out []string
	add := func(c string, need bool) {
		if need && !slices.Contains(out, c) {
			out = append(out, c)
		}
	}
	add("memory", r.Memory != nil && memoryNeeds(r.Memory))
	if c := r.CPU; c != nil {
		add("cpu", c.Shares != nil || c.Quota != nil || c.Period != nil || c.Burst != nil || c.Idle != nil ||
			isSet(c.RealtimePeriod) || c.RealtimeRuntime != nil && *c.RealtimeRuntime != 0)
		add("cpuset", c.Cpus != "" || c.Mems != "")
	}
	add("pids", r.Pids != nil)
	block := map[bool]string{false: "blkio", true: "io"}[unified]
	add(block, r.BlockIO != nil && blockNeeds(r.BlockIO))
	add("hugetlb", len(r.HugepageLimits) > 0)
	add("rdma", len(r.Rdma) > 0)
	if n := r.Network; n != nil && !unified { // v2 has none, which the write says
		add("net_cls", n.ClassID != nil && *n.ClassID != 0)
		add("net_prio", len(n.Priorities) > 0)
	}
	for k := range r.Unified {
		if c, _, ok := strings.Cut(k, "."); ok && unified && c != "cgroup" {
			add(c, true)
		}
	}
	slices.Sort(out)
	return out
}

func memoryNeeds(m *specs.LinuxMemory) bool {
	return m.Limit != nil || m.Reservation != nil || m.Swap != nil || m.Swappiness != nil || m.DisableOOMKiller != nil ||
		m.KernelTCP != nil
}

func blockNeeds(b *specs.LinuxBlockIO) bool {
	return isSet16(b.Weight) || isSet16(b.LeafWeight) || len(b.WeightDevice) > 0 || len(b.ThrottleReadBpsDevice) > 0 ||
		len(b.ThrottleWriteBpsDevice) > 0 || len(b.ThrottleReadIOPSDevice) > 0 || len(b.ThrottleWriteIOPSDevice) > 0
}

func isSet(v *uint64) bool { return v != nil && *v != 0 }

func isSet16(v *uint16) bool { return v != nil && *v != 0 }

func isSetInt(v *int64) bool { return v != nil && *v != 0 }
