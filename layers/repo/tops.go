package repo

import (
	"errors"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/coble-os/coble/layers/catalog"
	"github.com/coble-os/coble/layers/driver"
	"github.com/coble-os/coble/layers/graph"
	"github.com/coble-os/coble/layers/image"
)

// Change is one path that a container has otherwise than its image.
type Change = driver.Change

// CreateLayer makes the writable layer key over an image, for at most limit
// bytes, or 0. ErrExists if there is one, image.ErrDamaged if the image's layers are
// not whole, driver.ErrUnsupported if there can be no limit here.
func (r *Repo) CreateLayer(key string, imageID digest.Digest, limit int64) error {
	node := catalog.ImagePrefix + imageID.String()
	var layers, ids []string
	err := r.view(func(g graph.Graph) (err error) {
		if !g.Has(node) {
			return catalog.NotFound(imageID.String())
		}
		if g.Has(catalog.TopPrefix + key) {
			return fmt.Errorf("%w: %s", ErrExists, key)
		}
		if layers, err = catalog.StackOf(g, node); err == nil {
			ids, err = catalog.Folders(g, layers)
		}
		return err
	})
	if err != nil {
		return err
	}
	if bad := r.damage(layers); bad != "" {
		return fmt.Errorf("%w: %s", image.ErrDamaged, bad)
	}
	r.pin(layers)
	err = r.createTop(key, node, layers, ids, limit)
	return errors.Join(err, r.unpin(layers))
}

func (r *Repo) createTop(key, node string, layers, ids []string, limit int64) error {
	id := r.folder()
	if err := r.drv.Create(id, ids, limit); err != nil {
		return fmt.Errorf("create writable layer %s: %w", key, err)
	}
	top := catalog.TopPrefix + key
	err := r.update(func(g graph.Graph) error {
		if g.Has(top) {
			return fmt.Errorf("%w: %s", ErrExists, key)
		}
		if err := catalog.Store(g, top, catalog.Top{Folder: id}); err != nil {
			return err
		}
		if len(layers) > 0 {
			if err := g.Link(graph.Edge{From: top, Kind: catalog.KindOver, To: layers[0]}); err != nil {
				return err
			}
		}
		return g.Link(graph.Edge{From: top, Kind: catalog.KindFrom, To: node})
	})
	if err != nil {
		return errors.Join(fmt.Errorf("record writable layer %s: %w", key, err), r.drv.RemoveTop(id))
	}
	return nil
}

// top finds a writable layer: its folder and those of its stack.
func (r *Repo) top(key string) (id string, ids []string, err error) {
	err = r.view(func(g graph.Graph) error {
		node := catalog.TopPrefix + key
		if !g.Has(node) {
			return fmt.Errorf("%w: %s", ErrNoLayer, key)
		}
		var t catalog.Top
		if err := catalog.Load(g, node, &t); err != nil {
			return err
		}
		id = t.Folder
		over := catalog.Target(g, node, catalog.KindOver)
		if over == "" {
			return nil
		}
		layers, err := catalog.Stack(g, over)
		if err != nil {
			return err
		}
		ids, err = catalog.Folders(g, layers)
		return err
	})
	return id, ids, err
}

// Mounts says what to mount on rootDir, in order and in a private mount
// namespace, to have the container's root there. Nothing is mounted here,
// and rootDir is not looked at.
func (r *Repo) Mounts(key, rootDir string) ([]driver.Mount, error) {
	id, ids, err := r.top(key)
	if err != nil {
		return nil, err
	}
	return r.drv.Mounts(id, ids)
}

// RemoveLayer removes a writable layer and everything that was written into
// it. One that is not there is no error. It must not be mounted.
func (r *Repo) RemoveLayer(key string) error {
	id := ""
	err := r.update(func(g graph.Graph) error {
		id = ""
		node := catalog.TopPrefix + key
		if !g.Has(node) {
			return nil
		}
		var t catalog.Top
		if err := catalog.Load(g, node, &t); err != nil {
			return err
		}
		id = t.Folder
		return g.Delete(node)
	})
	if err != nil || id == "" {
		return err
	}
	if err := r.drv.RemoveTop(id); err != nil {
		return err
	}
	_, err = r.collect()
	return err
}

// LayerSize is how many bytes of file content the container wrote.
func (r *Repo) LayerSize(key string) (int64, error) {
	id, ids, err := r.top(key)
	if err != nil {
		return 0, err
	}
	return r.drv.Size(id, ids)
}

// Changes lists what the container changed, as docker diff does.
func (r *Repo) Changes(key string) ([]Change, error) {
	id, ids, err := r.top(key)
	if err != nil {
		return nil, err
	}
	return r.drv.Changes(id, ids)
}

// SweepLayers removes the writable layers that keep does not want.
func (r *Repo) SweepLayers(keep func(key string) bool) error {
	var keys []string
	err := r.view(func(g graph.Graph) error {
		for _, n := range g.Names(catalog.TopPrefix) {
			if key := strings.TrimPrefix(n, catalog.TopPrefix); !keep(key) {
				keys = append(keys, key)
			}
		}
		return nil
	})
	for _, k := range keys {
		err = errors.Join(err, r.RemoveLayer(k))
	}
	return err
}
