package server

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/coble-os/coble/layers/image"
	"github.com/coble-os/coble/layers/registry"
)

// manifest answers requests for one manifest, by tag or digest.
func (h *handler) manifest(w http.ResponseWriter, r *http.Request, name, ref string) error {
	if !validTag(ref) {
		if _, err := parseDigest(ref); err != nil {
			return err
		}
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		return h.getManifest(w, r, name, ref)
	case http.MethodPut:
		return h.pushManifest(w, r, name, ref)
	case http.MethodDelete:
		return h.deleteManifest(w, name, ref)
	}
	return allowed(false).do(nil)
}

func unknownManifest(ref string) error {
	return fail(http.StatusNotFound, "MANIFEST_UNKNOWN", "manifest unknown: %s", ref)
}

func (h *handler) getManifest(w http.ResponseWriter, r *http.Request, name, ref string) error {
	d, m, ok, err := h.lookup(name, ref)
	if err != nil {
		return err
	}
	if !ok && h.o.Images != nil {
		m.Type, m.Raw, ok, err = h.o.Images.Manifest(r.Context(), name, ref)
		if err != nil {
			return err
		}
		d = digest.FromBytes(m.Raw)
	}
	if !ok {
		return unknownManifest(ref)
	}
	w.Header().Set("Content-Type", m.Type)
	w.Header().Set("Content-Length", strconv.Itoa(len(m.Raw)))
	w.Header().Set("Docker-Content-Digest", d.String())
	w.Header().Set("Etag", `"`+d.String()+`"`)
	w.WriteHeader(http.StatusOK)
	if r.Method == http.MethodGet {
		w.Write(m.Raw) // whoever asked has gone if this fails
	}
	return nil
}

// document is what has to be known of a manifest or index to keep it.
type document struct {
	ArtifactType string               `json:"artifactType"`
	Config       *ocispec.Descriptor  `json:"config"`
	Layers       []ocispec.Descriptor `json:"layers"`
	Subject      *ocispec.Descriptor  `json:"subject"`
	Annotations  map[string]string    `json:"annotations"`
}

// parts are the blobs that a manifest names; an index names none.
func (d document) parts() []ocispec.Descriptor {
	if d.Config == nil {
		return d.Layers
	}
	return append([]ocispec.Descriptor{*d.Config}, d.Layers...)
}

func (h *handler) pushManifest(w http.ResponseWriter, r *http.Request, name, ref string) error {
	raw, err := io.ReadAll(io.LimitReader(r.Body, image.MaxJSON+1))
	if err != nil {
		return fail(http.StatusBadRequest, "MANIFEST_INVALID", "read manifest: %v", err)
	}
	if len(raw) > image.MaxJSON {
		return fail(http.StatusRequestEntityTooLarge, "SIZE_INVALID", "the manifest has more than %d bytes", image.MaxJSON)
	}
	d, tags := digest.FromBytes(raw), r.URL.Query()["tag"]
	if validTag(ref) {
		tags = append(tags, ref)
	} else if d = digest.Digest(ref).Algorithm().FromBytes(raw); d.String() != ref {
		return fail(http.StatusBadRequest, "DIGEST_INVALID", "the manifest has %s, announced was %s", d, ref)
	}
	for _, t := range tags {
		if !validTag(t) {
			return fail(http.StatusBadRequest, "MANIFEST_INVALID", "tag %q is not one", t)
		}
	}
	m, err := registry.Identify(raw, r.Header.Get("Content-Type"))
	if err != nil {
		return fail(http.StatusBadRequest, "MANIFEST_INVALID", "%v", err)
	}
	var doc document
	if err := json.Unmarshal(raw, &doc); err != nil {
		return fail(http.StatusBadRequest, "MANIFEST_INVALID", "parse manifest: %v", err)
	}
	if err := h.checkParts(r, name, doc); err != nil {
		return err
	}
	keep := stored{Type: m.Type, Raw: raw}
	if doc.Subject != nil {
		if keep.Subject, err = parseDigest(doc.Subject.Digest.String()); err != nil {
			return err
		}
	}
	if err := h.putManifest(name, d, keep, tags, describe(doc, m.Type, d, len(raw))); err != nil {
		return err
	}
	answerManifest(w, name, d, keep.Subject, r.URL.Query()["tag"])
	return nil
}

func answerManifest(w http.ResponseWriter, name string, d, subject digest.Digest, tags []string) {
	w.Header().Set("Location", "/v2/"+name+"/manifests/"+d.String())
	w.Header().Set("Docker-Content-Digest", d.String())
	if subject != "" {
		w.Header().Set("OCI-Subject", subject.String())
	}
	for _, t := range tags {
		w.Header().Add("OCI-Tag", t)
	}
	w.Header().Set("Content-Length", "0")
	w.WriteHeader(http.StatusCreated)
}

// describe is the manifest among the referrers of its subject ("Listing
// Referrers").
func describe(doc document, mediaType string, d digest.Digest, size int) ocispec.Descriptor {
	out := ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(size), ArtifactType: doc.ArtifactType, Annotations: doc.Annotations}
	if out.ArtifactType == "" && doc.Config != nil {
		out.ArtifactType = doc.Config.MediaType
	}
	return out
}

// checkParts sees to it that the repository has the blobs that a manifest
// names. Layers that lie elsewhere need not be here, nor do manifests of an
// index: some of its platforms may be left out.
func (h *handler) checkParts(r *http.Request, name string, doc document) error {
	for _, p := range doc.parts() {
		d, err := parseDigest(p.Digest.String())
		if err != nil {
			return err
		}
		if isForeign(p.MediaType) {
			continue
		}
		content, err := h.openBlob(r, name, d)
		if err != nil {
			return missingPart(err, d)
		}
		size, err := content.Seek(0, io.SeekEnd)
		content.Close()
		if err != nil {
			return fmt.Errorf("measure blob %s: %w", d, err)
		}
		if size != p.Size {
			return fail(http.StatusBadRequest, "MANIFEST_INVALID", "blob %s has %d bytes, the manifest says %d", d, size, p.Size)
		}
	}
	return nil
}

func missingPart(err error, d digest.Digest) error {
	if f, ok := err.(*failure); ok && f.status == http.StatusNotFound {
		return fail(http.StatusBadRequest, "MANIFEST_BLOB_UNKNOWN", "blob unknown to registry: %s", d)
	}
	return err
}

func (h *handler) deleteManifest(w http.ResponseWriter, name, ref string) error {
	if validTag(ref) {
		found, err := h.dropTag(name, ref)
		if err != nil {
			return err
		}
		if !found {
			return unknownManifest(ref)
		}
		w.WriteHeader(http.StatusAccepted)
		return nil
	}
	d, m, ok, err := h.lookup(name, ref)
	if err != nil {
		return err
	}
	if !ok {
		return unknownManifest(ref)
	}
	if err := h.dropManifest(name, d, m); err != nil {
		return err
	}
	w.WriteHeader(http.StatusAccepted)
	return nil
}
