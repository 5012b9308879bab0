package source

import (
	"errors"
	"fmt"
	"io"
	"path"
	"runtime"
	"slices"
	"sort"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/layers/blob"
	"github.com/coble-os/coble/layers/driver/packed"
	"github.com/coble-os/coble/layers/image"
)

// Recipe is one image as its source describes it: all that has to be known
// before a layer is touched.
type Recipe struct {
	Image  image.Image
	Names  []image.Name
	Layers []Layer // lowest first; as many as img.RootFS
}

// Layer says where a layer's blob is and what it must be.
type Layer struct {
	Name   string        // in the source
	Digest digest.Digest // of the blob; empty if not announced
	Size   int64         // of the blob; -1 if not announced
	Format packed.Format // "" for an archive
}

// Plain opens the plain tar stream of the layer, whose blob is r, as
// blob.OpenLayer does. What r reads from, below, is closed with the stream, or
// at once if that can't be opened.
func (l Layer) Plain(r io.Reader, below io.Closer, diffID digest.Digest) (io.ReadCloser, error) {
	plain, err := blob.OpenLayer(r, l.Digest, l.Size, diffID)
	if err != nil {
		return nil, errors.Join(err, below.Close())
	}
	return &owner{plain, below}, nil
}

// owner is a stream with what it reads from.
type owner struct {
	io.ReadCloser
	below io.Closer
}

// Close implements io.Closer.
func (o *owner) Close() error { return errors.Join(o.ReadCloser.Close(), o.below.Close()) }

// Recipes reads what images a source has for this machine, or, with a
// platform, those for that alone: image.ErrPlatform if there are none.
func Recipes(s Source, want image.Platform) ([]Recipe, error) {
	docker, oci := s.Has("manifest.json"), s.Has("index.json")
	switch {
	case docker && want == image.Platform{}:
		return dockerRecipes(s)
	case oci && want == image.Platform{}:
		return ociRecipes(s, want)
	case !docker && !oci && s.Has("repositories"):
		return nil, fmt.Errorf("%w: an archive of Docker before 1.10, without manifest.json", image.ErrInvalid)
	case !docker && !oci:
		return nil, fmt.Errorf("%w: neither a docker-archive (no manifest.json) nor an OCI layout (no index.json)", image.ErrInvalid)
	}
	other := func(rc Recipe) bool { return !want.Is(rc.Image) }
	var rs []Recipe
	var err error
	if docker {
		rs, err = dockerRecipes(s)
		rs = slices.DeleteFunc(rs, other)
	}
	if err == nil && len(rs) == 0 && oci { // manifest.json may have one platform of several
		rs, err = ociRecipes(s, want)
		rs = slices.DeleteFunc(rs, other)
	}
	if err == nil && len(rs) == 0 {
		err = fmt.Errorf("%w for %s in the archive", image.ErrPlatform, want)
	}
	return rs, err
}

func dockerRecipes(s Source) ([]Recipe, error) {
	raw, err := small(s, "manifest.json")
	if err != nil {
		return nil, err
	}
	list, err := image.ParseArchive(raw)
	if err != nil {
		return nil, err
	}
	var out []Recipe
	for _, a := range list {
		rc, err := dockerRecipe(s, a)
		if err != nil {
			return nil, err
		}
		out = append(out, rc)
	}
	return out, nil
}

func dockerRecipe(s Source, a image.Archived) (Recipe, error) {
	raw, err := small(s, a.Config)
	if err != nil {
		return Recipe{}, fmt.Errorf("configuration: %w", err)
	}
	if want := digestInName(a.Config); want != "" && digest.FromBytes(raw) != want {
		return Recipe{}, fmt.Errorf("configuration %s: %w", a.Config, blob.ErrDigest)
	}
	var layers []Layer
	for _, l := range a.Layers {
		ls := Layer{Name: l, Size: -1}
		if strings.HasPrefix(l, "blobs/sha256/") {
			ls.Digest = digestInName(l)
		}
		layers = append(layers, ls)
	}
	rc, err := NewRecipe(raw, layers)
	if err != nil {
		return rc, err
	}
	for _, t := range a.RepoTags {
		n, err := image.ParseName(t)
		if err != nil {
			return rc, err
		}
		rc.Names = append(rc.Names, n)
	}
	return rc, nil
}

// digestInName finds the digest in names such as blobs/sha256/HEX and
// HEX.json; empty if there is none.
func digestInName(name string) digest.Digest {
	hex := strings.TrimSuffix(path.Base(name), ".json")
	d := digest.NewDigestFromEncoded(digest.SHA256, hex)
	if image.CheckDigest(d) != nil {
		return ""
	}
	return d
}

// NewRecipe is that of an image with this configuration; a layer each of what that has.
func NewRecipe(config []byte, layers []Layer) (Recipe, error) {
	img, err := image.ParseConfig(config)
	if err != nil {
		return Recipe{}, err
	}
	if len(img.RootFS) != len(layers) {
		return Recipe{}, fmt.Errorf("%w: manifest has %d layers, configuration has %d", image.ErrInvalid, len(layers), len(img.RootFS))
	}
	for i, l := range layers {
		if l.Format != "" && l.Digest != img.RootFS[i] {
			return Recipe{}, fmt.Errorf("%w: layer %d is a %s, and its diff id is not the digest of the file", image.ErrInvalid, i+1, l.Format)
		}
	}
	return Recipe{Image: img, Layers: layers}, nil
}

// MaxIndexes is how deep an index may point at an index.
const MaxIndexes = 3

func ociRecipes(s Source, want image.Platform) ([]Recipe, error) {
	raw, err := small(s, "index.json")
	if err != nil {
		return nil, err
	}
	list, err := image.ParseIndex(raw)
	if err != nil {
		return nil, err
	}
	var out []Recipe
	for _, g := range byName(list) {
		rc, err := ociChoose(s, g.list, want, MaxIndexes)
		if errors.Is(err, image.ErrPlatform) && want != (image.Platform{}) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if g.name.Repo != "" {
			rc.Names = append(rc.Names, g.name)
		}
		out = append(out, rc)
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("%w: index.json names no image", image.ErrInvalid)
	}
	return out, nil
}

type named struct {
	ref  string
	name image.Name
	list []ocispec.Descriptor
}

// byName groups an index's entries by the name they are given: the images of
// several platforms may share one.
func byName(list []ocispec.Descriptor) []named {
	groups := map[string]*named{}
	for _, d := range list {
		ref := d.Annotations["io.containerd.image.name"]
		if ref == "" {
			ref = d.Annotations[ocispec.AnnotationRefName]
		}
		g := groups[ref]
		if g == nil {
			g = &named{ref: ref}
			// A bare tag names no repository: the image stays unnamed.
			if n, err := image.ParseName(ref); err == nil && strings.ContainsAny(ref, ":/") && n.Digest == "" {
				g.name = n
			}
			groups[ref] = g
		}
		g.list = append(g.list, d)
	}
	out := make([]named, 0, len(groups))
	for _, g := range groups {
		out = append(out, *g)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].ref < out[j].ref })
	return out
}

// Here is this machine, as images are chosen for it.
func Here() image.Platform {
	var u unix.Utsname
	_ = unix.Uname(&u) // can't fail with a valid address (uname(2))
	return image.Here(runtime.GOARCH, unix.ByteSliceToString(u.Machine[:]))
}

// ociChoose reads the one of several images that is for a platform, this
// machine's if that is the zero value.
func ociChoose(s Source, list []ocispec.Descriptor, want image.Platform, depth int) (Recipe, error) {
	p := want
	if p == (image.Platform{}) {
		p = Here()
	}
	d, ok := image.Choose(list, p)
	if !ok {
		return Recipe{}, fmt.Errorf("%w: %w for %s among %d", image.ErrInvalid, image.ErrPlatform, p, len(list))
	}
	raw, err := readDescribed(s, d)
	if err != nil {
		return Recipe{}, fmt.Errorf("manifest: %w", err)
	}
	if !image.IsIndex(d) {
		return manifestRecipe(s, raw)
	}
	if depth == 0 {
		return Recipe{}, fmt.Errorf("%w: more than %d indexes within another", image.ErrInvalid, MaxIndexes)
	}
	nested, err := image.ParseIndex(raw)
	if err != nil {
		return Recipe{}, err
	}
	return ociChoose(s, nested, want, depth-1)
}

func manifestRecipe(s Source, raw []byte) (Recipe, error) {
	m, err := image.ParseManifest(raw)
	if err != nil {
		return Recipe{}, err
	}
	config, err := readDescribed(s, m.Config)
	if err != nil {
		return Recipe{}, fmt.Errorf("configuration: %w", err)
	}
	var layers []Layer
	for _, l := range m.Layers {
		layers = append(layers, Layer{Name: image.BlobPath(l.Digest), Digest: l.Digest, Size: l.Size, Format: packed.ByMedia(l.MediaType)})
	}
	return NewRecipe(config, layers)
}

// readDescribed reads a small blob and checks it against its descriptor.
func readDescribed(s Source, d ocispec.Descriptor) ([]byte, error) {
	rc, _, err := s.Open(image.BlobPath(d.Digest))
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	raw, err := blob.ReadSmall(rc, d.Digest, d.Size, image.MaxJSON)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", d.Digest, err)
	}
	return raw, nil
}

// Rename gives the recipes' one image another name.
func Rename(rs []Recipe, name string) error {
	if name == "" {
		return nil
	}
	n, err := image.ParseName(name)
	if err != nil {
		return err
	}
	if len(rs) != 1 {
		return fmt.Errorf("%w: the archive has %d images, only one could be named %s", image.ErrInvalid, len(rs), name)
	}
	if n.Digest != "" {
		return errors.New("name an image: a digest can't be given")
	}
	rs[0].Names = []image.Name{n}
	return nil
}
