package driver

import (
	"context"
	"io"

	"github.com/coble-os/coble/layers/archive"
	"github.com/coble-os/coble/layers/blob"
)

// Stager is a Driver whose layers need no stack to be unpacked, so that
// several can be made before it is known what they are for, and become durable
// together: one sync instead of one each.
type Stager interface {
	// Root is the driver's folder.
	Root() string

	// Stage unpacks a plain tar stream as Unpack does, but the layer is neither
	// durable nor there yet (Has, List). Left-overs of an earlier try under the
	// same id are replaced. On an error nothing is left.
	Stage(ctx context.Context, id string, tar io.Reader, l archive.Limits) (archive.Stats, error)

	// Publish makes layers that were staged durable, and then there. So does
	// it for all else that was written to the driver's file system before. On
	// an error some may be there: Remove and Unstage take them away.
	Publish(ids ...string) error

	// Unstage takes away a layer that was staged and not published. One that
	// is not there is no error.
	Unstage(id string) error
}

// Publish makes finished folders of Temp durable and gives them their lasting
// names, as layers.
func (s Store) Publish(ids ...string) error {
	if err := blob.SyncTree(s.root); err != nil {
		return blob.NoSpace(err)
	}
	for _, id := range ids {
		if err := s.Place(s.temp(id), s.Layer(id)); err != nil {
			return err
		}
	}
	return blob.SyncDir(s.layers())
}

// Unstage removes a folder made by Temp.
func (s Store) Unstage(id string) error {
	if err := CheckID(id); err != nil {
		return err
	}
	return s.removeTemp(id)
}
