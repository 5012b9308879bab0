package distribution

import (
	"crypto/sha256"
	"fmt"
	"io"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"

	"github.com/coble-os/coble/layers/blobinfo"
	"github.com/coble-os/coble/layers/image"
)

// packLevel is fixed, and so is the size of the pieces that are fed: with one
// version of the library the same layer is always the same blob.
const (
	packLevel = 6
	packPiece = 64 << 10
)

// typePacked is the media type of what pack writes.
const typePacked = "application/vnd.docker.image.rootfs.diff.tar.gzip"

// pack writes a layer as a gzip blob to w, the same bytes every time: the
// header has no name and no time (RFC 1952, 2.3). The layer is the one with
// that chain id; its contents are checked while they are read.
func (l *Local) pack(w io.Writer, chain digest.Digest) (p blobinfo.Blob, err error) {
	plain, err := l.store.OpenLayer(chain)
	if err != nil {
		return p, err
	}
	defer plain.Close()
	sum := sha256.New()
	counted := &countWriter{w: io.MultiWriter(sum, w)}
	z, err := gzip.NewWriterLevel(counted, packLevel)
	if err != nil {
		return p, fmt.Errorf("pack layer: %w", err)
	}
	z.ModTime = time.Unix(0, 0) // no time; a zero time.Time would be written as one of 2042
	buf := make([]byte, packPiece)
	for {
		n, err := io.ReadFull(plain, buf)
		if _, werr := z.Write(buf[:n]); werr != nil {
			return p, fmt.Errorf("pack layer: %w", werr)
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			break
		}
		if err != nil {
			return p, fmt.Errorf("pack layer: %w", err)
		}
	}
	if err := z.Close(); err != nil {
		return p, fmt.Errorf("pack layer: %w", err)
	}
	return blobinfo.Blob{Digest: digest.NewDigest(digest.SHA256, sum), Size: counted.n, Type: typePacked, Own: true}, nil
}

type countWriter struct {
	w io.Writer
	n int64
}

func (c *countWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// descriptor as a manifest has it.
type descriptor struct {
	MediaType string        `json:"mediaType"`
	Size      int64         `json:"size"`
	Digest    digest.Digest `json:"digest"`
}

// schema2 is a manifest of Docker's, with its fields in Docker's order.
type schema2 struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Config        descriptor   `json:"config"`
	Layers        []descriptor `json:"layers"`
}

// manifestOf is the manifest of an image whose layers are these blobs, the
// same bytes every time.
func manifestOf(img image.Image, layers []blobinfo.Blob) (blobinfo.Manifest, error) {
	m := schema2{
		SchemaVersion: 2, MediaType: image.TypeDockerManifest,
		Config: descriptor{MediaType: "application/vnd.docker.container.image.v1+json", Size: int64(len(img.RawConfig)), Digest: img.ID},
		Layers: []descriptor{},
	}
	for _, l := range layers {
		m.Layers = append(m.Layers, descriptor{MediaType: dockerType(l.Type), Size: l.Size, Digest: l.Digest})
	}
	raw, err := marshal(m)
	return blobinfo.Manifest{Type: image.TypeDockerManifest, Digest: digest.FromBytes(raw), Raw: raw}, err
}
