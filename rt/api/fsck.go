package api

import (
	"encoding/json"
	"net/http"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/coble-os/coble/layers/fsck"
	"github.com/coble-os/coble/layers/registry"
	"github.com/coble-os/coble/rt/images"
	"github.com/coble-os/coble/rt/job"
)

// fsck answers with JSON lines: progress, then findings, then an end or an error.
func (s *Server) fsck(w http.ResponseWriter, r *http.Request) error {
	host, neighbour := strings.CutPrefix(r.FormValue("from"), "registry://")
	if !neighbour {
		host, _ = registry.SplitTerm(r.FormValue("image"))
	}
	creds, err := credentialsByHost(r, host)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	enc := json.NewEncoder(w)
	in := images.FsckIn{
		Image: r.FormValue("image"), Quick: flag(r, "quick"), From: r.FormValue("from"), Creds: creds,
		Progress: func(layer digest.Digest, n, of int) {
			enc.Encode(map[string]any{"Layer": layer, "N": n, "Of": of})
			flush(w)
		},
	}
	found, err := job.Run[[]fsck.Finding](r.Context(), s.e.Jobs, "fsck", in, job.Streams{}, in.Image)
	if err != nil {
		return err
	}
	for _, f := range found {
		enc.Encode(map[string]any{"Finding": f})
	}
	return enc.Encode(map[string]any{"Done": true})
}
