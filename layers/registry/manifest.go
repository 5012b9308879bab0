package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/coble-os/coble/layers/blob"
	"github.com/coble-os/coble/layers/image"
)

// Manifest is a manifest or an index, exactly as it came.
type Manifest struct {
	Type   string // media type
	Digest digest.Digest
	Raw    []byte
}

// Descriptor of the manifest.
func (m Manifest) Descriptor() ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: m.Type, Digest: m.Digest, Size: int64(len(m.Raw))}
}

// IsIndex tells an index or manifest list from a manifest.
func (m Manifest) IsIndex() bool { return image.IsIndex(m.Descriptor()) }

func accepted() []string {
	return []string{ocispec.MediaTypeImageIndex, ocispec.MediaTypeImageManifest, image.TypeDockerList, image.TypeDockerManifest}
}

// Manifest fetches what a tag or digest names. It has the digest that was
// asked for, and the one that the registry says, or that is an error.
func (s *Session) Manifest(ctx context.Context, ref string) (Manifest, error) {
	for {
		m, err := s.manifest(ctx, ref)
		if err == nil || !s.at.mirror || ctx.Err() != nil {
			return m, err
		}
		if err := s.connect(ctx); err != nil {
			return m, err
		}
	}
}

func (s *Session) manifest(ctx context.Context, ref string) (Manifest, error) {
	u := s.path("manifests/" + ref)
	resp, err := s.do(ctx, call{method: http.MethodGet, url: u, header: http.Header{"Accept": accepted()}, want: []int{http.StatusOK}})
	if err != nil {
		return Manifest{}, err
	}
	defer resp.Body.Close()
	raw, err := blob.ReadSmall(resp.Body, "", -1, image.MaxJSON)
	if err != nil {
		return Manifest{}, fmt.Errorf("read manifest %s: %w", ref, err)
	}
	m, err := Identify(raw, resp.Header.Get("Content-Type"))
	if err != nil {
		return m, fmt.Errorf("manifest %s: %w", ref, err)
	}
	for _, want := range []string{ref, resp.Header.Get("Docker-Content-Digest")} {
		if strings.HasPrefix(want, "sha256:") && m.Digest.String() != want {
			return m, fmt.Errorf("manifest %s: %w: it has %s, announced was %s", ref, blob.ErrDigest, m.Digest, want)
		}
	}
	return m, nil
}

// Identify finds out what kind of manifest the bytes are. What could be taken
// for two kinds is refused (CVE-2021-41190), and so are Docker's first ones.
func Identify(raw []byte, contentType string) (Manifest, error) {
	m := Manifest{Digest: digest.FromBytes(raw), Raw: raw}
	var body struct {
		SchemaVersion int             `json:"schemaVersion"`
		MediaType     string          `json:"mediaType"`
		Config        json.RawMessage `json:"config"`
		Layers        json.RawMessage `json:"layers"`
		Manifests     json.RawMessage `json:"manifests"`
		FSLayers      json.RawMessage `json:"fsLayers"`
	}
	if err := json.Unmarshal(raw, &body); err != nil {
		return m, fmt.Errorf("%w: parse manifest: %w", image.ErrInvalid, err)
	}
	header, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		header = ""
	}
	if body.SchemaVersion == 1 || body.FSLayers != nil || strings.Contains(header, "docker.distribution.manifest.v1+") {
		return m, fmt.Errorf("%w: schema 1, which tools wrote before 2016; push the image again with a current one", ErrUnsupported)
	}
	index := body.Manifests != nil
	if index && (body.Layers != nil || body.Config != nil) {
		return m, fmt.Errorf("%w: it is a manifest and an index at once", image.ErrInvalid)
	}
	m.Type = body.MediaType
	if m.Type == "" {
		m.Type = header
	}
	switch {
	case m.Type == "" || !isManifestType(m.Type) && body.MediaType == "":
		m.Type = ocispec.MediaTypeImageManifest
		if index {
			m.Type = ocispec.MediaTypeImageIndex
		}
	case isManifestType(header) && header != m.Type:
		return m, fmt.Errorf("%w: it says that it is %s, and the registry that it is %s", image.ErrInvalid, m.Type, header)
	case m.IsIndex() != index:
		return m, fmt.Errorf("%w: it says that it is %s, and is not", image.ErrInvalid, m.Type)
	}
	return m, nil
}

func isManifestType(t string) bool {
	for _, a := range accepted() {
		if a == t {
			return true
		}
	}
	return false
}

// PutManifest stores a manifest under a tag or its digest.
func (s *Session) PutManifest(ctx context.Context, ref string, m Manifest) error {
	resp, err := s.do(ctx, call{
		method: http.MethodPut, url: s.path("manifests/" + ref), header: http.Header{"Content-Type": {m.Type}},
		body: func() io.Reader { return bytes.NewReader(m.Raw) }, length: int64(len(m.Raw)),
		want: []int{http.StatusCreated, http.StatusOK, http.StatusAccepted},
	})
	if err != nil {
		return fmt.Errorf("store manifest %s: %w", ref, err)
	}
	drop(resp)
	if got := resp.Header.Get("Docker-Content-Digest"); got != "" && got != m.Digest.String() {
		return fmt.Errorf("store manifest %s: %w: the registry has %s instead of %s", ref, blob.ErrDigest, got, m.Digest)
	}
	return nil
}

// path is the URL of something of the repository's.
func (s *Session) path(rest string) string { return s.at.url("/v2/" + s.repo.Path + "/" + rest) }

const maxPages = 10000

// Tags lists the repository's tags.
func (s *Session) Tags(ctx context.Context) ([]string, error) {
	var tags []string
	err := s.pages(ctx, s.path("tags/list"), "", func(raw []byte) (int, error) {
		var body struct{ Tags []string }
		err := json.Unmarshal(raw, &body)
		tags = append(tags, body.Tags...)
		return len(body.Tags), err
	})
	return tags, err
}

// pages walks through a list that comes in parts (distribution specification,
// "Listing Tags"; RFC 8288).
func (s *Session) pages(ctx context.Context, at, scope string, add func(raw []byte) (int, error)) error {
	for range maxPages {
		resp, err := s.do(ctx, call{method: http.MethodGet, url: at, scope: scope, want: []int{http.StatusOK}})
		if err != nil {
			return err
		}
		raw, err := blob.ReadSmall(resp.Body, "", -1, image.MaxJSON)
		resp.Body.Close()
		if err != nil {
			return fmt.Errorf("read list: %w", err)
		}
		n, err := add(raw)
		if err != nil {
			return fmt.Errorf("%w: read list: %w", ErrInvalid, err)
		}
		next, ok := nextPage(at, resp.Header.Get("Link"))
		if !ok || n == 0 {
			return nil
		}
		at = next
	}
	return fmt.Errorf("%w: a list of more than %d parts", ErrInvalid, maxPages)
}

// nextPage reads `<url>; rel="next"`; another host is not followed.
func nextPage(at, link string) (string, bool) {
	target, rest, ok := strings.Cut(strings.TrimPrefix(strings.TrimSpace(link), "<"), ">")
	if !ok || !strings.Contains(rest, "next") {
		return "", false
	}
	base, err1 := url.Parse(at)
	ref, err2 := url.Parse(target)
	if err1 != nil || err2 != nil {
		return "", false
	}
	next := base.ResolveReference(ref)
	return next.String(), next.Host == base.Host && next.Scheme == base.Scheme
}
