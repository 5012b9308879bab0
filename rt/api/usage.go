package api

import (
	"net/http"
	"slices"

	"github.com/moby/moby/api/types/build"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/volume"

	"github.com/coble-os/coble/layers/catalog"
	"github.com/coble-os/coble/rt/images"
	"github.com/coble-os/coble/rt/job"
)

// diskUsage answers in the form of API versions up to 1.51. There is no build cache, and there are no volumes yet.
func (s *Server) diskUsage(w http.ResponseWriter, r *http.Request) error {
	types := r.URL.Query()["type"]
	for _, t := range types {
		if !slices.Contains([]string{"container", "image", "volume", "build-cache"}, t) {
			return invalid("unknown object type: %s", t)
		}
	}
	wanted := func(t string) bool { return len(types) == 0 || slices.Contains(types, t) }
	u, err := job.Run[images.DiskUsage](r.Context(), s.e.Jobs, "df", struct{}{}, job.Streams{})
	if err != nil {
		return err
	}
	out := struct {
		LayersSize int64
		Images     []image.Summary
		Containers []container.Summary
		Volumes    []volume.Volume
		BuildCache []build.CacheRecord
	}{Images: []image.Summary{}, Containers: []container.Summary{}, Volumes: []volume.Volume{}, BuildCache: []build.CacheRecord{}}
	if wanted("image") {
		out.LayersSize = u.Layers
		for _, img := range u.Images {
			sum := imageSummary(img, u.Used[img.ID.String()])
			sum.SharedSize = u.Shared[img.ID]
			out.Images = append(out.Images, sum)
		}
	}
	if wanted("container") {
		for _, v := range u.Containers {
			sum := s.summary(v)
			sum.SizeRw, sum.SizeRootFs = u.Sizes[v.ID].Written, u.Sizes[v.ID].Root
			out.Containers = append(out.Containers, sum)
		}
	}
	return reply(w, http.StatusOK, out)
}

func (s *Server) graph(w http.ResponseWriter, r *http.Request) error {
	about := r.FormValue("name")
	v, err := job.Run[catalog.View](r.Context(), s.e.Jobs, "graph", about, job.Streams{}, about)
	if err != nil {
		return err
	}
	return reply(w, http.StatusOK, v)
}
