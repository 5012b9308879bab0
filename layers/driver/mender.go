package driver

import (
	"context"
	"io"

	"github.com/coble-os/coble/layers/archive"
)

// Mender is a driver that can bring back parts of a layer in place.
type Mender interface {
	// Mend removes the paths extra from the layer id, which are no part of
	// it, and then unpacks tar, some entries of the layer's own stream, over
	// what is there. It is on stable storage on return; a cut in between
	// leaves damage of the same paths at most. Containers that run may see
	// what was there before until they are started again.
	Mend(ctx context.Context, id string, tar io.Reader, extra []string, l archive.Limits) error
}
