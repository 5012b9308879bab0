package image

import (
	"encoding/json"
	"fmt"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Media types of Docker's schema 2, beside the OCI ones.
const (
	TypeDockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	TypeDockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
)

// Manifest names the configuration and the layers of one image.
type Manifest struct {
	Config ocispec.Descriptor
	Layers []ocispec.Descriptor // lowest first
}

// ParseManifest reads an OCI manifest or a Docker schema 2 manifest.
// Errors wrap ErrInvalid.
func ParseManifest(raw []byte) (Manifest, error) {
	if err := checkJSON("manifest", raw); err != nil {
		return Manifest{}, err
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return Manifest{}, fmt.Errorf("%w: parse manifest: %w", ErrInvalid, err)
	}
	if err := CheckDescriptor("configuration", m.Config); err != nil {
		return Manifest{}, err
	}
	if m.Config.Size > MaxJSON {
		return Manifest{}, fmt.Errorf("%w: configuration has %d bytes, at most %d are allowed", ErrInvalid, m.Config.Size, MaxJSON)
	}
	if len(m.Layers) > MaxLayers {
		return Manifest{}, fmt.Errorf("%w: %d layers, at most %d are allowed", ErrInvalid, len(m.Layers), MaxLayers)
	}
	for i, l := range m.Layers {
		if err := CheckDescriptor(fmt.Sprintf("layer %d", i+1), l); err != nil {
			return Manifest{}, err
		}
	}
	return Manifest{Config: m.Config, Layers: m.Layers}, nil
}

// ParseIndex reads an OCI index or a Docker manifest list. Errors wrap
// ErrInvalid.
func ParseIndex(raw []byte) ([]ocispec.Descriptor, error) {
	if err := checkJSON("index", raw); err != nil {
		return nil, err
	}
	var x ocispec.Index
	if err := json.Unmarshal(raw, &x); err != nil {
		return nil, fmt.Errorf("%w: parse index: %w", ErrInvalid, err)
	}
	for i, d := range x.Manifests {
		if err := CheckDescriptor(fmt.Sprintf("manifest %d", i+1), d); err != nil {
			return nil, err
		}
	}
	return x.Manifests, nil
}

// CheckDescriptor checks digest and size of a descriptor; what names it in
// the error.
func CheckDescriptor(what string, d ocispec.Descriptor) error {
	if err := CheckDigest(d.Digest); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if d.Size < 0 {
		return fmt.Errorf("%w: %s has a size of %d", ErrInvalid, what, d.Size)
	}
	return nil
}

// IsIndex tells whether a descriptor points at an index or manifest list.
func IsIndex(d ocispec.Descriptor) bool {
	return d.MediaType == ocispec.MediaTypeImageIndex || d.MediaType == TypeDockerList
}

// IsManifest tells whether a descriptor points at the manifest of one image.
// A descriptor without a type is taken for one, as Docker does.
func IsManifest(d ocispec.Descriptor) bool {
	return d.MediaType == ocispec.MediaTypeImageManifest || d.MediaType == TypeDockerManifest || d.MediaType == ""
}

// Archived is one image of a docker-archive's manifest.json.
type Archived struct {
	Config   string   // path of the configuration in the archive
	RepoTags []string // names to give it
	Layers   []string // paths in the archive, lowest first
}

// ParseArchive reads the manifest.json of a docker-archive. Errors wrap
// ErrInvalid.
func ParseArchive(raw []byte) ([]Archived, error) {
	if err := checkJSON("manifest.json", raw); err != nil {
		return nil, err
	}
	var list []Archived
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, fmt.Errorf("%w: parse manifest.json: %w", ErrInvalid, err)
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("%w: manifest.json names no image", ErrInvalid)
	}
	for _, a := range list {
		switch {
		case a.Config == "":
			return nil, fmt.Errorf("%w: manifest.json names no configuration", ErrInvalid)
		case len(a.Layers) > MaxLayers:
			return nil, fmt.Errorf("%w: %d layers, at most %d are allowed", ErrInvalid, len(a.Layers), MaxLayers)
		case len(a.RepoTags) > MaxTags:
			return nil, fmt.Errorf("%w: %d names, at most %d are allowed", ErrInvalid, len(a.RepoTags), MaxTags)
		}
	}
	return list, nil
}

// BlobPath is where an OCI layout keeps a blob (image-layout.md).
func BlobPath(d digest.Digest) string {
	return "blobs/" + d.Algorithm().String() + "/" + d.Encoded()
}
