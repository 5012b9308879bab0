package images

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/moby/moby/api/types/events"

	"github.com/coble-os/coble/layers/image"
	"github.com/coble-os/coble/layers/registry"
	"github.com/coble-os/coble/layers/repo"
	"github.com/coble-os/coble/layers/source"
	"github.com/coble-os/coble/rt/fault"
	"github.com/coble-os/coble/rt/job"
	"github.com/coble-os/coble/rt/request"
)

// ImportIn asks for an image of one layer: a tar stream, the job's Stdin or what a URL has.
type ImportIn struct {
	URL      string // empty: Stdin
	Name     string // of the image; empty: none
	Comment  string
	Changes  []string
	Platform image.Platform // empty: this machine's
}

func (im *Store) importImage(j *job.Job, in ImportIn) (image.ID, error) {
	if in.Platform.Architecture == "" {
		in.Platform = source.Here()
	}
	img, err := request.Imported(in.Comment, in.Changes, in.Platform, time.Now().UTC())
	if err != nil {
		return "", err
	}
	from := j.Stdin
	if from == nil {
		from = io.MultiReader()
	}
	if in.URL != "" {
		got, err := im.registry.Get(j.Context(), in.URL)
		if err != nil {
			return "", urlError(err)
		}
		defer got.Close()
		from = got
	}
	id, err := im.Import(j.Context(), from, repo.NewImage{Config: request.Encoder(img), Name: in.Name})
	if err != nil {
		return "", ArchiveError(err)
	}
	im.Used(id.String())
	im.CollectSoon()
	im.imageEvent(events.ActionImport, id.String(), in.Name)
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
func (im *Store) save(j *job.Job, in SaveIn) (any, error) {
	if len(in.Names) == 0 {
		return nil, fault.New(fault.Invalid, "save images: name at least one")
	}
	s, err := im.Save(in.Names, in.Platform)
	if errors.Is(err, image.ErrPlatform) {
		return nil, fault.New(fault.NotFound, "save images: %w", err)
	}
	if err != nil {
		return nil, Error(err)
	}
	err = s.Write(j.Context(), j.Stdout)
	if err = errors.Join(err, s.Close()); err != nil {
		return nil, err
	}
	for _, n := range in.Names {
		if img, err := im.Get(n); err == nil {
			im.imageEvent(events.ActionSave, img.ID.String(), n)
		}
	}
	return nil, nil
}
