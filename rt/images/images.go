package images

import (
	"errors"
	"io"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/events"

	"github.com/coble-os/coble/layers/image"
	"github.com/coble-os/coble/layers/repo"
	"github.com/coble-os/coble/rt/containers"
	"github.com/coble-os/coble/rt/fault"
	"github.com/coble-os/coble/rt/job"
)

// LoadIn asks for the images of an archive: the job's Stdin, or a path on the engine's machine.
type LoadIn struct {
	Path string // file or OCI layout folder; empty: Stdin
	Name string // tag for a single image
	// Platform is the one of which to take images from Stdin; empty: this machine's where there are several.
	Platform image.Platform
	// Progress, if not nil, hears how far it is.
	Progress func(repo.Progress)
}

func (im *Store) load(j *job.Job, in LoadIn) ([]repo.Loaded, error) {
	progress := in.Progress
	if progress == nil {
		progress = func(repo.Progress) {}
	}
	var loaded []repo.Loaded
	var err error
	if in.Path != "" {
		loaded, err = im.LoadPath(j.Context(), in.Path, in.Name, progress)
	} else {
		from := j.Stdin
		if from == nil {
			from = io.MultiReader()
		}
		loaded, err = im.LoadFor(j.Context(), in.Platform, from, progress)
	}
	if errors.Is(err, image.ErrPlatform) {
		return nil, fault.As(fault.NotFound, err)
	}
	if err != nil {
		return nil, fault.As(fault.Invalid, err)
	}
	for _, l := range loaded {
		im.Used(l.ID.String())
		im.imageEvent(events.ActionLoad, l.ID.String(), l.Ref)
	}
	im.CollectSoon()
	return loaded, nil
}

func (im *Store) imageEvent(a events.Action, id, name string) {
	im.o.Emit(events.ImageEventType, a, id, map[string]string{"name": name})
}

// ImageList is every image, with the containers that were made from it.
type ImageList struct {
	Images     []image.Image
	Containers map[string]int // by image id
}

func (im *Store) listImages(*job.Job, struct{}) (ImageList, error) {
	images, err := im.List()
	if err != nil {
		return ImageList{}, err
	}
	l := ImageList{Images: images, Containers: map[string]int{}}
	for _, v := range im.o.Containers.Views() {
		l.Containers[v.ImageID]++
	}
	return l, nil
}

func (im *Store) inspectImage(_ *job.Job, ref string) (image.Image, error) {
	img, err := im.Get(ref)
	if err != nil {
		return img, Error(err)
	}
	return img, nil
}

// TagIn asks for another name of an image.
type TagIn struct{ Image, Ref string }

func (im *Store) tag(_ *job.Job, in TagIn) (any, error) {
	if err := im.Tag(in.Image, in.Ref); err != nil {
		return nil, Error(err)
	}
	img, err := im.Get(in.Ref)
	if err == nil {
		im.imageEvent(events.ActionTag, img.ID.String(), in.Ref)
	}
	return nil, nil
}

// RemoveImageIn asks for a name's or an image's removal.
type RemoveImageIn struct {
	Ref   string
	Force bool
}

func (im *Store) removeImage(_ *job.Job, in RemoveImageIn) ([]repo.Removed, error) {
	img, err := im.Get(in.Ref)
	if err != nil {
		return nil, Error(err)
	}
	if err := im.imageFree(img, in); err != nil {
		return nil, err
	}
	removed, err := im.Remove(in.Ref, in.Force)
	if errors.Is(err, repo.ErrInUse) {
		return nil, fault.As(fault.Conflict, err)
	}
	if err != nil {
		return nil, Error(err)
	}
	im.removalEvents(img.ID, removed)
	return removed, nil
}

// removeUnused removes an image with its names, unless somebody has begun to use it or removed it: then gone is empty.
func (im *Store) removeUnused(id image.ID) (gone []repo.Removed, err error) {
	gone, err = im.Remove(id.String(), true)
	if errors.Is(err, repo.ErrInUse) || errors.Is(err, image.ErrNotFound) {
		return nil, nil
	}
	im.removalEvents(id, gone)
	return gone, err
}

func (im *Store) removalEvents(id image.ID, gone []repo.Removed) {
	for _, r := range gone {
		if r.Untagged != "" {
			im.imageEvent(events.ActionUnTag, id.String(), r.Untagged)
		}
		if r.Deleted != "" {
			im.imageEvent(events.ActionDelete, id.String(), r.Deleted)
		}
	}
}

// imageFree refuses to take the last name off an image that a container was made from, and to remove one by its id that
// is used or has several names; all but a use can be forced.
func (im *Store) imageFree(img image.Image, in RemoveImageIn) error {
	var user *containers.View
	for _, v := range im.o.Containers.Views() {
		if v.ImageID == img.ID.String() && (user == nil || v.State.Running()) {
			user = &v
		}
	}
	hex, isID := image.IDPrefix(in.Ref)
	isID = isID && strings.HasPrefix(img.ID.Encoded(), hex) && !slices.Contains(img.RepoTags, in.Ref) && !slices.Contains(img.RepoTags, in.Ref+":latest")
	switch {
	case !isID && (user == nil || in.Force || len(img.RepoTags) > 1):
		return nil
	case !isID:
		return fault.New(fault.Conflict, "conflict: unable to remove repository reference %q (must force) - container %s is using its referenced image %s", in.Ref, user.ID[:12], img.ID.Encoded()[:12])
	case user != nil && user.State.Running():
		return fault.New(fault.Conflict, "conflict: unable to delete %s (cannot be forced) - image is being used by running container %s", img.ID.Encoded()[:12], user.ID[:12])
	case user != nil:
		return fault.New(fault.Conflict, "conflict: unable to delete %s (cannot be forced) - image is being used by stopped container %s: remove that first", img.ID.Encoded()[:12], user.ID[:12])
	case len(img.RepoTags) > 1 && !in.Force:
		return fault.New(fault.Conflict, "conflict: unable to delete %s (must be forced) - image is referenced in multiple repositories: %s", img.ID.Encoded()[:12], strings.Join(img.RepoTags, ", "))
	}
	return nil
}

// Sizes are what a container takes on storage, in bytes.
type Sizes struct{ Written, Root int64 }

func (im *Store) sizes(_ *job.Job, ref string) (Sizes, error) {
	c, err := im.o.Containers.Find(ref)
	if err != nil {
		return Sizes{}, err
	}
	written, err := im.LayerSize(c.Spec().ID)
	if err != nil {
		return Sizes{}, err
	}
	img, err := im.Get(c.Spec().ImageID)
	if err != nil {
		return Sizes{Written: written, Root: written}, nil
	}
	return Sizes{Written: written, Root: written + img.Size}, nil
}
