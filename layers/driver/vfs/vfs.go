// Package vfs keeps each layer as a whole folder: a copy of the layer below
// with the changes applied. It works on every file system and kernel, and is
// what remains where overlay can't be had. Copies share their blocks where
// the file system can (FICLONE: btrfs, xfs, bcachefs), else they are real.
//
// A layer is unpacked beside the copy first, with marks for what it hides,
// and then moved into the copy by rename(2): the same code reads archives as
// for every other driver, hard links stay hard links, and memory does not
// grow with the layer.
//
// There are no limits: a quota would count the copy of the image as well.
package vfs

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/layers/archive"
	"github.com/coble-os/coble/layers/blob"
	"github.com/coble-os/coble/layers/driver"
	"github.com/coble-os/coble/layers/driver/whole"
)

// Driver implements driver.Driver.
type Driver struct{ driver.Store }

// Open makes root if needed.
func Open(root string) (*Driver, error) {
	s, err := driver.OpenStore(root, nil)
	return &Driver{s}, err
}

// Name implements driver.Driver.
func (d *Driver) Name() string { return "vfs" }

// Unpack implements driver.Driver. Only the stack's topmost layer is looked
// at: it holds all the others.
func (d *Driver) Unpack(ctx context.Context, id string, stack []string, tar io.Reader, l archive.Limits) (st archive.Stats, err error) {
	temp, err := d.Temp(id)
	if err != nil {
		return st, err
	}
	defer func() {
		if err != nil {
			d.Discard(temp)
		}
	}()
	changes, all := filepath.Join(temp, "n"), filepath.Join(temp, "r")
	if st, err = fill(ctx, changes, tar, l); err != nil {
		return st, err
	}
	if err = d.copyStack(ctx, stack, all); err != nil {
		return st, err
	}
	if err = whole.Merge(changes, all); err != nil {
		return st, fmt.Errorf("apply layer: %w", blob.NoSpace(err))
	}
	if err = os.RemoveAll(changes); err != nil {
		return st, fmt.Errorf("remove unpacked changes: %w", err)
	}
	if err = blob.SyncTree(temp); err != nil {
		return st, err
	}
	return st, d.Commit(temp, d.Layer(id))
}

func fill(ctx context.Context, dir string, tar io.Reader, l archive.Limits) (archive.Stats, error) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return archive.Stats{}, fmt.Errorf("make layer folder: %w", blob.NoSpace(err))
	}
	root, err := os.Open(dir)
	if err != nil {
		return archive.Stats{}, fmt.Errorf("open layer folder: %w", err)
	}
	defer root.Close()
	return archive.Unpack(ctx, root, tar, archive.Options{Limits: l, Marks: archive.FileMarks})
}

// tree is where the content of a layer or top lies.
func tree(path string) string { return filepath.Join(path, "r") }

// copyStack makes the folder to with what the stack shows.
func (d *Driver) copyStack(ctx context.Context, stack []string, to string) error {
	if len(stack) == 0 {
		if err := os.Mkdir(to, 0o755); err != nil {
			return fmt.Errorf("make layer folder: %w", blob.NoSpace(err))
		}
		return nil
	}
	if err := d.Need(stack[:1]); err != nil {
		return err
	}
	if err := copyTree(ctx, tree(d.Layer(stack[0])), to); err != nil {
		return fmt.Errorf("copy layer %s: %w", stack[0], blob.NoSpace(err))
	}
	return nil
}

// OpenLayer implements driver.Driver. What lies below the layer is there as
// well.
func (d *Driver) OpenLayer(id string) (*os.File, error) { return d.OpenFolder(id, "r") }

// Create implements driver.Driver.
func (d *Driver) Create(id string, stack []string, limit int64) (err error) {
	if limit > 0 {
		return fmt.Errorf("limit writable layer to %d bytes: %w: driver vfs copies the image into every container: use overlay or btrfs", limit, driver.ErrUnsupported)
	}
	if err := d.Need(stack); err != nil {
		return err
	}
	temp, err := d.Temp(id)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			d.Discard(temp)
		}
	}()
	if err = d.copyStack(context.Background(), stack, tree(temp)); err != nil {
		return err
	}
	if err = blob.SyncTree(temp); err != nil {
		return err
	}
	return d.Commit(temp, d.Top(id))
}

// Mounts implements driver.Driver.
func (d *Driver) Mounts(id string, stack []string) ([]driver.Mount, error) {
	if err := d.NeedTop(id); err != nil {
		return nil, err
	}
	return []driver.Mount{{Source: tree(d.Top(id)), Flags: unix.MS_BIND}}, nil
}

// Size implements driver.Driver.
func (d *Driver) Size(id string, stack []string) (int64, error) {
	if err := d.NeedTop(id); err != nil {
		return 0, err
	}
	return whole.Size(tree(d.Top(id)), d.below(stack))
}

// Changes implements driver.Driver.
func (d *Driver) Changes(id string, stack []string) ([]driver.Change, error) {
	if err := d.NeedTop(id); err != nil {
		return nil, err
	}
	return whole.Changes(tree(d.Top(id)), d.below(stack))
}

// Diff implements driver.Driver.
func (d *Driver) Diff(ctx context.Context, id string, stack []string, w io.Writer) error {
	cs, err := d.Changes(id, stack)
	if err != nil {
		return err
	}
	root, err := os.Open(tree(d.Top(id)))
	if err != nil {
		return fmt.Errorf("open writable layer: %w", err)
	}
	defer root.Close()
	return driver.PackChanges(ctx, root, cs, w)
}

// below is the tree of the stack, "" if it is empty.
func (d *Driver) below(stack []string) string {
	if len(stack) == 0 {
		return ""
	}
	return tree(d.Layer(stack[0]))
}
