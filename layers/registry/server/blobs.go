package server

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/opencontainers/go-digest"
)

// blob answers requests for one blob.
func (h *handler) blob(w http.ResponseWriter, r *http.Request, name, ref string) error {
	if !h.only(r, "GET", "HEAD", "DELETE") {
		return allowed(false).do(nil)
	}
	d, err := parseDigest(ref)
	if err != nil {
		return err
	}
	if r.Method == http.MethodDelete {
		found, err := h.dropBlob(name, d)
		if err != nil {
			return err
		}
		if !found {
			return unknownBlob(d)
		}
		w.WriteHeader(http.StatusAccepted)
		return nil
	}
	content, err := h.openBlob(r, name, d)
	if err != nil {
		return err
	}
	defer content.Close()
	w.Header().Set("Docker-Content-Digest", d.String())
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Etag", `"`+d.String()+`"`)
	http.ServeContent(w, r, "", time.Time{}, content) // ranges too
	return nil
}

func unknownBlob(d digest.Digest) error {
	return fail(http.StatusNotFound, "BLOB_UNKNOWN", "blob %s is not known to this repository", d)
}

// openBlob finds a pushed blob, else one of the machine's images.
func (h *handler) openBlob(r *http.Request, name string, d digest.Digest) (io.ReadSeekCloser, error) {
	has, err := h.hasBlob(name, d)
	if err != nil {
		return nil, err
	}
	if has {
		f, err := os.Open(h.blobPath(d))
		if errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("blob %s of %s is missing on disk; push it again", d, name)
		}
		return f, err
	}
	if h.o.Images == nil {
		return nil, unknownBlob(d)
	}
	content, ok, err := h.o.Images.Blob(r.Context(), name, d)
	if err == nil && !ok {
		err = unknownBlob(d)
	}
	return content, err
}
