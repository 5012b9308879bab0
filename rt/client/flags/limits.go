package flags

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/blkiodev"
	"github.com/moby/moby/api/types/container"
	"github.com/spf13/pflag"

	"github.com/coble-os/coble/configs"
)

// Limits of memory, processors, processes and block I/O: run, create and update share them.
type Limits struct {
	memory, memorySwap, memoryReservation, cpuSet, memSet string
	cpus                                                  float64
	pids, shares, period, quota                           int64
	weight                                                uint16
}

// AddLimits declares them.
func AddLimits(f *pflag.FlagSet) *Limits {
	l := &Limits{}
	f.StringVarP(&l.memory, "memory", "m", "", "memory limit, such as 32m")
	f.StringVar(&l.memorySwap, "memory-swap", "", "memory and swap together; -1 for no limit")
	f.StringVar(&l.memoryReservation, "memory-reservation", "", "memory that it keeps when the machine runs short")
	f.Float64Var(&l.cpus, "cpus", 0, "processors, such as 0.5")
	f.Int64VarP(&l.shares, "cpu-shares", "c", 0, "share of the processors against other containers (1024 is usual)")
	f.Int64Var(&l.period, "cpu-period", 0, "period of the processor quota in microseconds")
	f.Int64Var(&l.quota, "cpu-quota", 0, "processor quota in microseconds of each period")
	f.StringVar(&l.cpuSet, "cpuset-cpus", "", "processors it may use, such as 0-1,3")
	f.StringVar(&l.memSet, "cpuset-mems", "", "memory nodes it may use")
	f.Int64Var(&l.pids, "pids-limit", 0, "how many processes it may have; -1 for no limit")
	f.Uint16Var(&l.weight, "blkio-weight", 0, "share of block I/O, 10 to 1000")
	return l
}

// Rates are of bandwidth: coble's own flags, of run, create and update.
type Rates struct{ in, out string }

// Bandwidth is what the engine is asked for, in bits per second; nil: nothing is said.
type Bandwidth struct {
	In  *uint64 `json:",omitempty"`
	Out *uint64 `json:",omitempty"`
}

// AddRates declares them.
func AddRates(f *pflag.FlagSet) *Rates {
	b := &Rates{}
	f.StringVar(&b.in, "bandwidth-in", "", "what it may receive on each of its links per second, such as 10mbit; 0 for no limit")
	f.StringVar(&b.out, "bandwidth-out", "", "what it may send on each of its links per second")
	return b
}

// Read is called after the flags were parsed.
func (b *Rates) Read() (out Bandwidth, err error) {
	for _, r := range []struct {
		flag, text string
		into       **uint64
	}{{"bandwidth-in", b.in, &out.In}, {"bandwidth-out", b.out, &out.Out}} {
		if r.text == "" {
			continue
		}
		n, err := configs.ParseRate(r.text)
		if err != nil {
			return out, fmt.Errorf("--%s %w", r.flag, err)
		}
		bits := uint64(n)
		*r.into = &bits
	}
	return out, nil
}

// bytesOf reads 32m; -1 stays itself.
func bytesOf(what, s string) (int64, error) {
	if s == "" || s == "-1" {
		n, _ := strconv.ParseInt(s, 10, 64)
		return n, nil
	}
	n, err := units.RAMInBytes(s)
	if err != nil {
		return 0, fmt.Errorf("%s %q: %w", what, s, err)
	}
	return n, nil
}

// Into sets what was asked for.
func (l *Limits) Into(r *container.Resources) (err error) {
	if r.Memory, err = bytesOf("memory limit", l.memory); err != nil {
		return err
	}
	if r.MemorySwap, err = bytesOf("swap limit", l.memorySwap); err != nil {
		return err
	}
	if r.MemoryReservation, err = bytesOf("memory reservation", l.memoryReservation); err != nil {
		return err
	}
	r.NanoCPUs, r.CPUShares, r.CPUPeriod, r.CPUQuota = int64(l.cpus*1e9), l.shares, l.period, l.quota
	r.CpusetCpus, r.CpusetMems, r.BlkioWeight = l.cpuSet, l.memSet, l.weight
	if l.pids != 0 {
		r.PidsLimit = &l.pids
	}
	return nil
}

// deviceFlags are of devices, for run and create.
type deviceFlags struct {
	devices, rules, readBps, writeBps, readIOps, writeIOps, ulimits []string
}

func addDeviceFlags(f *pflag.FlagSet) *deviceFlags {
	d := &deviceFlags{}
	f.StringArrayVar(&d.devices, "device", nil, "host-path[:container-path[:rwm]]")
	f.StringArrayVar(&d.rules, "device-cgroup-rule", nil, "device rule, such as \"c 1:11 rwm\"")
	f.StringArrayVar(&d.readBps, "device-read-bps", nil, "path:bytes per second, such as /dev/sda:1mb")
	f.StringArrayVar(&d.writeBps, "device-write-bps", nil, "path:bytes per second")
	f.StringArrayVar(&d.readIOps, "device-read-iops", nil, "path:operations per second")
	f.StringArrayVar(&d.writeIOps, "device-write-iops", nil, "path:operations per second")
	f.StringArrayVar(&d.ulimits, "ulimit", nil, "name=soft[:hard], such as nofile=1024")
	return d
}

func (d *deviceFlags) into(r *container.Resources) (err error) {
	for _, s := range d.devices {
		r.Devices = append(r.Devices, parseDevice(s))
	}
	r.DeviceCgroupRules = d.rules
	for _, t := range []struct {
		flags []string
		into  *[]*blkiodev.ThrottleDevice
		rate  func(string) (int64, error)
	}{
		{d.readBps, &r.BlkioDeviceReadBps, units.RAMInBytes},
		{d.writeBps, &r.BlkioDeviceWriteBps, units.RAMInBytes},
		{d.readIOps, &r.BlkioDeviceReadIOps, plainNumber},
		{d.writeIOps, &r.BlkioDeviceWriteIOps, plainNumber},
	} {
		for _, s := range t.flags {
			path, text, ok := strings.Cut(s, ":")
			n, err := t.rate(text)
			if !ok || err != nil || n < 0 {
				return fmt.Errorf("rate %q: want path:rate, such as /dev/sda:1mb", s)
			}
			*t.into = append(*t.into, &blkiodev.ThrottleDevice{Path: path, Rate: uint64(n)})
		}
	}
	for _, s := range d.ulimits {
		u, err := units.ParseUlimit(s)
		if err != nil {
			return err
		}
		r.Ulimits = append(r.Ulimits, u)
	}
	return nil
}

func plainNumber(s string) (int64, error) { return strconv.ParseInt(s, 10, 64) }

// parseDevice reads /dev/a[:/dev/b][:rwm].
func parseDevice(s string) container.DeviceMapping {
	parts := strings.SplitN(s, ":", 3)
	d := container.DeviceMapping{PathOnHost: parts[0], PathInContainer: parts[0], CgroupPermissions: "rwm"}
	if len(parts) == 2 && !strings.HasPrefix(parts[1], "/") {
		d.CgroupPermissions = parts[1]
		return d
	}
	if len(parts) > 1 {
		d.PathInContainer = parts[1]
	}
	if len(parts) > 2 {
		d.CgroupPermissions = parts[2]
	}
	return d
}
