// Package export writes images that are given to it as an archive, which
// Docker, containerd and the tools of the OCI read. It finds no images and keeps
// nothing.
package export

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
	"github.com/coble-os/coble/layers/image"
)

// Image is one that is written: its configuration and layers, under these
// names, which have tags. Names that Image has itself do not count.
type Image struct {
	image.Image
	Names []image.Name
}

// Opener gives the plain stream of a layer by its chain id, exactly as it came,
// and its length in bytes.
type Opener func(chain digest.Digest) (io.ReadCloser, int64, error)

// Write writes the archive: blobs named by digest, a docker-archive's
// manifest.json and repositories, and an OCI layout's index.json over the
// same blobs, as Docker from 25 on writes them. Layers are plain and exactly
// as they came. The same images give the same bytes.
func Write(ctx context.Context, w io.Writer, images []*Image, open Opener) error {
	a := &saving{open: open, w: tar.NewWriter(w), have: map[string]bool{}, ctx: ctx, repos: map[string]map[string]string{}}
	return a.all(images)
}

type saving struct {
	ctx    context.Context
	open   Opener
	w      *tar.Writer
	have   map[string]bool // files written
	docker []image.Archived
	index  []ocispec.Descriptor
	repos  map[string]map[string]string // repository, tag, topmost layer
}

func (a *saving) all(images []*Image) error {
	for _, dir := range []string{"blobs/", "blobs/sha256/"} {
		if err := a.w.WriteHeader(&tar.Header{Name: dir, Typeflag: tar.TypeDir, Mode: 0o755, ModTime: time.Unix(0, 0)}); err != nil {
			return err
		}
	}
	for _, im := range images {
		if err := a.image(im); err != nil {
			return fmt.Errorf("image %s: %w", im.ID.Encoded()[:12], err)
		}
	}
	if err := a.tables(); err != nil {
		return err
	}
	return a.w.Close()
}

func (a *saving) image(im *Image) error {
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Layers: []ocispec.Descriptor{}}
	d := image.Archived{Layers: []string{}}
	for i, chain := range image.ChainIDs(im.RootFS) {
		size, err := a.layer(chain, im.RootFS[i])
		if err != nil {
			return err
		}
		m.Layers = append(m.Layers, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: im.RootFS[i], Size: size})
		d.Layers = append(d.Layers, image.BlobPath(im.RootFS[i]))
	}
	var err error
	if m.Config, err = a.blob(ocispec.MediaTypeImageConfig, im.RawConfig); err != nil {
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
func (a *saving) name(im *Image, d image.Archived, desc ocispec.Descriptor) {
	for _, n := range im.Names {
		d.RepoTags = append(d.RepoTags, n.Familiar())
		named := desc
		named.Annotations = map[string]string{"io.containerd.image.name": n.String(), ocispec.AnnotationRefName: n.Tag}
		a.index = append(a.index, named)
		if len(im.RootFS) > 0 {
			repository := strings.TrimSuffix(n.Familiar(), ":"+n.Tag)
			if a.repos[repository] == nil {
				a.repos[repository] = map[string]string{}
			}
			a.repos[repository][n.Tag] = im.RootFS[len(im.RootFS)-1].Encoded()
		}
	}
	if len(im.Names) == 0 {
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
func (a *saving) layer(chain, diffID digest.Digest) (size int64, err error) {
	rc, size, err := a.open(chain)
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
