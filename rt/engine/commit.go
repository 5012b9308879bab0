package engine

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/moby/moby/api/types/events"

	"github.com/coble-os/coble/layers/archive"
	"github.com/coble-os/coble/layers/blob"
	"github.com/coble-os/coble/layers/driver"
	"github.com/coble-os/coble/layers/image"
	"github.com/coble-os/coble/layers/registry"
	"github.com/coble-os/coble/layers/repo"
	"github.com/coble-os/coble/rt/fault"
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
	base, err := e.images.Get(spec.ImageID)
	if err != nil {
		return "", imageError(err)
	}
	img, err := request.Committed(base, spec, in.Commit, now())
	if err != nil {
		return "", err
	}
	c.Op.Lock()
	defer c.Op.Unlock()
	if c.View().State.Status == "running" && in.Pause {
		if err := c.freeze(j.Context()); err != nil {
			return "", err
		}
		defer func() {
			if err := c.thaw(); err != nil {
				e.log.Error("let container go on after commit", "container", spec.Name, "err", err)
			}
		}()
	}
	id, err := e.images.Commit(j.Context(), spec.ID, repo.NewImage{Config: request.Encoder(img), Name: in.Name})
	if err != nil {
		return "", archiveError(err)
	}
	e.used(id.String())
	e.collectSoon()
	c.emit(events.ActionCommit, map[string]string{"comment": in.Comment, "imageID": id.String(), "imageRef": in.Name})
	return id, nil
}

// archiveError gives errors about what came in their kind; what the disk says is the machine's.
func archiveError(err error) error {
	switch {
	case errors.Is(err, repo.ErrNotFound):
		return fault.As(fault.NotFound, err)
	case errors.Is(err, blob.ErrNoSpace), errors.Is(err, repo.ErrDamaged):
		return err
	case errors.Is(err, image.ErrInvalid), errors.Is(err, archive.ErrHostile), errors.Is(err, archive.ErrLimit), errors.Is(err, archive.ErrBroken),
		errors.Is(err, blob.ErrTruncated), errors.Is(err, blob.ErrDigest):
		return fault.As(fault.Invalid, err)
	}
	return err
}

// ImportIn asks for an image of one layer: a tar stream, the job's Stdin or what a URL has.
type ImportIn struct {
	URL      string // empty: Stdin
	Name     string // of the image; empty: none
	Comment  string
	Changes  []string
	Platform image.Platform // empty: this machine's
}

func (e *Engine) importImage(j *job.Job, in ImportIn) (image.ID, error) {
	if in.Platform.Architecture == "" {
		in.Platform = repo.Here()
	}
	img, err := request.Imported(in.Comment, in.Changes, in.Platform, now())
	if err != nil {
		return "", err
	}
	from := j.Stdin
	if from == nil {
		from = io.MultiReader()
	}
	if in.URL != "" {
		got, err := e.registry.Get(j.Context(), in.URL)
		if err != nil {
			return "", urlError(err)
		}
		defer got.Close()
		from = got
	}
	id, err := e.images.Import(j.Context(), from, repo.NewImage{Config: request.Encoder(img), Name: in.Name})
	if err != nil {
		return "", archiveError(err)
	}
	e.used(id.String())
	e.collectSoon()
	e.imageEvent(events.ActionImport, id.String(), in.Name)
	return id, nil
}

// urlError says whose fault it is that nothing comes from a URL.
func urlError(err error) error {
	err = fmt.Errorf("import: %w", err)
	switch {
	case errors.Is(err, registry.ErrUnsupported):
		return fault.As(fault.Invalid, err)
	case errors.Is(err, registry.ErrNotFound):
		return fault.As(fault.NotFound, err)
	}
	return err
}

// SaveIn asks for an archive of images.
type SaveIn struct {
	Names    []string
	Platform image.Platform // that they must be for; empty: any
}

// save writes an archive of images to the job's Stdout. Nothing is written if there is an error before the first of them.
func (e *Engine) save(j *job.Job, in SaveIn) (any, error) {
	if len(in.Names) == 0 {
		return nil, fault.New(fault.Invalid, "save images: name at least one")
	}
	s, err := e.images.Save(in.Names, in.Platform)
	if errors.Is(err, repo.ErrPlatform) {
		return nil, fault.New(fault.NotFound, "save images: %w", err)
	}
	if err != nil {
		return nil, imageError(err)
	}
	err = s.Write(j.Context(), j.Stdout)
	if err = errors.Join(err, s.Close()); err != nil {
		return nil, err
	}
	for _, n := range in.Names {
		if img, err := e.images.Get(n); err == nil {
			e.imageEvent(events.ActionSave, img.ID.String(), n)
		}
	}
	return nil, nil
}

// export writes a container's root file system, without what is mounted on it, to the job's Stdout as a tar stream.
func (e *Engine) export(j *job.Job, ref string) (any, error) {
	c, err := e.find(ref)
	if err != nil {
		return nil, err
	}
	err = c.withRoot(false, func(root *os.File) error {
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
	cs, err := e.images.Changes(c.Spec().ID)
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
