package export

import (
	"bytes"
	"fmt"
	"io"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"

	"github.com/coble-os/coble/layers/blob"
	"github.com/coble-os/coble/layers/image"
	"github.com/coble-os/coble/layers/source"
)

// What is written is what package source reads; a layer that two images have is written once.
func TestWrite(t *testing.T) {
	layer := bytes.Repeat([]byte("x"), 1024)
	diff := digest.FromBytes(layer)
	var images []*Image
	for i := range 2 {
		img, err := image.ParseConfig(fmt.Appendf(nil, `{"author":"%d","architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[%q]}}`, i, diff))
		require.NoError(t, err)
		images = append(images, &Image{Image: img, Names: []image.Name{{Repo: "docker.io/library/a", Tag: fmt.Sprint(i)}}})
	}
	said := int64(len(layer))
	open := func(chain digest.Digest) (io.ReadCloser, int64, error) {
		require.Equal(t, diff, chain, "the lowest layer's chain id is its diff id")
		return io.NopCloser(bytes.NewReader(layer)), said, nil
	}
	var b bytes.Buffer
	require.NoError(t, Write(t.Context(), &b, images, open))
	require.Equal(t, 1, bytes.Count(b.Bytes(), layer))
	s, err := source.Peek(t.Context(), &b)
	require.NoError(t, err)
	defer s.Close()
	rs, err := source.Recipes(s, image.Platform{})
	require.NoError(t, err)
	require.Len(t, rs, 2)
	for i, rc := range rs {
		require.Equal(t, images[i].ID, rc.Image.ID)
		require.Equal(t, images[i].Names, rc.Names)
	}

	said--
	require.Error(t, Write(t.Context(), io.Discard, images, open), "longer than it was said to be")
	said += 2
	err = Write(t.Context(), io.Discard, images, open)
	require.ErrorIs(t, err, blob.ErrSize)
	require.ErrorContains(t, err, "image "+images[0].ID.Encoded()[:12])
}
