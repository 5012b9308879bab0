package repo

import (
	"encoding/json"
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"go.etcd.io/bbolt"

	"github.com/coble-os/coble/layers/graph"
	"github.com/coble-os/coble/layers/image"
)

// Names of nodes begin with what they are.
const (
	namePrefix  = "name:"
	imagePrefix = "image:"
	layerPrefix = "layer:"
	topPrefix   = "rw:"

	containerPrefix = "container:"
)

// Kinds of edges.
const (
	kindNames  = "names"  // name to image
	kindTop    = "top"    // image to its topmost layer
	kindParent = "parent" // layer to the one below; acyclic
	kindFrom   = "from"   // writable layer to image
	kindOver   = "over"   // writable layer to the layer below
	kindWrites = "writes" // container to its writable layer
)

// imageNode is the value of an image's node.
type imageNode struct {
	Config []byte    // raw configuration
	Loaded time.Time // when it first came in
	Used   time.Time `json:",omitzero"` // last use, to about a day; zero: none since it came in
}

// layerNode is the value of a layer's node.
type layerNode struct {
	Driver  string
	Folder  string // the driver's id
	DiffID  digest.Digest
	Size    int64 // bytes of regular files, logical
	Files   int64
	Entries int64

	// Place is the path of the file that a packed layer is used from, in place;
	// empty for one that was unpacked. Size is the file's then.
	Place string `json:",omitempty"`
}

// topNode is the value of a writable layer's node.
type topNode struct{ Folder string }

func store(g graph.Graph, name string, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode node %s: %w", name, err)
	}
	return g.Put(name, raw)
}

func load(g graph.Graph, name string, v any) error {
	raw, err := g.Get(name)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return fmt.Errorf("decode node %s: %w", name, err)
	}
	return nil
}

// view runs fn on the graph in a read transaction.
func (r *Repo) view(fn func(graph.Graph) error) error {
	return r.o.DB.View(func(tx *bbolt.Tx) error {
		g, err := graph.Open(tx, graphName)
		if err != nil {
			return err
		}
		return fn(g)
	})
}

// update runs fn on the graph in a write transaction, durable on return.
func (r *Repo) update(fn func(graph.Graph) error) error {
	return r.o.DB.Update(func(tx *bbolt.Tx) error {
		g, err := graph.Open(tx, graphName)
		if err != nil {
			return err
		}
		return fn(g)
	})
}

// stack lists the layers below and including a layer node, topmost first.
func stack(g graph.Graph, top string) ([]string, error) {
	var nodes []string
	for n := top; n != ""; {
		nodes = append(nodes, n)
		if len(nodes) > image.MaxLayers {
			return nil, fmt.Errorf("%w: more than %d layers below %s", image.ErrDamaged, image.MaxLayers, top)
		}
		next := g.Edges(n, kindParent)
		n = ""
		if len(next) > 0 {
			n = next[0].To
		}
	}
	return nodes, nil
}

// target is the one node that an edge of a kind leads to, or "".
func target(g graph.Graph, from, kind string) string {
	if e := g.Edges(from, kind); len(e) > 0 {
		return e[0].To
	}
	return ""
}

// folders are the driver's ids of a stack of layer nodes.
func folders(g graph.Graph, nodes []string) ([]string, error) {
	ids := make([]string, 0, len(nodes))
	for _, n := range nodes {
		var l layerNode
		if err := load(g, n, &l); err != nil {
			return nil, err
		}
		ids = append(ids, l.Folder)
	}
	return ids, nil
}

// assemble makes the value that callers see of an image's node. The caller
// holds no lock; damage is filled in by the caller.
func assemble(g graph.Graph, node string) (image.Image, []string, error) {
	var n imageNode
	if err := load(g, node, &n); err != nil {
		return image.Image{}, nil, err
	}
	img, err := image.ParseConfig(n.Config)
	if err != nil {
		return img, nil, fmt.Errorf("%w: %s: %w", image.ErrDamaged, node, err)
	}
	for _, e := range g.Referrers(node, kindNames) {
		name, err := image.ParseName(strings.TrimPrefix(e.From, namePrefix))
		if err != nil {
			return img, nil, fmt.Errorf("%w: %s: %w", image.ErrDamaged, e.From, err)
		}
		if name.Digest != "" {
			img.RepoDigests = append(img.RepoDigests, name.Familiar())
		} else {
			img.RepoTags = append(img.RepoTags, name.Familiar())
		}
	}
	sort.Strings(img.RepoTags)
	sort.Strings(img.RepoDigests)
	layers, err := stackOf(g, node)
	if err != nil {
		return img, nil, err
	}
	for _, l := range layers {
		var ln layerNode
		if err := load(g, l, &ln); err != nil {
			return img, nil, err
		}
		img.Size += ln.Size
		img.LayerSizes = append(img.LayerSizes, ln.Size)
	}
	slices.Reverse(img.LayerSizes)
	return img, layers, nil
}

// stackOf lists the layer nodes of an image, topmost first; an image may
// have none.
func stackOf(g graph.Graph, imageNode string) ([]string, error) {
	top := target(g, imageNode, kindTop)
	if top == "" {
		return nil, nil
	}
	return stack(g, top)
}
