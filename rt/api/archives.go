package api

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/moby/moby/api/types/common"
	"github.com/moby/moby/api/types/container"

	layerimage "github.com/coble-os/coble/layers/image"
	"github.com/coble-os/coble/layers/repo"
	"github.com/coble-os/coble/layers/source"
	"github.com/coble-os/coble/rt/engine"
	"github.com/coble-os/coble/rt/images"
	"github.com/coble-os/coble/rt/job"
	"github.com/coble-os/coble/rt/request"
)

func (s *Server) archiveRoutes() {
	s.route("GET /images/get", s.saveImages)
	s.route("POST /commit", s.commitContainer)
	s.route("GET /containers/{name}/export", s.exportContainer)
	s.route("GET /containers/{name}/changes", s.containerChanges)
	s.route("HEAD /containers/{name}/archive", s.statArchive)
	s.route("GET /containers/{name}/archive", s.getArchive)
	s.route("PUT /containers/{name}/archive", s.putArchive)
}

// tarStream is an answer whose first byte says that all went well up to there.
type tarStream struct {
	w     http.ResponseWriter
	begun bool
}

func (t *tarStream) Write(p []byte) (int, error) {
	if !t.begun {
		t.begun = true
		t.w.Header().Set("Content-Type", "application/x-tar")
		t.w.WriteHeader(http.StatusOK)
	}
	return t.w.Write(p)
}

// finish gives an error that came before the first byte. After it, the connection is cut: half a stream must not look whole.
func (t *tarStream) finish(s *Server, r *http.Request, err error) error {
	if err != nil && t.begun {
		s.log.Error("request", "method", r.Method, "path", r.URL.Path, "err", err)
		panic(http.ErrAbortHandler)
	}
	return err
}

func (s *Server) saveImages(w http.ResponseWriter, r *http.Request) error {
	return s.save(w, r, r.URL.Query()["names"])
}

func (s *Server) save(w http.ResponseWriter, r *http.Request, names []string) error {
	in := images.SaveIn{Names: names}
	var err error
	if in.Platform, err = platformOf(r); err != nil {
		return err
	}
	out := &tarStream{w: w}
	_, err = job.Run[any](r.Context(), s.e.Jobs, "save", in, job.Streams{Stdout: out}, names...)
	return out.finish(s, r, err)
}

// platformOf reads the parameter platform: os/architecture[/variant], or, as clients of API 1.48 write it, JSON. None is the
// zero value.
func platformOf(r *http.Request) (p layerimage.Platform, err error) {
	text := r.FormValue("platform")
	switch all := r.Form["platform"]; {
	case text == "":
		return p, nil
	case len(all) > 1:
		return p, invalid("platform: %d are asked for: an image has one here, so give one", len(all))
	case text[0] == '{':
		if err := json.Unmarshal([]byte(text), &p); err != nil {
			return p, invalid("platform %.200q: %w", text, err)
		}
		text = p.String()
	}
	if p, err = layerimage.ParsePlatform(text, source.Here()); err != nil {
		return p, invalid("%w", err)
	}
	return p, nil
}

func (s *Server) exportContainer(w http.ResponseWriter, r *http.Request) error {
	out := &tarStream{w: w}
	_, err := job.Run[any](r.Context(), s.e.Jobs, "export", r.PathValue("name"), job.Streams{Stdout: out}, r.PathValue("name"))
	return out.finish(s, r, err)
}

func (s *Server) commitContainer(w http.ResponseWriter, r *http.Request) error {
	in := engine.CommitIn{
		Ref: r.FormValue("container"), Name: imageName(r.FormValue("repo"), r.FormValue("tag")), Pause: r.FormValue("pause") == "" || flag(r, "pause"),
		Commit: request.Commit{Author: r.FormValue("author"), Comment: r.FormValue("comment"), Changes: r.Form["changes"]},
	}
	body := bufio.NewReader(r.Body)
	if _, err := body.Peek(1); err != io.EOF {
		r.Body = io.NopCloser(body)
		if err := decode(r, &in.Config); err != nil {
			return err
		}
	}
	id, err := job.Run[layerimage.ID](r.Context(), s.e.Jobs, "commit", in, job.Streams{}, in.Ref, in.Name)
	if err != nil {
		return err
	}
	return reply(w, http.StatusCreated, common.IDResponse{ID: id.String()})
}

func imageName(repository, tag string) string {
	if repository == "" || tag == "" {
		return repository
	}
	return repository + ":" + tag
}

// importImage is POST /images/create with fromSrc.
func (s *Server) importImage(w http.ResponseWriter, r *http.Request) error {
	src := r.FormValue("fromSrc")
	in := images.ImportIn{Name: imageName(r.FormValue("repo"), r.FormValue("tag")), Comment: r.FormValue("message"), Changes: r.Form["changes"]}
	if src != "-" {
		in.URL = src
		if !strings.Contains(src, "://") { // as Docker takes it
			in.URL = "http://" + src
		}
		if u, err := url.Parse(in.URL); err == nil {
			src = u.Redacted()
		}
	}
	if in.Comment == "" {
		in.Comment = "Imported from " + src
	}
	var err error
	if in.Platform, err = platformOf(r); err != nil {
		return err
	}
	id, err := job.Run[layerimage.ID](r.Context(), s.e.Jobs, "import", in, job.Streams{Stdin: r.Body}, in.Name)
	if err != nil {
		return err
	}
	return reply(w, http.StatusOK, map[string]string{"status": id.String()})
}

func (s *Server) containerChanges(w http.ResponseWriter, r *http.Request) error {
	cs, err := job.Run[[]repo.Change](r.Context(), s.e.Jobs, "changes", r.PathValue("name"), job.Streams{}, r.PathValue("name"))
	if err != nil {
		return err
	}
	out := []container.FilesystemChange{}
	for _, c := range cs {
		out = append(out, container.FilesystemChange{Path: c.Path, Kind: container.ChangeType(c.Kind)})
	}
	return reply(w, http.StatusOK, out)
}

func copyIn(r *http.Request) engine.CopyIn {
	return engine.CopyIn{Ref: r.PathValue("name"), Path: r.FormValue("path")}
}

func setStat(w http.ResponseWriter, st engine.PathStat) {
	b, err := json.Marshal(container.PathStat{Name: st.Name, Size: st.Size, Mode: st.Mode, Mtime: st.Mtime.UTC().Truncate(time.Second), LinkTarget: st.LinkTarget})
	if err == nil {
		w.Header().Set("X-Docker-Container-Path-Stat", base64.StdEncoding.EncodeToString(b))
	}
}

func (s *Server) statArchive(w http.ResponseWriter, r *http.Request) error {
	in := copyIn(r)
	st, err := job.Run[engine.PathStat](r.Context(), s.e.Jobs, "copy-stat", in, job.Streams{}, in.Ref, in.Path)
	if err != nil {
		return err
	}
	setStat(w, st)
	return nil
}

func (s *Server) getArchive(w http.ResponseWriter, r *http.Request) error {
	in := copyIn(r)
	in.Stat = func(st engine.PathStat) { setStat(w, st) }
	out := &tarStream{w: w}
	_, err := job.Run[any](r.Context(), s.e.Jobs, "copy-from", in, job.Streams{Stdout: out}, in.Ref, in.Path)
	return out.finish(s, r, err)
}

func (s *Server) putArchive(w http.ResponseWriter, r *http.Request) error {
	in := copyIn(r)
	in.KeepKinds, in.Owner = flag(r, "noOverwriteDirNonDir"), flag(r, "copyUIDGID")
	_, err := job.Run[any](r.Context(), s.e.Jobs, "copy-to", in, job.Streams{Stdin: r.Body}, in.Ref, in.Path)
	return err
}
