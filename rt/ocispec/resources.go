package ocispec

import (
	"github.com/moby/moby/api/types/blkiodev"
	"github.com/moby/moby/api/types/container"
	"github.com/opencontainers/runtime-spec/specs-go"
)

func (in *Input) resources() *specs.LinuxResources {
	r := Limits(in.Spec.Host.Resources)
	r.Devices = in.deviceRules()
	r.BlockIO = in.blockIO()
	return r
}

// Limits are those that can be changed while the container runs.
func Limits(h container.Resources) *specs.LinuxResources {
	r := &specs.LinuxResources{Memory: &specs.LinuxMemory{}, CPU: &specs.LinuxCPU{Cpus: h.CpusetCpus, Mems: h.CpusetMems}}
	set := func(to **int64, v int64) {
		if v != 0 {
			*to = &v
		}
	}
	set(&r.Memory.Limit, h.Memory)
	set(&r.Memory.Reservation, h.MemoryReservation)
	set(&r.Memory.Swap, h.MemorySwap)
	if s := h.MemorySwappiness; s != nil && *s >= 0 {
		v := uint64(*s)
		r.Memory.Swappiness = &v
	}
	r.Memory.DisableOOMKiller = h.OomKillDisable
	setUnsigned(&r.CPU.Shares, h.CPUShares)
	setUnsigned(&r.CPU.RealtimePeriod, h.CPURealtimePeriod)
	set(&r.CPU.RealtimeRuntime, h.CPURealtimeRuntime)
	period, quota := h.CPUPeriod, h.CPUQuota
	if h.NanoCPUs != 0 {
		period, quota = 100_000, h.NanoCPUs/10_000
	}
	setUnsigned(&r.CPU.Period, period)
	set(&r.CPU.Quota, quota)
	if h.PidsLimit != nil {
		r.Pids = &specs.LinuxPids{Limit: h.PidsLimit}
	}
	return r
}

func setUnsigned(to **uint64, v int64) {
	if u := uint64(v); v != 0 {
		*to = &u
	}
}

// blockIO is nil where nothing is asked for: a kernel may have no such controller.
func (in *Input) blockIO() *specs.LinuxBlockIO {
	h := in.Spec.Host
	var b specs.LinuxBlockIO
	if w := h.BlkioWeight; w != 0 {
		b.Weight = &w
	}
	for _, d := range h.BlkioWeightDevice {
		n, weight := in.Blocks[d.Path], d.Weight
		w := specs.LinuxWeightDevice{Weight: &weight}
		w.Major, w.Minor = n.Major, n.Minor
		b.WeightDevice = append(b.WeightDevice, w)
	}
	b.ThrottleReadBpsDevice = in.throttle(h.BlkioDeviceReadBps)
	b.ThrottleWriteBpsDevice = in.throttle(h.BlkioDeviceWriteBps)
	b.ThrottleReadIOPSDevice = in.throttle(h.BlkioDeviceReadIOps)
	b.ThrottleWriteIOPSDevice = in.throttle(h.BlkioDeviceWriteIOps)
	if b.Weight == nil && len(BlockPaths(h.Resources)) == 0 {
		return nil
	}
	return &b
}

func (in *Input) throttle(list []*blkiodev.ThrottleDevice) []specs.LinuxThrottleDevice {
	var out []specs.LinuxThrottleDevice
	for _, d := range list {
		n := in.Blocks[d.Path]
		t := specs.LinuxThrottleDevice{Rate: d.Rate}
		t.Major, t.Minor = n.Major, n.Minor
		out = append(out, t)
	}
	return out
}

// BlockPaths are the block devices that limits name.
func BlockPaths(r container.Resources) []string {
	var out []string
	for _, d := range r.BlkioWeightDevice {
		out = append(out, d.Path)
	}
	for _, list := range [][]*blkiodev.ThrottleDevice{r.BlkioDeviceReadBps, r.BlkioDeviceWriteBps, r.BlkioDeviceReadIOps, r.BlkioDeviceWriteIOps} {
		for _, d := range list {
			out = append(out, d.Path)
		}
	}
	return out
}
