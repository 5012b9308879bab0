package overlay

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/coble-os/coble/layers/archive"
	"github.com/coble-os/coble/layers/blob"
	"github.com/coble-os/coble/layers/driver"
)

// Mend implements driver.Mender.
func (d *Driver) Mend(ctx context.Context, id string, tar io.Reader, extra []string, l archive.Limits) error {
	if err := d.Need([]string{id}); err != nil {
		return err
	}
	root, err := os.OpenRoot(d.Layer(id))
	if err != nil {
		return fmt.Errorf("open layer folder: %w", err)
	}
	defer root.Close()
	for _, p := range extra {
		if err := root.RemoveAll(p); err != nil {
			return fmt.Errorf("remove what is no part of the layer: %w", err)
		}
	}
	dir, err := os.Open(d.Layer(id))
	if err != nil {
		return fmt.Errorf("open layer folder: %w", err)
	}
	defer dir.Close()
	if _, err := archive.Unpack(ctx, dir, tar, archive.Options{Limits: l, Marks: archive.OverlayMarks}); err != nil {
		return err
	}
	return blob.SyncTree(d.Layer(id))
}

var _ driver.Mender = (*Driver)(nil)
