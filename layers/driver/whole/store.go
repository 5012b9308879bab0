// Package whole has what drivers share whose layers and tops are whole trees
// rather than changes: applying a layer's changes to a copy of what lies
// below, and finding what a container changed by comparing two trees. Only
// the topmost layer of a stack is looked at: it holds all the others.
//
// It makes nothing durable.
package whole

import (
	"context"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/layers/archive"
	"github.com/coble-os/coble/layers/driver"
)

// Store is a driver.Store of whole trees. It has those methods of
// driver.Driver that only look at layers and tops.
type Store struct {
	driver.Store
	open func(place string) (*os.File, error)
}

// New makes a Store; open opens the folder with the tree of a layer or top
// that lies at place (driver.Store), without following a link.
func New(s driver.Store, open func(place string) (*os.File, error)) Store { return Store{s, open} }

// OpenDir opens a folder without following a link in its last name: what New
// wants, where the tree of a layer is a folder.
func OpenDir(path string) (*os.File, error) {
	return os.OpenFile(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
}

// Marks implements driver.Driver.
func (s Store) Marks() archive.Marks { return archive.FileMarks }

// OpenLayer implements driver.Driver. What lies below the layer is there as
// well.
func (s Store) OpenLayer(id string) (*os.File, error) {
	if err := s.Need([]string{id}); err != nil {
		return nil, err
	}
	f, err := s.open(s.Layer(id))
	if err != nil {
		return nil, fmt.Errorf("open layer %s: %w", id, err)
	}
	return f, nil
}

// trees opens a top and its stack, nil if that is empty.
func (s Store) trees(id string, stack []string) (top, below *os.File, err error) {
	if err := s.NeedTop(id); err != nil {
		return nil, nil, err
	}
	if len(stack) > 0 {
		if below, err = s.OpenLayer(stack[0]); err != nil {
			return nil, nil, err
		}
	}
	if top, err = s.open(s.Top(id)); err != nil {
		below.Close()
		return nil, nil, fmt.Errorf("open writable layer %s: %w", id, err)
	}
	return top, below, nil
}

// Size implements driver.Driver.
func (s Store) Size(id string, stack []string) (int64, error) {
	top, below, err := s.trees(id, stack)
	if err != nil {
		return 0, err
	}
	defer top.Close()
	defer below.Close()
	return size(top, below)
}

// Changes implements driver.Driver.
func (s Store) Changes(id string, stack []string) ([]driver.Change, error) {
	top, below, err := s.trees(id, stack)
	if err != nil {
		return nil, err
	}
	defer top.Close()
	defer below.Close()
	return changes(top, below)
}

// Diff implements driver.Driver.
func (s Store) Diff(ctx context.Context, id string, stack []string, w io.Writer) error {
	top, below, err := s.trees(id, stack)
	if err != nil {
		return err
	}
	defer top.Close()
	defer below.Close()
	cs, err := changes(top, below)
	if err != nil {
		return err
	}
	return driver.PackChanges(ctx, top, cs, w)
}
