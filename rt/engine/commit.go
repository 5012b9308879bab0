package engine

import (
	"fmt"
	"os"
	"slices"

	"github.com/moby/moby/api/types/events"

	"github.com/coble-os/coble/layers/archive"
	"github.com/coble-os/coble/layers/driver"
	"github.com/coble-os/coble/layers/image"
	"github.com/coble-os/coble/layers/repo"
	"github.com/coble-os/coble/rt/images"
	"github.com/coble-os/coble/rt/job"
	"github.com/coble-os/coble/rt/request"
)

// CommitIn asks for an image of a container's changes.
type CommitIn struct {
	Ref   string
	Name  string // of the image; empty: none
	Pause bool   // freeze the container meanwhile, if it runs
	request.Commit
}

func (e *Engine) commit(j *job.Job, in CommitIn) (image.ID, error) {
	c, err := e.find(in.Ref)
	if err != nil {
		return "", err
	}
	spec := c.Spec()
	base, err := e.Images.Get(spec.ImageID)
	if err != nil {
		return "", images.Error(err)
	}
	img, err := request.Committed(base, spec, in.Commit, now())
	if err != nil {
		return "", err
	}
	c.Op.Lock()
	defer c.Op.Unlock()
	if c.View().State.Status == "running" && in.Pause {
		if err := e.Exec.Freeze(j.Context(), c.Container); err != nil {
			return "", err
		}
		defer func() {
			if err := e.Exec.Thaw(c.Container); err != nil {
				e.log.Error("let container go on after commit", "container", spec.Name, "err", err)
			}
		}()
	}
	id, err := e.Images.Commit(j.Context(), spec.ID, repo.NewImage{Config: request.Encoder(img), Name: in.Name})
	if err != nil {
		return "", images.ArchiveError(err)
	}
	e.Images.Used(id.String())
	e.Images.CollectSoon()
	c.emit(events.ActionCommit, map[string]string{"comment": in.Comment, "imageID": id.String(), "imageRef": in.Name})
	return id, nil
}

// export writes a container's root file system, without what is mounted on it, to the job's Stdout as a tar stream.
func (e *Engine) export(j *job.Job, ref string) (any, error) {
	c, err := e.find(ref)
	if err != nil {
		return nil, err
	}
	err = e.Exec.WithRoot(c.Container, false, func(root *os.File) error {
		return archive.Pack(j.Context(), root, ".", j.Stdout, archive.PackOptions{Marks: archive.NoMarks})
	})
	if err != nil {
		return nil, fmt.Errorf("export container %s: %w", c.Spec().Name, err)
	}
	c.emit(events.ActionExport, nil)
	return nil, nil
}

// changes lists what a container has otherwise than its image.
func (e *Engine) changes(_ *job.Job, ref string) ([]repo.Change, error) {
	c, err := e.find(ref)
	if err != nil {
		return nil, err
	}
	cs, err := e.Images.Changes(c.Spec().ID)
	if err != nil {
		return nil, fmt.Errorf("changes of container %s: %w", c.Spec().Name, err)
	}
	return slices.DeleteFunc(cs, ownStub), nil
}

// ownStub tells whether the engine made it, as something to mount on, and not the container, which can't reach it.
func ownStub(c repo.Change) bool {
	switch c.Path {
	case "/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/dev", "/proc", "/sys":
		return c.Kind == driver.Added
	}
	return false
}
