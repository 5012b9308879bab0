package image

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"
)

// Encode writes the configuration of a new image: platform, author, time,
// Config, History and RootFS of img. What else img has is left out.
func Encode(img Image) ([]byte, error) {
	created := img.Created.UTC()
	history := img.History
	if history == nil {
		history = []History{}
	}
	raw, err := json.Marshal(struct {
		Created      *time.Time `json:"created,omitempty"`
		Author       string     `json:"author,omitempty"`
		Architecture string     `json:"architecture"`
		Variant      string     `json:"variant,omitempty"`
		OS           string     `json:"os"`
		Config       Config     `json:"config"`
		RootFS       rootFS     `json:"rootfs"`
		History      []History  `json:"history"`
	}{&created, img.Author, img.Architecture, img.Variant, img.OS, img.Config, rootFS{"layers", img.RootFS}, history})
	if err != nil {
		return nil, fmt.Errorf("encode configuration: %w", err)
	}
	return raw, nil
}

type rootFS struct {
	Type    string          `json:"type"`
	DiffIDs []digest.Digest `json:"diff_ids"`
}
