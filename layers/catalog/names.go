package catalog

import (
	"errors"
	"fmt"
	"strings"

	"github.com/coble-os/coble/layers/graph"
	"github.com/coble-os/coble/layers/image"
)

// ErrAmbiguous means that a prefix is not enough.
var ErrAmbiguous = errors.New("more than one image has this prefix")

// notFound reads like Docker's message and is image.ErrNotFound.
type notFound struct{ name string }

func (n notFound) Error() string        { return "No such image: " + n.name }
func (n notFound) Is(target error) bool { return target == image.ErrNotFound }

// NotFound says that there is no such image, in Docker's words. It is
// image.ErrNotFound.
func NotFound(name string) error { return notFound{name} }

// Find gives the node of an image by name[:tag], name@digest, id, or a prefix of
// an id, and the name's node if a name was given. A name wins over a prefix.
// image.ErrNotFound, or ErrAmbiguous.
func Find(g graph.Graph, s string) (node, name string, err error) {
	if strings.HasPrefix(s, "sha256:") || !validName(s) {
		node, err = findID(g, s)
		return node, "", err
	}
	n, err := image.ParseName(s)
	if err == nil {
		name = NamePrefix + n.String()
		if to := Target(g, name, KindNames); to != "" {
			return to, name, nil
		}
	}
	node, idErr := findID(g, s)
	if idErr != nil && !errors.Is(idErr, ErrAmbiguous) && err == nil {
		return "", "", notFound{n.Familiar()}
	}
	return node, "", idErr
}

func validName(s string) bool {
	_, err := image.ParseName(s)
	return err == nil
}

func findID(g graph.Graph, s string) (string, error) {
	hex, ok := image.IDPrefix(s)
	if !ok {
		return "", notFound{s}
	}
	found := g.Names(ImagePrefix + "sha256:" + hex)
	switch len(found) {
	case 0:
		return "", notFound{s}
	case 1:
		return found[0], nil
	}
	return "", fmt.Errorf("%w: %s", ErrAmbiguous, s)
}

// SetName makes the name mean the image, and no other.
func SetName(g graph.Graph, n image.Name, node string) error {
	name := NamePrefix + n.String()
	if Target(g, name, KindNames) == node {
		return nil
	}
	for _, e := range g.Edges(name, KindNames) {
		if err := g.Unlink(e); err != nil {
			return err
		}
	}
	if err := g.Put(name, []byte("{}")); err != nil {
		return err
	}
	return g.Link(graph.Edge{From: name, Kind: KindNames, To: node})
}

// Familiar is a name's node as people call the image.
func Familiar(nameNode string) string {
	s := strings.TrimPrefix(nameNode, NamePrefix)
	n, err := image.ParseName(s)
	if err != nil {
		return s
	}
	return n.Familiar()
}
