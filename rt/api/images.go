package api

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path"
	"slices"
	"sort"
	"strings"
	"time"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/storage"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/coble-os/coble/layers/reference"

	layerimage "github.com/coble-os/coble/layers/image"
	"github.com/coble-os/coble/layers/repo"
	"github.com/coble-os/coble/rt/fault"
	"github.com/coble-os/coble/rt/images"
	"github.com/coble-os/coble/rt/job"
)

func (s *Server) imageRoutes() {
	s.route("GET /images/json", s.listImages)
	s.route("POST /images/load", s.loadImages)
	s.route("POST /images/create", s.pullImage)
	s.route("POST /images/prune", s.pruneImages)
	s.route("GET /images/{name...}", s.inspectImage)
	s.route("POST /images/{name...}", s.tagImage)
	s.route("DELETE /images/{name...}", s.removeImage)
}

func (s *Server) listImages(w http.ResponseWriter, r *http.Request) error {
	f, err := readFilters(r, "dangling", "label", "reference", "before", "since", "until")
	if err != nil {
		return err
	}
	l, err := job.Run[images.ImageList](r.Context(), s.e.Jobs, "images", struct{}{}, job.Streams{})
	if err != nil {
		return err
	}
	sort.Slice(l.Images, func(i, j int) bool { return l.Images[i].Created.After(l.Images[j].Created) })
	from, to, err := s.imageTimes(r, f)
	if err != nil {
		return err
	}
	var shared map[layerimage.ID]int64
	if flag(r, "shared-size") {
		u, err := job.Run[images.DiskUsage](r.Context(), s.e.Jobs, "df", struct{}{}, job.Streams{})
		if err != nil {
			return err
		}
		shared = u.Shared
	}
	out := []image.Summary{}
	for _, img := range l.Images {
		if !from.IsZero() && !img.Created.After(from) || !to.IsZero() && !img.Created.Before(to) {
			continue
		}
		if img, ok := imageWanted(f, img); ok {
			sum := imageSummary(img, l.Containers[img.ID.String()])
			if shared != nil {
				sum.SharedSize = shared[img.ID]
			}
			out = append(out, sum)
		}
	}
	return reply(w, http.StatusOK, out)
}

func imageSummary(img layerimage.Image, containers int) image.Summary {
	return image.Summary{
		ID: img.ID.String(), Created: img.Created.Unix(), Labels: img.Config.Labels, RepoTags: orEmpty(img.RepoTags), RepoDigests: orEmpty(img.RepoDigests),
		Size: img.Size, SharedSize: -1, Containers: int64(containers),
	}
}

// imageTimes reads the filters since, before and until: images made after from and before to.
func (s *Server) imageTimes(r *http.Request, f filters) (from, to time.Time, err error) {
	for _, name := range f["since"] {
		img, err := job.Run[layerimage.Image](r.Context(), s.e.Jobs, "image-inspect", name, job.Streams{}, name)
		if err != nil {
			return from, to, err
		}
		if img.Created.After(from) {
			from = img.Created
		}
	}
	if to, err = pruneUntil(f); err != nil {
		return from, to, err
	}
	for _, name := range f["before"] {
		img, err := job.Run[layerimage.Image](r.Context(), s.e.Jobs, "image-inspect", name, job.Streams{}, name)
		if err != nil {
			return from, to, err
		}
		if to.IsZero() || img.Created.Before(to) {
			to = img.Created
		}
	}
	return from, to, nil
}

// imageWanted applies the filters that look at one image alone. Of its names, those stay that the filter wants.
func imageWanted(f filters, img layerimage.Image) (layerimage.Image, bool) {
	if len(f["dangling"]) > 0 {
		want := f["dangling"][0] == "true" || f["dangling"][0] == "1"
		if want != (len(img.RepoTags)+len(img.RepoDigests) == 0) {
			return img, false
		}
	}
	if refs := f["reference"]; len(refs) > 0 {
		other := func(name string) bool { return !referenceMatches(refs, name) }
		img.RepoTags = slices.DeleteFunc(slices.Clone(img.RepoTags), other)
		img.RepoDigests = slices.DeleteFunc(slices.Clone(img.RepoDigests), other)
		if len(img.RepoTags)+len(img.RepoDigests) == 0 {
			return img, false
		}
	}
	return img, f.labels("label", img.Config.Labels)
}

// referenceMatches says whether a tag matches one of the patterns of `images REPOSITORY[:TAG]`.
func referenceMatches(patterns []string, tag string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return matchReference(p, tag) })
}

func matchReference(pattern, tag string) bool {
	name, err := reference.Parse(tag)
	if err != nil {
		return false
	}
	for _, s := range []string{name.Familiar(), name.FamiliarName()} {
		if ok, err := path.Match(pattern, s); err == nil && ok {
			return true
		}
	}
	return false
}

func (s *Server) inspectImage(w http.ResponseWriter, r *http.Request) error {
	name, ok := strings.CutSuffix(r.PathValue("name"), "/json")
	if name, get := strings.CutSuffix(r.PathValue("name"), "/get"); get {
		return s.save(w, r, []string{name})
	}
	if name, hist := strings.CutSuffix(r.PathValue("name"), "/history"); hist {
		return s.history(w, r, name)
	}
	if !ok {
		return &fault.Error{Kind: fault.NotFound, Err: fmt.Errorf("page not found")}
	}
	img, err := job.Run[layerimage.Image](r.Context(), s.e.Jobs, "image-inspect", name, job.Streams{}, name)
	if err != nil {
		return err
	}
	driver, _ := s.e.Images.Driver()
	resp := image.InspectResponse{
		ID: img.ID.String(), RepoTags: orEmpty(img.RepoTags), RepoDigests: orEmpty(img.RepoDigests), Created: img.Created.Format(time.RFC3339Nano),
		Author: img.Author, Comment: lastComment(img), Architecture: img.Architecture, Variant: img.Variant, Os: img.OS, Size: img.Size, GraphDriver: &storage.DriverData{Name: driver, Data: map[string]string{}},
		RootFS: image.RootFS{Type: "layers"}, Config: wireImageConfig(img),
	}
	for _, d := range img.RootFS {
		resp.RootFS.Layers = append(resp.RootFS.Layers, d.String())
	}
	return reply(w, http.StatusOK, resp)
}

func lastComment(img layerimage.Image) string {
	if len(img.History) == 0 {
		return ""
	}
	return img.History[len(img.History)-1].Comment
}

func wireImageConfig(img layerimage.Image) *dockerspec.DockerOCIImageConfig {
	var raw struct {
		Config dockerspec.DockerOCIImageConfig `json:"config"`
	}
	if json.Unmarshal(img.RawConfig, &raw) != nil {
		return &dockerspec.DockerOCIImageConfig{ImageConfig: ocispec.ImageConfig{}}
	}
	return &raw.Config
}

func (s *Server) history(w http.ResponseWriter, r *http.Request, name string) error {
	img, err := job.Run[layerimage.Image](r.Context(), s.e.Jobs, "image-inspect", name, job.Streams{}, name)
	if err != nil {
		return err
	}
	return reply(w, http.StatusOK, historyItems(img))
}

// historyItems is newest first. Steps that made no layer have no size; layers without a step come last, as Docker has them.
func historyItems(img layerimage.Image) []image.HistoryResponseItem {
	out := []image.HistoryResponseItem{}
	layer := 0
	for _, h := range img.History {
		item := image.HistoryResponseItem{ID: "<missing>", CreatedBy: h.CreatedBy, Comment: h.Comment, Tags: nil}
		if h.Created != nil {
			item.Created = h.Created.Unix()
		}
		if !h.EmptyLayer {
			if layer < len(img.LayerSizes) {
				item.Size = img.LayerSizes[layer]
			}
			layer++
		}
		out = append(out, item)
	}
	slices.Reverse(out)
	if len(out) > 0 {
		out[0].ID, out[0].Tags = img.ID.String(), img.RepoTags
	}
	return out
}

func (s *Server) tagImage(w http.ResponseWriter, r *http.Request) error {
	if name, push := strings.CutSuffix(r.PathValue("name"), "/push"); push {
		return s.pushImage(w, r, name)
	}
	name, ok := strings.CutSuffix(r.PathValue("name"), "/tag")
	if !ok {
		return &fault.Error{Kind: fault.NotFound, Err: fmt.Errorf("page not found")}
	}
	ref := r.FormValue("repo")
	if t := r.FormValue("tag"); t != "" {
		ref += ":" + t
	}
	if err := job.Do(r.Context(), s.e.Jobs, "tag", images.TagIn{Image: name, Ref: ref}, name, ref); err != nil {
		return err
	}
	w.WriteHeader(http.StatusCreated)
	return nil
}

func (s *Server) removeImage(w http.ResponseWriter, r *http.Request) error {
	in := images.RemoveImageIn{Ref: r.PathValue("name"), Force: flag(r, "force")}
	removed, err := job.Run[[]repo.Removed](r.Context(), s.e.Jobs, "rmi", in, job.Streams{}, in.Ref)
	if err != nil {
		return err
	}
	out := []image.DeleteResponse{}
	for _, d := range removed {
		out = append(out, image.DeleteResponse{Untagged: d.Untagged, Deleted: d.Deleted})
	}
	return reply(w, http.StatusOK, out)
}

// loadImages streams the archive into the load job and its progress back, in Docker's JSON lines.
func (s *Server) loadImages(w http.ResponseWriter, r *http.Request) error {
	l := &lines{w: w}
	in := images.LoadIn{}
	var err error
	if in.Platform, err = platformOf(r); err != nil {
		drain(r)
		return err
	}
	if !flag(r, "quiet") {
		// The archive is still coming in: net/http would end that with the first byte of an answer.
		if err := http.NewResponseController(w).EnableFullDuplex(); err != nil {
			return fmt.Errorf("load images: %w", err)
		}
		var early earlyProgress
		in.Progress = func(p repo.Progress) {
			if early.shows(p) {
				l.write(progressLine{Status: string(p.Status), ID: progressID(p), Detail: &progressDetail{p.Current, p.Total}})
			}
		}
	}
	loaded, err := job.Run[[]repo.Loaded](r.Context(), s.e.Jobs, "load", in, job.Streams{Stdin: r.Body})
	if err != nil {
		drain(r)
		return l.end(err)
	}
	for _, img := range loaded {
		text := "Loaded image: " + img.Ref + "\n"
		if img.Ref == "" {
			text = "Loaded image ID: " + img.ID.String() + "\n"
		}
		l.write(progressLine{Stream: text})
	}
	return nil
}

// drain reads on for a while, since many a client does not look for an answer before it has sent all.
func drain(r *http.Request) { _, _ = io.Copy(io.Discard, io.LimitReader(r.Body, 64<<20)) }

// maxEarlyProgress is how many lines of an answer are written while its request is still coming in: about 64 KiB, a third of
// what a unix socket holds (net.core.wmem_default).
const maxEarlyProgress = 512

// earlyProgress bounds that: a client that sends all before it reads must not be held up by a full socket.
type earlyProgress struct{ shown int }

func (e *earlyProgress) shows(p repo.Progress) bool {
	if p.Index > 0 {
		return true
	}
	e.shown++
	return e.shown <= maxEarlyProgress
}

// progressID is what a layer is called in progress: 12 digits of its digest, if that is known.
func progressID(p repo.Progress) string {
	if p.Layer == "" {
		return "layer"
	}
	return p.Layer.Encoded()[:12]
}

func (s *Server) pruneImages(w http.ResponseWriter, r *http.Request) error {
	f, err := readFilters(r, "dangling", "label", "label!", "until")
	if err != nil {
		return err
	}
	until, err := pruneUntil(f)
	if err != nil {
		return err
	}
	in := images.PruneImagesIn{
		All: len(f["dangling"]) > 0 && f["dangling"][0] != "true" && f["dangling"][0] != "1", Until: until,
		Want: f.wantLabels,
	}
	out, err := job.Run[images.Pruned](r.Context(), s.e.Jobs, "image-prune", in, job.Streams{})
	if err != nil {
		return err
	}
	report := image.PruneReport{ImagesDeleted: []image.DeleteResponse{}, SpaceReclaimed: uint64(max(out.Bytes, 0))}
	for _, d := range out.Removed {
		report.ImagesDeleted = append(report.ImagesDeleted, image.DeleteResponse{Untagged: d.Untagged, Deleted: d.Deleted})
	}
	return reply(w, http.StatusOK, report)
}
