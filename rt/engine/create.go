package engine

import (
	"errors"
	"fmt"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"github.com/coble-os/coble/layers/driver"
	"github.com/coble-os/coble/layers/image"
	"github.com/coble-os/coble/rt/containers"
	"github.com/coble-os/coble/rt/execdriver"
	"github.com/coble-os/coble/rt/fault"
	"github.com/coble-os/coble/rt/images"
	"github.com/coble-os/coble/rt/job"
	"github.com/coble-os/coble/rt/request"
	"github.com/coble-os/coble/rt/store"
)

// CreateOut is what became of it.
type CreateOut struct {
	ID       string
	Warnings []string
}

// create makes the record and the writable layer; nothing of the kernel's is touched.
func (e *Engine) create(j *job.Job, in request.Create) (CreateOut, error) {
	if err := request.Check(in, execdriver.Machine()); err != nil {
		return CreateOut{}, err
	}
	if err := e.pinReferences(&in); err != nil {
		return CreateOut{}, err
	}
	img, err := e.Images.Get(in.Config.Image)
	if err != nil {
		return CreateOut{}, images.Error(err)
	}
	if err := images.CheckPlatform(img, in); err != nil {
		return CreateOut{}, err
	}
	id := containers.NewID()
	if in.Name == "" {
		in.Name = e.Containers.FreeName(id)
	}
	spec, err := request.Record(in, img, id, now())
	if err != nil {
		return CreateOut{}, err
	}
	if err := e.Net.Check(&spec); err != nil {
		return CreateOut{}, err
	}
	if _, err := e.o.Logs.Of(spec.Host.LogConfig); err != nil {
		return CreateOut{}, err
	}
	c, err := e.insert(spec)
	if err != nil {
		return CreateOut{}, err
	}
	e.Images.Used(spec.ImageID)
	e.handles(c).emit(events.ActionCreate, nil)
	return CreateOut{ID: spec.ID, Warnings: e.Net.Warnings(spec)}, nil
}

// insert makes the layer and the record.
func (e *Engine) insert(spec store.Spec) (*containers.Container, error) {
	limit, err := request.DiskLimit(spec.Host)
	if err != nil {
		return nil, fmt.Errorf("create container %s: %w", spec.Name, err)
	}
	layer := func() error { return e.Images.CreateLayer(spec.ID, image.ID(spec.ImageID), limit) }
	c, err := e.Containers.Create(spec, layer, func() { e.Images.RemoveLayer(spec.ID) })
	if errors.Is(err, driver.ErrUnsupported) {
		return nil, fault.As(fault.Unsupported, err)
	}
	return c, err
}

// pinReferences makes ids of the names of other containers, which may be renamed. Who shares another's network has its
// host name too.
func (e *Engine) pinReferences(in *request.Create) error {
	h := &in.Host
	pin := func(mode string, member bool, ref string) (string, error) {
		if !member {
			return mode, nil
		}
		other, err := e.find(ref)
		if err != nil {
			return "", err
		}
		return "container:" + other.Spec().ID, nil
	}
	pid, err1 := pin(string(h.PidMode), h.PidMode.IsContainer(), h.PidMode.Container())
	ipc, err2 := pin(string(h.IpcMode), h.IpcMode.IsContainer(), h.IpcMode.Container())
	net, err3 := pin(string(h.NetworkMode), h.NetworkMode.IsContainer(), h.NetworkMode.ConnectedContainer())
	h.PidMode, h.IpcMode, h.NetworkMode = container.PidMode(pid), container.IpcMode(ipc), container.NetworkMode(net)
	if err := errors.Join(err1, err2, err3); err != nil || !h.NetworkMode.IsContainer() {
		return err
	}
	other, err := e.find(h.NetworkMode.ConnectedContainer())
	if err == nil {
		in.Config.Hostname, in.Config.Domainname = other.Spec().Config.Hostname, other.Spec().Config.Domainname
	}
	return err
}
