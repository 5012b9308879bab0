package catalog

import (
	"errors"
	"fmt"
	"strings"

	"go.etcd.io/bbolt"

	"github.com/coble-os/coble/layers/graph"
)

// NameTakenError says which container has a name.
type NameTakenError struct{ Name, Holder string }

func (e *NameTakenError) Error() string {
	return fmt.Sprintf("name %s is taken by container %s", e.Name, e.Holder)
}

// Containers writes containers into the graph, in the transaction that
// writes their records: a node for each, its name as a path, and an edge to
// its writable layer, through which it holds its image. The graph is where
// names are unique. Its zero value is ready.
type Containers struct{}

// Add writes a container whose writable layer, if it has one, is there.
// *NameTakenError if another one has the name. One that is there stays.
func (Containers) Add(tx *bbolt.Tx, id, name string) error {
	g, err := Open(tx)
	if err != nil {
		return err
	}
	if err := g.Put(containerPrefix+id, nil); err != nil {
		return err
	}
	if g.Has(TopPrefix + id) {
		if err := g.Link(graph.Edge{From: containerPrefix + id, Kind: kindWrites, To: TopPrefix + id}); err != nil {
			return err
		}
	}
	return nameTaken(g.SetPath("/"+name, containerPrefix+id))
}

// Rename gives a container, and what is named below it, another name.
func (Containers) Rename(tx *bbolt.Tx, old, name string) error {
	g, err := Open(tx)
	if err != nil {
		return err
	}
	return nameTaken(g.MovePath("/"+old, "/"+name))
}

// Remove forgets a container and its names. Its writable layer stays, and is
// the caller's to remove.
func (Containers) Remove(tx *bbolt.Tx, id string) error {
	g, err := Open(tx)
	if err != nil || !g.Has(containerPrefix+id) {
		return err
	}
	for _, p := range g.Paths(containerPrefix + id) {
		if err := dropBelow(g, p); err != nil {
			return err
		}
	}
	return g.Delete(containerPrefix + id)
}

// dropBelow forgets a path and those below it, the lowest first.
func dropBelow(g graph.Graph, p string) error {
	all := append([]string{graph.PathPrefix + p}, g.Names(graph.PathPrefix+p+"/")...)
	for i := len(all) - 1; i >= 0; i-- {
		if !g.Has(all[i]) {
			continue
		}
		if err := g.Delete(all[i]); err != nil {
			return err
		}
	}
	return nil
}

func nameTaken(err error) error {
	var taken *graph.TakenError
	if errors.As(err, &taken) {
		return &NameTakenError{strings.TrimPrefix(taken.Path, "/"), strings.TrimPrefix(taken.Holder, containerPrefix)}
	}
	return err
}
