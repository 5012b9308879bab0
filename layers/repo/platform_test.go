package repo

import (
	"bytes"
	"encoding/json"
	"io"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/coble-os/coble/layers/blob"
	"github.com/coble-os/coble/layers/image"
)

var arm = image.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"}

// severalPlatforms are archives with an image for amd64 and one for arm64.
func severalPlatforms(t *testing.T) (amd, other made, archives map[string][]file) {
	amd, other = simple(t, "amd", "x:amd"), simple(t, "arm", "x:arm")
	other.arch = "arm64"
	other.layers = append(other.layers, simple(t, "more").layers[1])
	a, b := oci(t, blob.Gzip, "", amd), oci(t, blob.Gzip, "", other)
	var index, second ocispec.Index
	at := func(fs []file) int { return slices.IndexFunc(fs, func(f file) bool { return f.name == "index.json" }) }
	require.NoError(t, json.Unmarshal(a[at(a)].body, &index))
	require.NoError(t, json.Unmarshal(b[at(b)].body, &second))
	index.Manifests = append(index.Manifests, second.Manifests...)
	for i, arch := range []string{"amd64", "arm64"} {
		index.Manifests[i].Platform = &ocispec.Platform{OS: "linux", Architecture: arch}
		index.Manifests[i].Annotations = map[string]string{ocispec.AnnotationRefName: "both:1"}
	}
	raw, err := json.Marshal(index)
	require.NoError(t, err)
	b[at(b)].body = raw
	layout := append(slices.Delete(a, at(a), len(a)), b...)
	return amd, other, map[string][]file{
		"docker": docker(t, blob.Plain, amd, other), "oci": layout,
		"one in manifest.json, both in index.json": append(docker(t, blob.Plain, amd), layout...),
	}
}

// What an archive has for the platform that is asked for is taken, and nothing
// else; an archive without it is refused, and leaves nothing.
func TestLoadFor(t *testing.T) {
	amd, other, archives := severalPlatforms(t)
	for name, fs := range archives {
		for _, small := range []int64{0, smallMember} {
			t.Run(name, func(t *testing.T) {
				raw := tarOf(t, fs...)
				for p, want := range map[image.Platform]digest.Digest{arm: other.id(t), {OS: "linux", Architecture: "amd64"}: amd.id(t)} {
					r := newRepo(t)
					r.small = small
					got, err := r.LoadFor(ctx, p, io.MultiReader(bytes.NewReader(raw)), nil)
					require.NoError(t, err)
					require.Len(t, got, 1)
					require.Equal(t, want, got[0].ID)
					images, err := r.List()
					require.NoError(t, err)
					require.Len(t, images, 1)
					agree(t, r)
				}
				for _, p := range []image.Platform{{OS: "linux", Architecture: "s390x"}, {OS: "linux", Architecture: "arm", Variant: "v7"}, {OS: "windows", Architecture: "amd64"}} {
					r := newRepo(t)
					r.small = small
					_, err := r.LoadFor(ctx, p, bytes.NewReader(raw), nil)
					require.ErrorIs(t, err, image.ErrPlatform)
					require.ErrorContains(t, err, p.String())
					empty(t, r)
				}
			})
		}
	}
}

func TestSaveForPlatform(t *testing.T) {
	r := newRepo(t)
	_, other, archives := severalPlatforms(t)
	_, err := r.Load(ctx, bytes.NewReader(tarOf(t, archives["docker"]...)), nil)
	require.NoError(t, err)
	_, err = r.Save([]string{"x:arm", "x:amd"}, arm)
	require.ErrorIs(t, err, image.ErrPlatform)
	require.ErrorContains(t, err, "is for linux/amd64")
	s, err := r.Save([]string{"x:arm", other.id(t).String()}, arm)
	require.NoError(t, err)
	require.NoError(t, s.Close())
}
