package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/pflag"
)

func setupPause(a *app, _ *pflag.FlagSet) func(context.Context, []string) error {
	return func(ctx context.Context, args []string) error {
		return a.locked(args[0], func(r *record) error {
			if s := r.status(); s != specs.StateRunning && s != specs.StateCreated {
				return errNotRunning
			}
			g, err := r.group()
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(ctx, endLimit)
			defer cancel()
			return g.Freeze(ctx)
		})
	}
}

func setupResume(a *app, _ *pflag.FlagSet) func(context.Context, []string) error {
	return func(_ context.Context, args []string) error {
		return a.locked(args[0], func(r *record) error {
			if r.status() != statusPaused {
				return errNotPaused
			}
			g, err := r.group()
			if err != nil {
				return err
			}
			return g.Thaw()
		})
	}
}

// locked runs f with a container's record and its lock held.
func (a *app) locked(id string, f func(*record) error) error {
	unlock, err := a.lock(id)
	if err != nil {
		return err
	}
	defer unlock()
	r, err := a.load(id)
	if err != nil {
		return err
	}
	return f(r)
}

// updateFlags are the limits that have a flag, in the flags' order.
type updateFlags struct {
	file                                   string
	blkioWeight                            uint16
	period, share, rtPeriod                uint64
	quota, rtRuntime                       int64
	cpus, mems                             string
	memory, reservation, swap, pids        int64
	kernelMemory, kernelTCP, cache, memBws string
	burst                                  uint64
	idle                                   int64
}

func setupUpdate(a *app, f *pflag.FlagSet) func(context.Context, []string) error {
	u := &updateFlags{}
	f.StringVarP(&u.file, "resources", "r", "", "file with the limits as JSON (the spec's linux.resources), - for standard input")
	f.Uint16Var(&u.blkioWeight, "blkio-weight", 0, "weight in block I/O, 10 to 1000")
	f.Uint64Var(&u.period, "cpu-period", 0, "period of the quota, in microseconds")
	f.Int64Var(&u.quota, "cpu-quota", 0, "processor time in a period, in microseconds")
	f.Uint64Var(&u.burst, "cpu-burst", 0, "processor time beyond the quota, in microseconds")
	f.Uint64Var(&u.share, "cpu-share", 0, "weight in processor time")
	f.Uint64Var(&u.rtPeriod, "cpu-rt-period", 0, "period of real-time processes, in microseconds")
	f.Int64Var(&u.rtRuntime, "cpu-rt-runtime", 0, "processor time of real-time processes in a period, in microseconds")
	f.Int64Var(&u.idle, "cpu-idle", 0, "1: run only when nobody else wants to")
	f.StringVar(&u.cpus, "cpuset-cpus", "", "processors to use")
	f.StringVar(&u.mems, "cpuset-mems", "", "memory nodes to use")
	f.Int64Var(&u.memory, "memory", 0, "limit of memory, in bytes")
	f.Int64Var(&u.reservation, "memory-reservation", 0, "soft limit of memory, in bytes")
	f.Int64Var(&u.swap, "memory-swap", 0, "limit of memory and swap together, in bytes; -1 is none")
	f.Int64Var(&u.pids, "pids-limit", 0, "limit of processes; -1 is none")
	f.StringVar(&u.kernelMemory, "kernel-memory", "", "ignored, as the kernel does")
	f.StringVar(&u.kernelTCP, "kernel-memory-tcp", "", "ignored")
	f.StringVar(&u.cache, "l3-cache-schema", "", "not supported")
	f.StringVar(&u.memBws, "mem-bw-schema", "", "not supported")
	return func(_ context.Context, args []string) error {
		if u.cache != "" || u.memBws != "" {
			return errors.New("--l3-cache-schema and --mem-bw-schema are not supported")
		}
		return a.locked(args[0], func(r *record) error {
			if r.status() == specs.StateStopped {
				return errNotRunning
			}
			limits, err := u.resources(a.in, f.Changed)
			if err != nil {
				return err
			}
			return a.update(r, limits)
		})
	}
}

// update changes the limits, and systemd's mind about them.
func (a *app) update(r *record, limits *specs.LinuxResources) error {
	g, err := r.group()
	if err != nil {
		return err
	}
	limits.Devices = nil // as with runc, devices stay what they are
	if err := setUnitLimits(r.Scope, limits, g.Unified()); err != nil {
		return err
	}
	if err := g.Update(limits); err != nil {
		return err
	}
	return nil
}

// resources reads the file, or the flags that were given.
func (u *updateFlags) resources(in io.Reader, given func(string) bool) (*specs.LinuxResources, error) {
	r := &specs.LinuxResources{}
	if u.file == "" {
		u.flagged(r, given)
		return r, nil
	}
	b, err := []byte(nil), error(nil)
	if u.file == "-" {
		b, err = io.ReadAll(in)
	} else {
		b, err = os.ReadFile(u.file)
	}
	if err != nil {
		return nil, fmt.Errorf("read limits: %w", err)
	}
	if err := json.Unmarshal(b, r); err != nil {
		return nil, fmt.Errorf("parse limits: %w", err)
	}
	withoutZeros(r)
	return r, nil
}

func pick[T any](given bool, v *T) *T {
	if !given {
		return nil
	}
	return v
}

func (u *updateFlags) flagged(r *specs.LinuxResources, given func(string) bool) {
	r.Memory = &specs.LinuxMemory{
		Limit:       pick(given("memory"), &u.memory),
		Reservation: pick(given("memory-reservation"), &u.reservation),
		Swap:        pick(given("memory-swap"), &u.swap),
	}
	r.CPU = &specs.LinuxCPU{
		Shares: pick(given("cpu-share"), &u.share), Quota: pick(given("cpu-quota"), &u.quota),
		Period: pick(given("cpu-period"), &u.period), Burst: pick(given("cpu-burst"), &u.burst),
		RealtimePeriod: pick(given("cpu-rt-period"), &u.rtPeriod), RealtimeRuntime: pick(given("cpu-rt-runtime"), &u.rtRuntime),
		Idle: pick(given("cpu-idle"), &u.idle), Cpus: u.cpus, Mems: u.mems,
	}
	if given("pids-limit") {
		r.Pids = &specs.LinuxPids{Limit: &u.pids}
	}
	if given("blkio-weight") {
		r.BlockIO = &specs.LinuxBlockIO{Weight: &u.blkioWeight}
	}
}

// withoutZeros drops what callers write for "unchanged" in a file of limits.
func withoutZeros(r *specs.LinuxResources) {
	if m := r.Memory; m != nil {
		drop(&m.Limit)
		drop(&m.Reservation)
		drop(&m.Swap)
		//lint:ignore SA1019 the fields are deprecated, and ignored
		m.Kernel, m.KernelTCP = nil, nil
	}
	if c := r.CPU; c != nil {
		drop(&c.Shares)
		drop(&c.Quota)
		drop(&c.Period)
		drop(&c.RealtimePeriod)
		drop(&c.RealtimeRuntime)
	}
	if b := r.BlockIO; b != nil {
		drop(&b.Weight)
		if b.Weight == nil && b.LeafWeight == nil && len(b.WeightDevice)+len(b.ThrottleReadBpsDevice)+
			len(b.ThrottleWriteBpsDevice)+len(b.ThrottleReadIOPSDevice)+len(b.ThrottleWriteIOPSDevice) == 0 {
			r.BlockIO = nil
		}
	}
	if p := r.Pids; p != nil && p.Limit != nil && *p.Limit == 0 {
		r.Pids = nil
	}
}

func drop[T comparable](p **T) {
	var zero T
	if *p != nil && **p == zero {
		*p = nil
	}
}
