package source

import (
	"archive/tar"
	"encoding/json"
	"fmt"
	"io"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/coble-os/coble/layers/blob"
	"github.com/coble-os/coble/layers/image"
)

// archived is an archive in memory.
type archived struct {
	t testing.TB
	*Tar
}

func (a archived) put(name string, v any) ocispec.Descriptor {
	raw, is := v.([]byte)
	if !is {
		var err error
		raw, err = json.Marshal(v)
		require.NoError(a.t, err)
	}
	d := ocispec.Descriptor{Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	if name == "" {
		name = image.BlobPath(d.Digest)
	}
	a.Add(&tar.Header{Name: name, Typeflag: tar.TypeReg}, &Member{Raw: raw, Size: d.Size})
	return d
}

func config(arch string, layers ...digest.Digest) map[string]any {
	return map[string]any{"os": "linux", "architecture": arch, "rootfs": map[string]any{"type": "layers", "diff_ids": layers}}
}

var one = digest.FromString("one")

func TestDockerRecipes(t *testing.T) {
	a := archived{t, NewTar()}
	conf := a.put("conf.json", config("amd64", one))
	a.put("manifest.json", []map[string]any{{"Config": "conf.json", "RepoTags": []string{"box:1"}, "Layers": []string{"x/layer.tar"}}})
	rs, err := Recipes(a.Tar, image.Platform{})
	require.NoError(t, err)
	require.Len(t, rs, 1)
	require.Equal(t, conf.Digest, rs[0].Image.ID)
	require.Equal(t, "box:1", rs[0].Names[0].Familiar())
	require.Equal(t, []Layer{{Name: "x/layer.tar", Size: -1}}, rs[0].Layers, "a layer is not looked for")

	require.Error(t, Rename(rs, "a@"+one.String()), "a digest can't be given")
	require.NoError(t, Rename(rs, "other"))
	require.Equal(t, "other:latest", rs[0].Names[0].Familiar())
	require.ErrorIs(t, Rename(append(rs, rs...), "x"), image.ErrInvalid)

	a.put("conf.json", config("amd64", one, one))
	_, err = Recipes(a.Tar, image.Platform{})
	require.ErrorIs(t, err, image.ErrInvalid, "as many layers as the configuration says")
	a.put("manifest.json", []map[string]any{{"Config": one.Encoded() + ".json", "Layers": []string{}}})
	_, err = Recipes(a.Tar, image.Platform{})
	require.ErrorIs(t, err, ErrMember)
	a.put(one.Encoded()+".json", config("amd64"))
	_, err = Recipes(a.Tar, image.Platform{})
	require.ErrorIs(t, err, blob.ErrDigest, "a configuration is what its name says")
	_, err = Recipes(NewTar(), image.Platform{})
	require.ErrorContains(t, err, "neither a docker-archive (no manifest.json) nor an OCI layout (no index.json)")
}

func TestLayoutRecipes(t *testing.T) {
	a := archived{t, NewTar()}
	manifest := func(arch string) ocispec.Descriptor {
		c := a.put("", config(arch, one))
		m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, Config: c, Layers: []ocispec.Descriptor{{MediaType: ocispec.MediaTypeImageLayer, Digest: one, Size: 9}}}
		d := a.put("", m)
		d.MediaType, d.Platform = ocispec.MediaTypeImageManifest, &ocispec.Platform{OS: "linux", Architecture: arch}
		return d
	}
	index := func(list ...ocispec.Descriptor) ocispec.Index {
		return ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: list}
	}
	list := []ocispec.Descriptor{manifest("arm64"), manifest("s390x")}
	top := index(list...)
	a.put("index.json", top)
	want := image.Platform{OS: "linux", Architecture: "s390x"}
	rs, err := Recipes(a.Tar, want)
	require.NoError(t, err)
	require.Len(t, rs, 1)
	require.Equal(t, "s390x", rs[0].Image.Architecture)
	require.Equal(t, []Layer{{Name: image.BlobPath(one), Digest: one, Size: 9}}, rs[0].Layers)
	_, err = Recipes(a.Tar, image.Platform{OS: "linux", Architecture: "riscv64"})
	require.ErrorIs(t, err, image.ErrPlatform)

	for range MaxIndexes + 1 {
		d := a.put("", top)
		d.MediaType = ocispec.MediaTypeImageIndex
		top = index(d)
	}
	a.put("index.json", top)
	_, err = Recipes(a.Tar, want)
	require.ErrorContains(t, err, fmt.Sprintf("more than %d indexes within another", MaxIndexes))
}

func TestLinks(t *testing.T) {
	a := archived{t, NewTar()}
	a.put("x/real", []byte("content"))
	link := func(kind byte, name, to string) {
		a.Add(&tar.Header{Name: name, Typeflag: kind, Linkname: to}, nil)
	}
	link(tar.TypeSymlink, "y/soft", "../x/real")
	link(tar.TypeLink, "./hard", "y/soft")
	link(tar.TypeSymlink, "loop", "loop")
	for _, name := range []string{"x/real", "y/soft", "hard", "./y/../hard"} {
		rc, size, err := a.Open(name)
		require.NoError(t, err, name)
		raw, err := io.ReadAll(rc)
		require.NoError(t, err)
		require.Equal(t, "content", string(raw), name)
		require.EqualValues(t, 7, size)
	}
	for _, name := range []string{"loop", "none", "y"} {
		require.False(t, a.Has(name))
		_, _, err := a.Open(name)
		require.ErrorIs(t, err, ErrMember, name)
	}
	before := a.Add(&tar.Header{Name: "x/real", Typeflag: tar.TypeReg}, &Member{Passed: true})
	require.Equal(t, "content", string(before.Raw))
	_, _, err := a.Open("hard")
	require.ErrorIs(t, err, image.ErrInvalid, "what came past can't be had again")
}
