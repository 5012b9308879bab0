package distribution

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/coble-os/coble/layers/blobinfo"
	"github.com/coble-os/coble/layers/image"
	"github.com/coble-os/coble/layers/registry"
)

// Offer is the store as a registry's server shows it (it is a
// server.Images). Names of docker.io are shown by their path, so that the
// server may be used as a mirror of it; others as host/path, with _ for the
// colon of a port. Blobs are not kept: a layer is packed when somebody asks,
// its digest and size are remembered.
type Offer struct{ l *Local }

// Offer shows the store to a server.
func (l *Local) Offer() Offer { return Offer{l} }

// shownAs is the name of a normalised repository in the server.
func shownAs(repo string) string {
	at := registry.Split(repo)
	if at.Host == registry.DefaultHost {
		return at.Path
	}
	return strings.ReplaceAll(at.Host, ":", "_") + "/" + at.Path
}

// tagsOf lists the tags of each name that is shown.
func (o Offer) tagsOf() (map[string][]string, error) {
	images, err := o.l.store.List()
	if err != nil {
		return nil, err
	}
	out := map[string][]string{}
	for _, img := range images {
		for _, t := range img.RepoTags {
			if n, err := image.ParseName(t); err == nil && img.Damage == "" {
				out[shownAs(n.Repo)] = append(out[shownAs(n.Repo)], n.Tag)
			}
		}
	}
	return out, nil
}

// Repositories implements server.Images.
func (o Offer) Repositories() ([]string, error) {
	all, err := o.tagsOf()
	var names []string
	for n := range all {
		names = append(names, n)
	}
	slices.Sort(names)
	return names, err
}

// Tags implements server.Images.
func (o Offer) Tags(name string) ([]string, error) {
	all, err := o.tagsOf()
	slices.Sort(all[name])
	return all[name], err
}

// named gives the images that are shown by a name, with their tags.
func (o Offer) named(name string) (map[string]image.Image, error) {
	images, err := o.l.store.List()
	if err != nil {
		return nil, err
	}
	out := map[string]image.Image{}
	for _, img := range images {
		for _, t := range img.RepoTags {
			if n, err := image.ParseName(t); err == nil && img.Damage == "" && shownAs(n.Repo) == name {
				out[n.Tag] = img
			}
		}
	}
	return out, nil
}

// Manifest implements server.Images.
func (o Offer) Manifest(ctx context.Context, name, ref string) (mediaType string, raw []byte, ok bool, err error) {
	images, err := o.named(name)
	if err != nil {
		return "", nil, false, err
	}
	if img, ok := images[ref]; ok {
		m, err := o.manifest(ctx, img)
		return m.Type, m.Raw, err == nil, err
	}
	if !strings.HasPrefix(ref, "sha256:") {
		return "", nil, false, nil
	}
	for _, img := range images {
		m, err := o.manifest(ctx, img)
		if err != nil {
			return "", nil, false, err
		}
		if m.Digest.String() == ref {
			return m.Type, m.Raw, true, nil
		}
	}
	return "", nil, false, nil
}

// manifest makes an image's, and packs those layers whose blobs are not
// known yet, to learn their digests.
func (o Offer) manifest(ctx context.Context, img image.Image) (blobinfo.Manifest, error) {
	layers, err := o.packed(ctx, img)
	if err != nil {
		return blobinfo.Manifest{}, err
	}
	first, err := o.l.blobs.Manifest(img.ID)
	if err != nil {
		return blobinfo.Manifest{}, err
	}
	return chooseManifest(img, first, layers)
}

func (o Offer) packed(ctx context.Context, img image.Image) ([]blobinfo.Blob, error) {
	o.l.packing.Lock() // one at a time: the second finds what the first has learned
	defer o.l.packing.Unlock()
	var out []blobinfo.Blob
	for i, chain := range image.ChainIDs(img.RootFS) {
		p, ok, err := o.l.ownBlob(img.RootFS[i])
		if err != nil {
			return nil, err
		}
		if !ok {
			if p, err = o.l.pack(ctxWriter{ctx, io.Discard}, chain); err != nil {
				return nil, err
			}
			if err = o.l.blobs.Learn(img.RootFS[i], p); err != nil {
				return nil, err
			}
		}
		out = append(out, p)
	}
	return out, nil
}

// ownBlob is what pack makes of a layer, if that is known.
func (l *Local) ownBlob(diff digest.Digest) (blobinfo.Blob, bool, error) {
	known, err := l.blobs.Blobs(diff)
	for _, k := range known {
		if k.Own {
			return k, true, err
		}
	}
	return blobinfo.Blob{}, false, err
}

// Blob implements server.Images.
func (o Offer) Blob(ctx context.Context, name string, d digest.Digest) (io.ReadSeekCloser, bool, error) {
	images, err := o.named(name)
	if err != nil {
		return nil, false, err
	}
	for _, img := range images {
		if img.ID == d {
			return inMemory{bytes.NewReader(img.RawConfig)}, true, nil
		}
		for i, chain := range image.ChainIDs(img.RootFS) {
			p, ok, err := o.l.ownBlob(img.RootFS[i])
			if err != nil {
				return nil, false, err
			}
			if ok && p.Digest == d {
				return &repacked{l: o.l, ctx: ctx, chain: chain, size: p.Size}, true, nil
			}
		}
	}
	return nil, false, nil
}

type inMemory struct{ *bytes.Reader }

func (inMemory) Close() error { return nil }

// ctxWriter fails once ctx has ended.
type ctxWriter struct {
	ctx context.Context
	w   io.Writer
}

func (c ctxWriter) Write(p []byte) (int, error) {
	if err := context.Cause(c.ctx); err != nil {
		return 0, err
	}
	return c.w.Write(p)
}

// repacked is a layer's blob that is made while it is read. Seeking costs
// nothing; reading on from another place packs again from the beginning.
type repacked struct {
	l      *Local
	ctx    context.Context
	chain  digest.Digest
	size   int64
	at     int64          // where the reader wants to be
	stream *io.PipeReader // nil: not begun
	pos    int64          // where stream is
	done   chan struct{}  // closed when the packing behind stream has ended
}

// Seek implements io.Seeker.
func (p *repacked) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += p.at
	case io.SeekEnd:
		offset += p.size
	}
	if offset < 0 {
		return 0, errors.New("seek before the beginning of a blob")
	}
	p.at = offset
	return offset, nil
}

// Read implements io.Reader.
func (p *repacked) Read(b []byte) (int, error) {
	if p.at >= p.size {
		return 0, io.EOF
	}
	if p.stream == nil || p.pos > p.at {
		p.Close()
		p.begin()
	}
	if p.pos < p.at {
		n, err := io.CopyN(io.Discard, p.stream, p.at-p.pos)
		p.pos += n
		if err != nil {
			return 0, err
		}
	}
	n, err := p.stream.Read(b)
	p.pos += int64(n)
	p.at = p.pos
	return n, err
}

func (p *repacked) begin() {
	pr, pw := io.Pipe()
	done := make(chan struct{})
	p.stream, p.pos, p.done = pr, 0, done
	go func() {
		defer close(done)
		_, err := p.l.pack(ctxWriter{p.ctx, pw}, p.chain)
		pw.CloseWithError(err) // nil is the end
	}()
}

// Close implements io.Closer.
func (p *repacked) Close() error {
	if p.stream == nil {
		return nil
	}
	p.stream.CloseWithError(io.ErrClosedPipe)
	<-p.done
	p.stream = nil
	return nil
}
