package images

import (
	"strconv"
	"time"

	"github.com/moby/moby/api/types/events"

	"github.com/coble-os/coble/layers/image"
	"github.com/coble-os/coble/layers/repo"
	"github.com/coble-os/coble/rt/containers"
	"github.com/coble-os/coble/rt/job"
)

// DiskUsage is what images and containers take on storage.
type DiskUsage struct {
	Images     []image.Image
	Shared     map[image.ID]int64 // bytes of an image that others have as well
	Layers     int64              // bytes of all layers, each once
	Containers []containers.View
	Sizes      map[string]Sizes // by container id
	Used       map[string]int   // containers by image id
}

func (im *Store) diskUsage(j *job.Job, _ struct{}) (DiskUsage, error) {
	l, err := im.listImages(j, struct{}{})
	if err != nil {
		return DiskUsage{}, err
	}
	u, err := im.Usage()
	if err != nil {
		return DiskUsage{}, err
	}
	d := DiskUsage{Images: l.Images, Used: l.Containers, Shared: u.Shared, Layers: u.Layers, Containers: im.o.Containers.Views(), Sizes: map[string]Sizes{}}
	for _, v := range d.Containers {
		s, err := im.sizes(j, v.ID)
		if err != nil {
			continue // removed since, or damaged: its size is not known
		}
		d.Sizes[v.ID] = s
	}
	return d, nil
}

// PruneImagesIn says which images nobody needs.
type PruneImagesIn struct {
	All   bool      // also those with a name, not only dangling ones
	Until time.Time // only those made before; zero: any
	Want  func(labels map[string]string) bool
}

// Pruned is what was removed, and what that gave back in bytes.
type Pruned struct {
	Removed []repo.Removed
	Bytes   int64
}

// pruneImages removes images that no container uses, and what pulls have left that ended without one. An image that comes
// into use meanwhile stays.
func (im *Store) pruneImages(j *job.Job, in PruneImagesIn) (Pruned, error) {
	var out Pruned
	before, err := im.Usage()
	if err != nil {
		return out, err
	}
	l, err := im.listImages(j, struct{}{})
	if err != nil {
		return out, err
	}
	for _, img := range l.Images {
		named := len(img.RepoTags)+len(img.RepoDigests) > 0
		if !in.All && named || l.Containers[img.ID.String()] > 0 || !in.Until.IsZero() && !img.Created.Before(in.Until) || !in.Want(img.Config.Labels) {
			continue
		}
		gone, err := im.removeUnused(img.ID)
		if err != nil {
			return out, err
		}
		out.Removed = append(out.Removed, gone...)
	}
	if in.Want(nil) {
		age := time.Duration(0)
		if !in.Until.IsZero() {
			age = time.Since(in.Until)
		}
		if err := im.ForgetPulls(age); err != nil {
			return out, err
		}
	}
	after, err := im.Usage()
	out.Bytes = before.Layers - after.Layers
	im.o.Emit(events.ImageEventType, events.ActionPrune, "", map[string]string{"reclaimed": strconv.FormatInt(out.Bytes, 10)})
	return out, err
}
