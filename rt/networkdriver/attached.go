package networkdriver

import (
	"errors"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/init/boot"
	"github.com/coble-os/coble/netcfg"
	"github.com/coble-os/coble/rt/networks"
	"github.com/coble-os/coble/rt/store"
)

// Networks without a bridge: see netcfg.Attachment.

// makeParent makes sure of the link that a network without a bridge is on, if this is one.
func (d *Driver) makeParent(id string) error {
	a, ok := d.networks.Attachment(id)
	if !ok {
		return nil
	}
	return withModules(a.Modules(), func() error { return d.net.MakeParent(a) })
}

// withModules does what may need a module of the kernel's, again once that is loaded: the kernel asks modprobe(8) for it, which
// an appliance does not have.
func withModules(modules []string, do func() error) error {
	err := do()
	if !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, netcfg.ErrNoShaper) {
		return err
	}
	if missing, lerr := boot.LoadModules(modules); lerr != nil || len(missing) == len(modules) {
		return errors.Join(err, lerr)
	}
	return do()
}

// unplug removes one link of a container that runs on. What has no end on the host is removed from inside.
func (d *Driver) unplug(end store.End, pid int) error {
	if end.HostIf == "" {
		return d.net.Detach(pid, end.IfName)
	}
	return d.net.Unplug(end.HostIf)
}

// unpublished tells whether the ways out lead through networks without a bridge, where containers are reached at their own
// addresses only.
func (d *Driver) unpublished(out routes) bool {
	_, four := d.networks.Attachment(out.four)
	_, six := d.networks.Attachment(out.six)
	return (four || out.four == "") && (six || out.six == "") && (four || six)
}

// Warnings says which ports will not be published, of a container that is yet to start.
func (d *Driver) Warnings(spec store.Spec) []string {
	var drivers []string
	for name := range spec.Networks {
		n, err := d.networks.Get(name)
		if err != nil || n.Driver == "bridge" || networks.Predefined(n.Name) {
			return []string{}
		}
		drivers = append(drivers, n.Driver)
	}
	if len(drivers) == 0 || len(published(spec)) == 0 {
		return []string{}
	}
	return []string{"Published ports are discarded: in a network of the driver " + strings.Join(drivers, ", ") + " the container is reached at its own address"}
}
