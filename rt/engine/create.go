package engine

import (
	"errors"
	"fmt"

	"github.com/moby/moby/api/types/events"

	"github.com/coble-os/coble/layers/driver"
	"github.com/coble-os/coble/layers/image"
	"github.com/coble-os/coble/rt/containers"
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
	if err := request.Check(in, machine()); err != nil {
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
