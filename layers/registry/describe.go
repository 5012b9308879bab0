package registry

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/coble-os/coble/layers/blob"
	"github.com/coble-os/coble/layers/image"
)

// Reference is what the protocol calls a tag or digest of a name.
func Reference(n image.Name) string {
	if n.Digest != "" {
		return n.Digest.String()
	}
	return n.Tag
}

// Describe tells what a name means in the registry, and for which platforms
// there is an image.
func (s *Session) Describe(ctx context.Context, n image.Name) (ocispec.Descriptor, []ocispec.Platform, error) {
	m, err := s.Manifest(ctx, Reference(n))
	if err != nil {
		return ocispec.Descriptor{}, nil, err
	}
	d := m.Descriptor()
	if !m.IsIndex() {
		p, err := s.platform(ctx, m)
		return d, []ocispec.Platform{p}, err
	}
	list, err := image.ParseIndex(m.Raw)
	platforms := []ocispec.Platform{}
	for _, e := range list {
		if e.Platform != nil {
			platforms = append(platforms, *e.Platform)
		}
	}
	return d, platforms, err
}

// platform reads it from an image's configuration.
func (s *Session) platform(ctx context.Context, m Manifest) (p ocispec.Platform, err error) {
	mf, err := image.ParseManifest(m.Raw)
	if err != nil {
		return p, err
	}
	body := s.Blob(ctx, mf.Config, 0)
	defer body.Close()
	raw, err := blob.ReadSmall(body, mf.Config.Digest, mf.Config.Size, image.MaxJSON)
	if err != nil {
		return p, fmt.Errorf("configuration: %w", err)
	}
	if err := json.Unmarshal(raw, &p); err != nil {
		return p, fmt.Errorf("%w: parse configuration: %w", image.ErrInvalid, err)
	}
	return p, nil
}

// ServerHost is the host in a server's address as Docker writes it:
// https://index.docker.io/v1/ and nothing at all are docker.io's.
func ServerHost(addr string) string {
	if _, rest, ok := strings.Cut(addr, "://"); ok {
		addr = rest
	}
	host, _, _ := strings.Cut(addr, "/")
	if host == "" || host == searchHost || host == hubHost {
		return DefaultHost
	}
	return host
}
