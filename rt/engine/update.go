package engine

import (
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"github.com/coble-os/coble/rt/execdriver"
	"github.com/coble-os/coble/rt/fault"
	"github.com/coble-os/coble/rt/job"
	"github.com/coble-os/coble/rt/networkdriver"
	"github.com/coble-os/coble/rt/request"
	"github.com/coble-os/coble/rt/store"
)

// UpdateIn asks for other limits, or another restart policy. What is zero stays as it is.
type UpdateIn struct {
	Ref    string
	Limits container.Resources
	Policy container.RestartPolicy

	Bandwidth networkdriver.BandwidthIn
}

// update changes a container, live if it runs. The kernel is told first: what the record says, holds.
func (e *Engine) update(_ *job.Job, in UpdateIn) (any, error) {
	c, err := e.find(in.Ref)
	if err != nil {
		return nil, err
	}
	c.Op.Lock()
	defer c.Op.Unlock()
	host := c.Spec().Host
	if host.Resources, err = updatedLimits(host.Resources, in.Limits); err != nil {
		return nil, err
	}
	if in.Policy.Name != "" {
		if host.AutoRemove && in.Policy.Name != container.RestartPolicyDisabled {
			return nil, fault.New(fault.Conflict, "Restart policy cannot be updated because AutoRemove is enabled for the container")
		}
		if err := request.CheckRestartPolicy(in.Policy, false); err != nil {
			return nil, err
		}
		host.RestartPolicy = in.Policy
	}
	bandwidth, err := c.e.Net.SetBandwidth(c.Container, in.Bandwidth)
	if err != nil {
		return nil, err
	}
	if c.Running() {
		if err := e.Exec.Limit(c.Container, host.Resources); err != nil {
			if bandwidth != c.Spec().Bandwidth {
				c.e.Net.Limit(c.Container, c.Spec().Bandwidth)
			}
			return nil, fault.New(fault.Conflict, "update container %s: %w", c.Spec().Name, err)
		}
	}
	if err := c.SetSpec(func(s *store.Spec) { s.Host, s.Bandwidth = host, bandwidth }); err != nil {
		return nil, err
	}
	c.emit(events.ActionUpdate, nil)
	return nil, nil
}

// updatedLimits is pure: the limits after an update, if they go together and with the machine.
func updatedLimits(old, change container.Resources) (container.Resources, error) {
	if change.Memory > 0 && change.MemorySwap == 0 && old.MemorySwap > 0 && change.Memory > old.MemorySwap {
		return old, fault.New(fault.Invalid, "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time")
	}
	if change.NanoCPUs != 0 && (old.CPUPeriod != 0 || old.CPUQuota != 0) {
		return old, fault.New(fault.Conflict, "Conflicting options: Nano CPUs cannot be updated as CPU period or quota has already been set")
	}
	merged := request.MergeLimits(old, change)
	return merged, request.CheckLimits(merged, execdriver.Machine())
}
