package cgroup

import (
	"fmt"
	"maps"
	"slices"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// blockIO sets weights and throttles of disks.
func (g *Group) blockIO(r *specs.LinuxResources) error {
	b := r.BlockIO
	if b == nil {
		return nil
	}
	set := g.weights1
	if g.layout.Unified {
		set = g.weights2
	}
	if err := set(b); err != nil {
		return err
	}
	for _, t := range []struct {
		v1, v2 string
		list   []specs.LinuxThrottleDevice
	}{
		{"read_bps", "rbps", b.ThrottleReadBpsDevice},
		{"write_bps", "wbps", b.ThrottleWriteBpsDevice},
		{"read_iops", "riops", b.ThrottleReadIOPSDevice},
		{"write_iops", "wiops", b.ThrottleWriteIOPSDevice},
	} {
		for _, d := range t.list {
			if err := g.throttle(t.v1, t.v2, d); err != nil {
				return err
			}
		}
	}
	return nil
}

// throttle limits one disk to bytes or accesses a second; 0 lifts the limit.
func (g *Group) throttle(v1, v2 string, d specs.LinuxThrottleDevice) error {
	if !g.layout.Unified {
		return g.write("blkio", "blkio.throttle."+v1+"_device", fmt.Sprintf("%d:%d %d", d.Major, d.Minor, d.Rate))
	}
	rate := "max"
	if d.Rate > 0 {
		rate = strconv.FormatUint(d.Rate, 10)
	}
	return g.write("io", "io.max", fmt.Sprintf("%d:%d %s=%s", d.Major, d.Minor, v2, rate))
}

// weights1 writes to the files of the CFQ scheduler or, where that is gone (since 5.0), to those of BFQ, which has no
// weights for leaves.
func (g *Group) weights1(b *specs.LinuxBlockIO) error {
	name := "blkio.weight"
	if !g.exists("blkio", name) {
		name = "blkio.bfq.weight"
	}
	if err := g.write16("blkio", name, b.Weight); err != nil {
		return err
	}
	if err := g.write16("blkio", "blkio.leaf_weight", b.LeafWeight); err != nil {
		return err
	}
	for _, d := range b.WeightDevice {
		if err := g.deviceWeight("blkio", name+"_device", d.Major, d.Minor, d.Weight); err != nil {
			return err
		}
		if err := g.deviceWeight("blkio", "blkio.leaf_weight_device", d.Major, d.Minor, d.LeafWeight); err != nil {
			return err
		}
	}
	return nil
}

// weights2 writes to BFQ's file if there is one, which has the range of v1 (1 to 1000), else to that of the cost model.
func (g *Group) weights2(b *specs.LinuxBlockIO) error {
	bfq := g.exists("io", "io.bfq.weight")
	name, convert := "io.weight", ioWeight
	if bfq {
		name, convert = "io.bfq.weight", func(w uint16) uint64 { return uint64(w) }
	}
	if isSet16(b.LeafWeight) {
		return fmt.Errorf("leafWeight: %w", errNone)
	}
	if isSet16(b.Weight) {
		if err := g.write("io", name, fmt.Sprintf("default %d", convert(*b.Weight))); err != nil {
			return err
		}
	}
	for _, d := range b.WeightDevice {
		if isSet16(d.LeafWeight) {
			return fmt.Errorf("weightDevice.leafWeight: %w", errNone)
		}
		if !isSet16(d.Weight) {
			continue
		}
		if err := g.write("io", name, fmt.Sprintf("%d:%d %d", d.Major, d.Minor, convert(*d.Weight))); err != nil {
			return err
		}
	}
	return nil
}

// ioWeight maps a v1 weight (10 to 1000) to a v2 one (1 to 10000), linearly, as runtimes do.
func ioWeight(w uint16) uint64 {
	v := uint64(min(max(w, 10), 1000))
	return 1 + (v-10)*9999/990
}

func (g *Group) write16(controller, name string, v *uint16) error {
	if !isSet16(v) {
		return nil
	}
	return g.write(controller, name, strconv.FormatUint(uint64(*v), 10))
}

func (g *Group) deviceWeight(controller, name string, major, minor int64, v *uint16) error {
	if !isSet16(v) {
		return nil
	}
	return g.write(controller, name, fmt.Sprintf("%d:%d %d", major, minor, *v))
}

// hugetlb limits huge pages, in bytes of each size, those that are reserved too where the kernel can (5.7).
func (g *Group) hugetlb(r *specs.LinuxResources) error {
	suffix := map[bool]string{false: ".limit_in_bytes", true: ".max"}[g.layout.Unified]
	for _, l := range r.HugepageLimits {
		if !pageSize(l.Pagesize) {
			return fmt.Errorf("%q is no size of a page, such as 2MB", l.Pagesize)
		}
		v := strconv.FormatUint(l.Limit, 10)
		if err := g.write("hugetlb", "hugetlb."+l.Pagesize+suffix, v); err != nil {
			return err
		}
		if reserved := "hugetlb." + l.Pagesize + ".rsvd" + suffix; g.exists("hugetlb", reserved) {
			if err := g.write("hugetlb", reserved, v); err != nil {
				return err
			}
		}
	}
	return nil
}

func pageSize(s string) bool {
	n := len(s) - 2
	if n < 1 || s[n:] != "KB" && s[n:] != "MB" && s[n:] != "GB" {
		return false
	}
	_, err := strconv.ParseUint(s[:n], 10, 32)
	return err == nil
}

// network marks packets with a class, and gives them priorities by link. v2 has neither: there iptables and nftables
// match the group itself.
func (g *Group) network(r *specs.LinuxResources) error {
	n := r.Network
	if n == nil || (n.ClassID == nil || *n.ClassID == 0) && len(n.Priorities) == 0 {
		return nil
	}
	if g.layout.Unified {
		return errNone
	}
	if n.ClassID != nil && *n.ClassID != 0 {
		if err := g.write("net_cls", "net_cls.classid", strconv.FormatUint(uint64(*n.ClassID), 10)); err != nil {
			return err
		}
	}
	for _, p := range n.Priorities {
		if err := g.write("net_prio", "net_prio.ifpriomap", fmt.Sprintf("%s %d", p.Name, p.Priority)); err != nil {
			return err
		}
	}
	return nil
}

// rdma limits handles and objects of each adapter; what is not given is unlimited.
func (g *Group) rdma(r *specs.LinuxResources) error {
	for _, device := range slices.Sorted(maps.Keys(r.Rdma)) {
		l, text := r.Rdma[device], device
		for _, v := range []struct {
			name string
			n    *uint32
		}{{"hca_handle", l.HcaHandles}, {"hca_object", l.HcaObjects}} {
			if v.n != nil {
				text += fmt.Sprintf(" %s=%d", v.name, *v.n)
			}
		}
		if err := g.write("rdma", "rdma.max", text); err != nil {
			return err
		}
	}
	return nil
}
