package repo

import (
	"context"
	"io"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/coble-os/coble/layers/catalog"
	"github.com/coble-os/coble/layers/fsck"
	"github.com/coble-os/coble/layers/graph"
	"github.com/coble-os/coble/layers/origin"
	"github.com/coble-os/coble/layers/source"
)

// Check looks for damage, and with an origin repairs it (see fsck.Checker).
func (r *Repo) Check(ctx context.Context, o fsck.Options) ([]fsck.Finding, error) {
	c := fsck.Checker{DB: r.o.DB, Layers: r.disk, Repository: &checked{r}}
	return c.Check(ctx, o)
}

// OpenOrigin is origin.Open of an archive, of an OCI layout as a folder, or of
// the folder of another store. The caller closes it.
func (r *Repo) OpenOrigin(ctx context.Context, path string) (origin.Origin, io.Closer, error) {
	return origin.Open(ctx, path, r.temp(), r.freed)
}

// checked is the repository as a fsck.Repository.
type checked struct{ r *Repo }

// Hold implements fsck.Repository.
func (c *checked) Hold(nodes []string, do func() error) error { return c.r.hold(nodes, do) }

// Missing implements fsck.Repository.
func (c *checked) Missing(node string) string {
	c.r.mu.Lock()
	defer c.r.mu.Unlock()
	return c.r.missing[node]
}

// MakeAgain implements fsck.Repository.
func (c *checked) MakeAgain(ctx context.Context, node string, diffID digest.Digest, s source.Source) error {
	r := c.r
	var nodes []string
	err := r.view(func(g graph.Graph) (err error) {
		nodes, err = catalog.Stack(g, node)
		return err
	})
	if err != nil {
		return err
	}
	slices.Reverse(nodes)
	r.mu.Lock()
	_, known := r.missing[node]
	if !known {
		r.missing[node] = "it is damaged"
	}
	r.mu.Unlock()
	_, err = r.ensureLayer(ctx, s, layerJob{nodes: nodes, from: source.Layer{Size: -1}, diffID: diffID, of: len(nodes), progress: func(Progress) {}})
	if err != nil && !known { // what is whole of it can be used as before
		r.mu.Lock()
		delete(r.missing, node)
		r.mu.Unlock()
	}
	return err
}
