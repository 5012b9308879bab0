package repo

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sort"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/coble-os/coble/layers/blob"
	"github.com/coble-os/coble/layers/graph"
	"github.com/coble-os/coble/layers/image"
)

// saved is one image of an archive: once, however many names it was asked
// for by.
type saved struct {
	node   string
	names  []image.Name // none if it was asked for by its id
	raw    []byte       // configuration
	img    image.Image
	diffs  []digest.Digest
	chains []string // layer nodes, lowest first
}

// Save is an archive of images that is ready to be written.
type Save struct {
	r      *Repo
	want   image.Platform
	images []*saved
	pins   []string
}

// Save prepares an archive of images: by name, by id (which then has no
// name in it) or by a repository's name without a tag, which means all tags
// of it. image.ErrNotFound if there is no such image, image.ErrPlatform if one is for
// another platform than is wanted; the zero value is any. What it has found
// stays until Close.
func (r *Repo) Save(namesOrIDs []string, want image.Platform) (*Save, error) {
	s := &Save{r: r, want: want}
	err := r.view(func(g graph.Graph) error {
		s.images = nil
		for _, n := range namesOrIDs {
			if err := s.add(g, n); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, im := range s.images {
		s.pins = append(s.pins, im.chains...)
	}
	r.pin(s.pins)
	// What was removed between the look and the pin is missed when it is opened.
	return s, nil
}

// Close lets what Save found go.
func (s *Save) Close() error { return s.r.unpin(s.pins) }

func (s *Save) add(g graph.Graph, nameOrID string) error {
	node, name, err := find(g, nameOrID)
	bare := !strings.HasPrefix(nameOrID, "sha256:") && validName(nameOrID) && image.NameOnly(nameOrID)
	if bare && (name != "" || err != nil) {
		if tags := tagsOf(g, nameOrID); len(tags) > 0 {
			for _, t := range tags {
				if err := s.addNode(g, target(g, t, kindNames), t); err != nil {
					return err
				}
			}
			return nil
		}
	}
	if err != nil {
		return err
	}
	return s.addNode(g, node, name)
}

// tagsOf lists the name nodes of a repository that have a tag.
func tagsOf(g graph.Graph, repository string) []string {
	n, err := image.ParseName(repository)
	if err != nil {
		return nil
	}
	return g.Names(namePrefix + n.Repo + ":")
}

func (s *Save) addNode(g graph.Graph, node, name string) error {
	var im *saved
	for _, have := range s.images {
		if have.node == node {
			im = have
		}
	}
	if im == nil {
		var err error
		if im, err = describe(g, node); err != nil {
			return err
		}
		if s.want != (image.Platform{}) && !s.want.Is(im.img) {
			have := image.Platform{OS: im.img.OS, Architecture: im.img.Architecture, Variant: im.img.Variant}
			return fmt.Errorf("%w for %s: image %s is for %s", image.ErrPlatform, s.want, short(im.img.ID), have)
		}
		s.images = append(s.images, im)
	}
	if name == "" {
		return nil
	}
	n, err := image.ParseName(strings.TrimPrefix(name, namePrefix))
	if err != nil || n.Digest != "" {
		return err
	}
	for _, have := range im.names {
		if have == n {
			return nil
		}
	}
	im.names = append(im.names, n)
	return nil
}

func describe(g graph.Graph, node string) (*saved, error) {
	var n imageNode
	if err := load(g, node, &n); err != nil {
		return nil, err
	}
	img, err := image.ParseConfig(n.Config)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", image.ErrDamaged, node, err)
	}
	im := &saved{node: node, raw: n.Config, img: img, diffs: img.RootFS}
	for _, c := range image.ChainIDs(img.RootFS) {
		im.chains = append(im.chains, layerPrefix+c.String())
	}
	return im, nil
}

// Write writes the archive: blobs named by digest, a docker-archive's
// manifest.json and repositories, and an OCI layout's index.json over the
// same blobs, as Docker from 25 on writes them. Layers are plain and exactly
// as they came. The same images give the same bytes.
func (s *Save) Write(ctx context.Context, w io.Writer) error {
	a := &saving{s: s, w: tar.NewWriter(w), have: map[string]bool{}, ctx: ctx}
	if err := a.all(); err != nil {
		return fmt.Errorf("save: %w", err)
	}
	return nil
}

type saving struct {
	ctx    context.Context
	s      *Save
	w      *tar.Writer
	have   map[string]bool // files written
	docker []image.Archived
	index  []ocispec.Descriptor
	repos  map[string]map[string]string // repository, tag, topmost layer
}

func (a *saving) all() error {
	a.repos = map[string]map[string]string{}
	for _, dir := range []string{"blobs/", "blobs/sha256/"} {
		if err := a.w.WriteHeader(&tar.Header{Name: dir, Typeflag: tar.TypeDir, Mode: 0o755, ModTime: time.Unix(0, 0)}); err != nil {
			return err
		}
	}
	for _, im := range a.s.images {
		if err := a.image(im); err != nil {
			return fmt.Errorf("image %s: %w", short(digest.Digest(strings.TrimPrefix(im.node, imagePrefix))), err)
		}
	}
	if err := a.tables(); err != nil {
		return err
	}
	return a.w.Close()
}

func (a *saving) image(im *saved) error {
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Layers: []ocispec.Descriptor{}}
	d := image.Archived{Layers: []string{}}
	for i, node := range im.chains {
		size, err := a.layer(node, im.diffs[i])
		if err != nil {
			return err
		}
		m.Layers = append(m.Layers, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: im.diffs[i], Size: size})
		d.Layers = append(d.Layers, image.BlobPath(im.diffs[i]))
	}
	var err error
	if m.Config, err = a.blob(ocispec.MediaTypeImageConfig, im.raw); err != nil {
		return err
	}
	d.Config = image.BlobPath(m.Config.Digest)
	raw, err := json.Marshal(m)
	if err != nil {
		return err
	}
	desc, err := a.blob(ocispec.MediaTypeImageManifest, raw)
	if err != nil {
		return err
	}
	a.name(im, d, desc)
	return nil
}

// name puts the image into the tables, with its names.
func (a *saving) name(im *saved, d image.Archived, desc ocispec.Descriptor) {
	for _, n := range im.names {
		d.RepoTags = append(d.RepoTags, n.Familiar())
		named := desc
		named.Annotations = map[string]string{"io.containerd.image.name": n.String(), ocispec.AnnotationRefName: n.Tag}
		a.index = append(a.index, named)
		if len(im.diffs) > 0 {
			repository := strings.TrimSuffix(n.Familiar(), ":"+n.Tag)
			if a.repos[repository] == nil {
				a.repos[repository] = map[string]string{}
			}
			a.repos[repository][n.Tag] = im.diffs[len(im.diffs)-1].Encoded()
		}
	}
	if len(im.names) == 0 {
		a.index = append(a.index, desc)
	}
	sort.Strings(d.RepoTags)
	a.docker = append(a.docker, d)
}

func (a *saving) tables() error {
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: a.index}
	tables := []struct {
		name string
		v    any
	}{
		{"index.json", index},
		{"manifest.json", a.docker},
		{ocispec.ImageLayoutFile, ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion}},
	}
	if len(a.repos) > 0 {
		tables = append(tables, struct {
			name string
			v    any
		}{"repositories", a.repos})
	}
	for _, t := range tables {
		raw, err := json.Marshal(t.v)
		if err != nil {
			return err
		}
		if err := a.file(t.name, int64(len(raw)), strings.NewReader(string(raw))); err != nil {
			return err
		}
	}
	return nil
}

// blob writes a small blob.
func (a *saving) blob(kind string, raw []byte) (ocispec.Descriptor, error) {
	d := ocispec.Descriptor{MediaType: kind, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	return d, a.file(image.BlobPath(d.Digest), d.Size, strings.NewReader(string(raw)))
}

// layer writes a layer's blob unless it is there, and gives its size.
func (a *saving) layer(node string, diffID digest.Digest) (size int64, err error) {
	rc, size, err := a.s.r.openLayer(node)
	if err != nil {
		return 0, err
	}
	err = a.file(image.BlobPath(diffID), size, blob.WithContext(a.ctx, rc))
	return size, errors.Join(err, rc.Close())
}

func (a *saving) file(name string, size int64, r io.Reader) error {
	if a.have[name] {
		return nil
	}
	a.have[name] = true
	if err := a.w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: size, ModTime: time.Unix(0, 0)}); err != nil {
		return err
	}
	n, err := io.Copy(a.w, r)
	if err == nil && n != size {
		err = fmt.Errorf("%s: %w", name, blob.ErrSize)
	}
	return err
}
