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
type Driver struct{ whole.Store }

// Open makes root if needed.
func Open(root string) (*Driver, error) {
	s, err := driver.OpenStore(root, nil)
	return &Driver{whole.New(s, func(place string) (*os.File, error) { return whole.OpenDir(tree(place)) })}, err
}

// Name implements driver.Driver.
func (d *Driver) Name() string { return "vfs" }

// Unpack implements driver.Driver.
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
	if st, err = whole.Fill(ctx, changes, tar, l); err != nil {
		return st, err
	}
	if err = d.copyStack(ctx, stack, all); err != nil {
		return st, err
	}
	if err = whole.Merge(changes, all); err != nil {
		return st, err
	}
	if err = blob.SyncTree(temp); err != nil {
		return st, err
	}
	return st, d.Commit(temp, d.Layer(id))
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
