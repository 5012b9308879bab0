package repo

import (
	"maps"
	"path"

	"github.com/opencontainers/go-digest"

	"github.com/coble-os/coble/layers/catalog"
	"github.com/coble-os/coble/layers/graph"
	"github.com/coble-os/coble/layers/image"
	"github.com/coble-os/coble/layers/source"
)

// here knows layers that are here by what an archive says before they come.
type here struct {
	byDigest map[digest.Digest]hereLayer // by diff id, and by what blobs of it are known; nil: not asked for yet
	byName   map[string]hereLayer        // of the manifest's members
	manifest bool                        // byName has what can be known by now
}

type hereLayer struct {
	node   string
	diffID digest.Digest
}

// find tells which layer a member seems to have the content of, out of those
// that can give it out again.
func (k *here) find(in *intake, name string) (l hereLayer, ok bool, err error) {
	if !k.manifest && (in.Has("manifest.json") || in.Has("index.json")) {
		k.manifest = true
		if k.byName, err = in.r.hereByName(in, in.want); err != nil {
			return l, false, err
		}
	}
	if l, ok = k.byName[name]; ok {
		return l, true, nil
	}
	d := digestIn(name)
	if d == "" {
		return l, false, nil
	}
	if k.byDigest == nil {
		if k.byDigest, err = in.r.hereByDigest(); err != nil {
			return l, false, err
		}
	}
	l, ok = k.byDigest[d]
	return l, ok, nil
}

// hereByName looks at the recipes of a source, if they can be read by now.
func (r *Repo) hereByName(s source.Source, want image.Platform) (map[string]hereLayer, error) {
	out := map[string]hereLayer{}
	rs, err := source.Recipes(s, want)
	if err != nil {
		return out, nil // what is missing may still come
	}
	err = r.view(func(g graph.Graph) error {
		for _, rc := range rs {
			for i, node := range catalog.LayerNodes(rc.Image.RootFS) {
				if ok, err := r.givesOut(g, node); err != nil || !ok {
					if err != nil {
						return err
					}
					continue
				}
				out[path.Clean(rc.Layers[i].Name)] = hereLayer{node, rc.Image.RootFS[i]}
			}
		}
		return nil
	})
	return out, err
}

func (r *Repo) hereByDigest() (map[digest.Digest]hereLayer, error) {
	out := map[digest.Digest]hereLayer{}
	err := r.view(func(g graph.Graph) error {
		for _, node := range g.Names(catalog.LayerPrefix) {
			if ok, err := r.givesOut(g, node); err != nil || !ok {
				if err != nil {
					return err
				}
				continue
			}
			var l catalog.Layer
			if err := catalog.Load(g, node, &l); err != nil {
				return err
			}
			out[l.DiffID] = hereLayer{node, l.DiffID}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	blobs := map[digest.Digest]hereLayer{}
	for diffID, l := range out {
		list, err := r.blobs.Blobs(diffID)
		if err != nil {
			return nil, err
		}
		for _, p := range list {
			blobs[p.Digest] = l
		}
	}
	maps.Copy(blobs, out)
	return blobs, nil
}

// givesOut tells whether a layer is here, and its stream can be had from it.
func (r *Repo) givesOut(g graph.Graph, node string) (bool, error) {
	if !g.Has(node) || r.damage([]string{node}) != "" {
		return false, nil
	}
	var l catalog.Layer
	if err := catalog.Load(g, node, &l); err != nil {
		return false, err
	}
	return l.Place == "" && r.disk.GivesOut(l.Folder, l.DiffID), nil
}
