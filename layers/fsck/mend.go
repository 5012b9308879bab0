package fsck

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/coble-os/coble/layers/archive"
	"github.com/coble-os/coble/layers/blob"
	"github.com/coble-os/coble/layers/catalog"
	"github.com/coble-os/coble/layers/driver"
	"github.com/coble-os/coble/layers/graph"
	"github.com/coble-os/coble/layers/origin"
	"github.com/coble-os/coble/layers/unpacked"
)

// mend brings damaged paths of a layer back, or the whole layer if asked for or
// where the driver can't do less. Nothing is touched before the whole stream of the
// origin has been found to be the layer's.
func (c *Checker) mend(ctx context.Context, node string, found []Finding, from origin.Origin, whole bool) error {
	var l catalog.Layer
	if err := c.view(func(g graph.Graph) error { return catalog.Load(g, node, &l) }); err != nil {
		return err
	}
	images, err := c.imagesOf(node)
	if err != nil {
		return err
	}
	if l.Place != "" {
		return fmt.Errorf("%w: put a good %s back", unpacked.ErrInPlace, l.Place)
	}
	d, ok := c.Layers.Driver.(driver.Mender)
	for _, f := range found {
		whole = whole || f.Path == ""
	}
	if !whole && !ok && !slices.ContainsFunc(found, func(f Finding) bool { return !f.inherited && !f.extra }) {
		from = &ownOrigin{c, node}
	}
	if whole || !ok {
		return c.Repository.MakeAgain(ctx, node, l.DiffID, &originSource{ctx, from, l.DiffID, images})
	}
	f, err := blob.Spool(c.Layers.Temp)
	if err != nil {
		return err
	}
	defer f.Close()
	err = pick(ctx, f, l.DiffID, found, from, images)
	blob.WroteFile(ctx, f)
	if err != nil {
		return err
	}
	var extras []string
	for _, x := range found {
		if x.extra {
			extras = append(extras, x.Path)
		}
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	return d.Mend(ctx, l.Folder, f, extras, c.Layers.Limits)
}

// pick copies the entries of damaged paths from the layer's stream into w, as
// a tar stream of its own, and reads the layer's to its end.
func pick(ctx context.Context, w io.Writer, diffID digest.Digest, found []Finding, from origin.Origin, images []string) error {
	want := map[string]bool{}
	for _, f := range found {
		want[f.Path] = !f.extra
	}
	rc, err := from.Layer(ctx, diffID, images)
	if err != nil {
		return err
	}
	defer rc.Close()
	tw := tar.NewWriter(w)
	tr := tar.NewReader(rc)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("%w: %w", archive.ErrBroken, err)
		}
		if !wanted(want, h) {
			continue
		}
		h.Format = tar.FormatUnknown
		if err := tw.WriteHeader(h); err != nil {
			return fmt.Errorf("keep entry %s: %w", h.Name, blob.NoSpace(err))
		}
		if _, err := io.Copy(tw, tr); err != nil {
			return fmt.Errorf("keep entry %s: %w", h.Name, blob.NoSpace(err))
		}
	}
	if err := tw.Close(); err != nil {
		return blob.NoSpace(err)
	}
	_, err = io.Copy(io.Discard, rc) // the digest is known at the end
	return err
}

// wanted tells whether an entry makes, hides or names a damaged path. Other
// names of a damaged file are damaged too.
func wanted(want map[string]bool, h *tar.Header) bool {
	name := path.Clean(strings.TrimLeft(h.Name, "/"))
	dir, base := path.Split(name)
	switch {
	case want[name]:
		return true
	case base == archive.OpaqueName:
		return want[path.Clean(dir)]
	case strings.HasPrefix(base, archive.WhiteoutPrefix):
		return want[dir+strings.TrimPrefix(base, archive.WhiteoutPrefix)]
	case h.Typeflag == tar.TypeLink && want[path.Clean(strings.TrimLeft(h.Linkname, "/"))]:
		want[name] = true
		return true
	}
	return false
}

// ownOrigin is a layer that is whole but for what it has from below: that, it
// gets from the layer below when it is made again.
type ownOrigin struct {
	c    *Checker
	node string
}

// Layer implements origin.Origin.
func (o *ownOrigin) Layer(context.Context, digest.Digest, []string) (io.ReadCloser, error) {
	var l catalog.Layer
	if err := o.c.view(func(g graph.Graph) error { return catalog.Load(g, o.node, &l) }); err != nil {
		return nil, err
	}
	return o.c.Layers.Open(l.Folder, l.DiffID, fmt.Sprintf("layer %.19s", chainOf(o.node)), func() error { return nil })
}

// originSource is one layer of an origin as a source.
type originSource struct {
	ctx    context.Context
	from   origin.Origin
	diffID digest.Digest
	images []string
}

func (s *originSource) Open(string) (io.ReadCloser, int64, error) {
	rc, err := s.from.Layer(s.ctx, s.diffID, s.images)
	return rc, 0, err
}

func (*originSource) Has(string) bool { return true }
func (*originSource) Close() error    { return nil }
