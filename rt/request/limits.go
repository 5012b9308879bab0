package request

import (
	"slices"
	"strconv"
	"strings"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"

	"github.com/coble-os/coble/rt/fault"
)

// minMemory is the least that Docker lets a container have, in bytes.
const minMemory = 6 << 20

// CheckLimits refuses limits that contradict each other or that the machine cannot have.
func CheckLimits(r container.Resources, m Machine) error {
	for _, check := range []func(container.Resources, Machine) error{checkMemory, checkCPUs, checkUlimits} {
		if err := check(r, m); err != nil {
			return err
		}
	}
	if w := r.BlkioWeight; w != 0 && (w < 10 || w > 1000) {
		return fault.New(fault.Invalid, "range of blkio weight is from 10 to 1000")
	}
	return nil
}

func checkMemory(r container.Resources, _ Machine) error {
	switch {
	case r.Memory != 0 && r.Memory < minMemory:
		return fault.New(fault.Invalid, "Minimum memory limit allowed is 6MB")
	case r.MemorySwap > 0 && r.Memory == 0:
		return fault.New(fault.Invalid, "You should always set the Memory limit when using Memoryswap limit, see usage")
	case r.MemorySwap > 0 && r.Memory > r.MemorySwap:
		return fault.New(fault.Invalid, "Minimum memoryswap limit should be larger than memory limit, see usage")
	case r.MemoryReservation != 0 && r.MemoryReservation < minMemory:
		return fault.New(fault.Invalid, "Minimum memory reservation allowed is 6MB")
	case r.Memory > 0 && r.MemoryReservation > r.Memory:
		return fault.New(fault.Invalid, "Minimum memory limit can not be less than memory reservation limit, see usage")
	case r.MemorySwappiness != nil && (*r.MemorySwappiness < -1 || *r.MemorySwappiness > 100):
		return fault.New(fault.Invalid, "Invalid value: %d, valid memory swappiness range is 0-100", *r.MemorySwappiness)
	}
	return nil
}

func checkCPUs(r container.Resources, m Machine) error {
	switch {
	case r.NanoCPUs > 0 && (r.CPUPeriod > 0 || r.CPUQuota > 0):
		return fault.New(fault.Invalid, "Conflicting options: Nano CPUs cannot be set together with a CPU period or quota")
	case r.NanoCPUs < 0 || r.NanoCPUs > int64(m.CPUs)*1e9 || r.NanoCPUs > 0 && r.NanoCPUs < 1e7:
		return fault.New(fault.Invalid, "range of CPUs is from 0.01 to %d.00, as there are only %d CPUs available", m.CPUs, m.CPUs)
	case r.CPUPeriod != 0 && (r.CPUPeriod < 1000 || r.CPUPeriod > 1000000):
		return fault.New(fault.Invalid, "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)")
	case r.CPUQuota > 0 && r.CPUQuota < 1000:
		return fault.New(fault.Invalid, "CPU cfs quota can not be less than 1ms (i.e. 1000)")
	}
	if err := checkSet("CPUs", r.CpusetCpus, m.OnlineCPUs); err != nil {
		return err
	}
	return checkSet("memory nodes", r.CpusetMems, m.OnlineMems)
}

// checkSet wants every number of asked among those online.
func checkSet(what, asked, online string) error {
	want, ok := parseSet(asked)
	if !ok {
		return fault.New(fault.Invalid, "invalid value %q for the set of %s: want numbers and ranges such as 0-2,4", asked, what)
	}
	have, ok := parseSet(online)
	if !ok || online == "" {
		return nil
	}
	for _, n := range want {
		if !slices.Contains(have, n) {
			return fault.New(fault.Invalid, "Requested %s are not available - requested %s, available: %s", what, asked, online)
		}
	}
	return nil
}

// maxSet bounds the numbers of a set: no kernel has more processors.
const maxSet = 8192

// parseSet reads "0-2,4".
func parseSet(s string) ([]int, bool) {
	var out []int
	if s == "" {
		return nil, true
	}
	for part := range strings.SplitSeq(s, ",") {
		first, last, ranged := strings.Cut(part, "-")
		if !ranged {
			last = first
		}
		a, err1 := strconv.Atoi(first)
		b, err2 := strconv.Atoi(last)
		if err1 != nil || err2 != nil || a < 0 || b < a || b >= maxSet {
			return nil, false
		}
		for n := a; n <= b; n++ {
			out = append(out, n)
		}
	}
	return out, true
}

func checkUlimits(r container.Resources, _ Machine) error {
	for _, u := range r.Ulimits {
		if _, err := units.ParseUlimit(u.Name + "=" + strconv.FormatInt(u.Soft, 10) + ":" + strconv.FormatInt(u.Hard, 10)); err != nil {
			return fault.As(fault.Invalid, err)
		}
	}
	return nil
}

// MergeLimits is pure: what an update says, over what there is. A zero says nothing.
func MergeLimits(old, change container.Resources) container.Resources {
	number := func(to *int64, v int64) {
		if v != 0 {
			*to = v
		}
	}
	number(&old.Memory, change.Memory)
	number(&old.MemorySwap, change.MemorySwap)
	number(&old.MemoryReservation, change.MemoryReservation)
	number(&old.CPUShares, change.CPUShares)
	number(&old.CPURealtimePeriod, change.CPURealtimePeriod)
	number(&old.CPURealtimeRuntime, change.CPURealtimeRuntime)
	if change.NanoCPUs != 0 {
		old.NanoCPUs, old.CPUPeriod, old.CPUQuota = change.NanoCPUs, 0, 0
	}
	if change.CPUPeriod != 0 || change.CPUQuota != 0 {
		old.NanoCPUs = 0
	}
	number(&old.CPUPeriod, change.CPUPeriod)
	number(&old.CPUQuota, change.CPUQuota)
	if change.CpusetCpus != "" {
		old.CpusetCpus = change.CpusetCpus
	}
	if change.CpusetMems != "" {
		old.CpusetMems = change.CpusetMems
	}
	if change.BlkioWeight != 0 {
		old.BlkioWeight = change.BlkioWeight
	}
	if change.PidsLimit != nil && *change.PidsLimit != 0 {
		old.PidsLimit = change.PidsLimit
	}
	return old
}
