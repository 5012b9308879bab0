// Package catalog says what the engine's store knows of images, layers and
// containers: the names, values and edges of their nodes in a graph (package
// graph), in the buckets layers/nodes, layers/out and layers/in.
//
//	name:docker.io/library/busybox:latest --names--> image:sha256:…
//	image:sha256:…   --top--> layer:sha256:… (a chain id) --parent--> layer:…
//	rw:KEY           --from--> image:…, --over--> layer:…
//	path:/web        --is--> container:ID --writes--> rw:ID
//
// It works inside its caller's transaction and touches no file: whether a layer
// is on disk is the repository's to know.
package catalog

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

// graphName is the graph in the engine's store.
const graphName = "layers"

// Open finds the graph in a transaction.
func Open(tx *bbolt.Tx) (graph.Graph, error) { return graph.Open(tx, graphName) }

// Names of nodes begin with what they are.
const (
	NamePrefix  = "name:"
	ImagePrefix = "image:"
	LayerPrefix = "layer:"
	TopPrefix   = "rw:"

	containerPrefix = "container:"
)

// Kinds of edges.
const (
	KindNames  = "names"  // name to image
	KindTop    = "top"    // image to its topmost layer
	KindParent = "parent" // layer to the one below; acyclic
	KindFrom   = "from"   // writable layer to image
	KindOver   = "over"   // writable layer to the layer below
	kindWrites = "writes" // container to its writable layer
)

// Image is the value of an image's node.
type Image struct {
	Config []byte    // raw configuration
	Loaded time.Time // when it first came in
	Used   time.Time `json:",omitzero"` // last use, to about a day; zero: none since it came in
}

// LastUse is when the image was used last, or came in.
func (n Image) LastUse() time.Time {
	if n.Used.IsZero() {
		return n.Loaded
	}
	return n.Used
}

// Layer is the value of a layer's node.
type Layer struct {
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

// Top is the value of a writable layer's node.
type Top struct{ Folder string }

// Store writes a node's value, as JSON.
func Store(g graph.Graph, name string, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode node %s: %w", name, err)
	}
	return g.Put(name, raw)
}

// Load reads a node's value into v; graph.ErrNotFound.
func Load(g graph.Graph, name string, v any) error {
	raw, err := g.Get(name)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return fmt.Errorf("decode node %s: %w", name, err)
	}
	return nil
}

// LayerNodes are the nodes of an image's layers, the lowest first, by their diff
// ids.
func LayerNodes(diffIDs []digest.Digest) []string {
	nodes := make([]string, 0, len(diffIDs))
	for _, chain := range image.ChainIDs(diffIDs) {
		nodes = append(nodes, LayerPrefix+chain.String())
	}
	return nodes
}

// Stack lists the layers below and including a layer node, topmost first;
// image.ErrDamaged if there are too many.
func Stack(g graph.Graph, top string) ([]string, error) {
	var nodes []string
	for n := top; n != ""; {
		nodes = append(nodes, n)
		if len(nodes) > image.MaxLayers {
			return nil, fmt.Errorf("%w: more than %d layers below %s", image.ErrDamaged, image.MaxLayers, top)
		}
		next := g.Edges(n, KindParent)
		n = ""
		if len(next) > 0 {
			n = next[0].To
		}
	}
	return nodes, nil
}

// Target is the one node that an edge of a kind leads to, or "".
func Target(g graph.Graph, from, kind string) string {
	if e := g.Edges(from, kind); len(e) > 0 {
		return e[0].To
	}
	return ""
}

// Folders are the driver's ids of a stack of layer nodes.
func Folders(g graph.Graph, nodes []string) ([]string, error) {
	ids := make([]string, 0, len(nodes))
	for _, n := range nodes {
		var l Layer
		if err := Load(g, n, &l); err != nil {
			return nil, err
		}
		ids = append(ids, l.Folder)
	}
	return ids, nil
}

// Assemble makes the value that callers see of an image's node, and lists its
// layer nodes as StackOf does. Damage is left for the caller to fill in; but
// image.ErrDamaged if the node or its names can't be read.
func Assemble(g graph.Graph, node string) (image.Image, []string, error) {
	var n Image
	if err := Load(g, node, &n); err != nil {
		return image.Image{}, nil, err
	}
	img, err := image.ParseConfig(n.Config)
	if err != nil {
		return img, nil, fmt.Errorf("%w: %s: %w", image.ErrDamaged, node, err)
	}
	for _, e := range g.Referrers(node, KindNames) {
		name, err := image.ParseName(strings.TrimPrefix(e.From, NamePrefix))
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
	layers, err := StackOf(g, node)
	if err != nil {
		return img, nil, err
	}
	for _, l := range layers {
		var ln Layer
		if err := Load(g, l, &ln); err != nil {
			return img, nil, err
		}
		img.Size += ln.Size
		img.LayerSizes = append(img.LayerSizes, ln.Size)
	}
	slices.Reverse(img.LayerSizes)
	return img, layers, nil
}

// StackOf lists the layer nodes of an image, topmost first; an image may
// have none.
func StackOf(g graph.Graph, node string) ([]string, error) {
	top := Target(g, node, KindTop)
	if top == "" {
		return nil, nil
	}
	return Stack(g, top)
}
