package engine

import (
	"errors"

	bolt "go.etcd.io/bbolt"

	"github.com/coble-os/coble/layers/catalog"
	"github.com/coble-os/coble/rt/store"
)

// names keeps containers in the graph, beside images and layers: it is what the store asks for.
type names struct{ catalog.Containers }

func (n names) Add(tx *bolt.Tx, id, name string) error { return taken(n.Containers.Add(tx, id, name)) }

func (n names) Rename(tx *bolt.Tx, old, name string) error {
	return taken(n.Containers.Rename(tx, old, name))
}

func taken(err error) error {
	var t *catalog.NameTakenError
	if errors.As(err, &t) {
		return store.ErrNameTaken{Name: t.Name, Holder: t.Holder}
	}
	return err
}
