package repo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/coble-os/coble/layers/blob"
	"github.com/coble-os/coble/layers/driver"
	"github.com/coble-os/coble/layers/driver/packed"
	"github.com/coble-os/coble/layers/image"
	"github.com/coble-os/coble/layers/source"
)

// adopt makes a packed layer present where it lies: its digest is checked,
// once, and the driver told where it is. It gives the file's path and size.
func (r *Repo) adopt(ctx context.Context, s source.Source, j layerJob, id string) (path string, size int64, err error) {
	drv, can := r.drv.(driver.Adopter)
	if !can {
		return "", 0, fmt.Errorf("use %s layer in place: driver %s can't: use overlay, or an image that is not packed", j.from.Format, r.drv.Name())
	}
	folder, is := s.(source.Folder)
	if !is {
		return "", 0, fmt.Errorf("%w: a layer is a %s, which the kernel would have to trust: only an OCI layout in a folder of this machine, named as a source in the configuration file, may have such layers", image.ErrInvalid, j.from.Format)
	}
	rc, size, err := folder.Open(j.from.Name)
	if err != nil {
		return "", 0, err
	}
	defer rc.Close()
	f, is := rc.(*os.File)
	if !is {
		return "", 0, errors.New("use layer in place: its source is no file")
	}
	place, err := packed.Of(f, j.from.Format)
	if err != nil {
		return "", 0, err
	}
	counted := &counter{r: blob.WithContext(ctx, f), tell: func(n int64) { j.tell(Unpacking, n, size) }}
	if _, err := io.Copy(io.Discard, blob.Verify(counted, j.from.Digest, j.from.Size)); err != nil {
		return "", 0, fmt.Errorf("check %s: %w", place.Path, err)
	}
	if err := drv.Adopt(id, place); err != nil {
		return "", 0, err
	}
	j.tell(Done, size, size)
	return place.Path, size, nil
}
