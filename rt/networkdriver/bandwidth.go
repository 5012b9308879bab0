package networkdriver

import (
	"fmt"

	"github.com/coble-os/coble/netcfg"
	"github.com/coble-os/coble/rt/containers"
	"github.com/coble-os/coble/rt/fault"
	"github.com/coble-os/coble/rt/request"
	"github.com/coble-os/coble/rt/store"
)

// Bandwidth is that of a container's record, for those who do not know of records.
type Bandwidth = store.Bandwidth

// limit makes b what one link of a container may do.
func limit(spec store.Spec, end store.End, pid int, b store.Bandwidth) error {
	err := withModules(netcfg.ShaperModules, func() error { return netcfg.Limit(end.HostIf, pid, end.IfName, netcfg.Bandwidth(b)) })
	if err != nil {
		return fault.As(fault.Conflict, fmt.Errorf("limit the bandwidth of container %s in network %s: %w", spec.Name, end.Name, err))
	}
	return nil
}

// BandwidthIn asks for other limits, in bits per second; nil: as it is.
type BandwidthIn struct{ In, Out *uint64 }

// SetBandwidth limits all links of a container, if it runs, and puts back what was if that fails with one. The record is the caller's
// to change.
func (d *Driver) SetBandwidth(c *containers.Container, change BandwidthIn) (store.Bandwidth, error) {
	spec := c.Spec()
	b := spec.Bandwidth
	if change.In != nil {
		b.In = *change.In
	}
	if change.Out != nil {
		b.Out = *change.Out
	}
	if err := request.CheckBandwidth(b, spec.Host.NetworkMode); err != nil || b == spec.Bandwidth || !c.Running() {
		return b, err
	}
	err := d.Limit(c, b)
	if err != nil {
		d.Limit(c, spec.Bandwidth)
	}
	return b, err
}

// Limit makes b what each link of a running container may do.
func (d *Driver) Limit(c *containers.Container, b store.Bandwidth) error {
	for _, end := range d.ends(c) {
		if err := limit(c.Spec(), end, c.View().State.Pid, b); err != nil {
			return err
		}
	}
	return nil
}
