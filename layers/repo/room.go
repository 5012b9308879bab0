package repo

import (
	"errors"
	"fmt"
	"os"

	"github.com/coble-os/coble/layers/blob"
)

// room refuses what is larger than the free space, in bytes; what no image
// has goes before.
func (r *Repo) room(need int64) error {
	err := r.fits(need)
	if !errors.Is(err, blob.ErrNoSpace) {
		return err
	}
	if _, ferr := r.freeUp(); ferr != nil {
		return errors.Join(err, ferr)
	}
	return r.fits(need)
}

func (r *Repo) fits(need int64) error {
	d, err := os.Open(r.o.Root)
	if err != nil {
		return fmt.Errorf("open repository folder: %w", err)
	}
	defer d.Close()
	return blob.CheckSpace(d, need)
}

// freeUp removes what no image has: downloads that nobody is at, and layers
// of pulls that were cut short. What is being made stays. It tells whether
// there was anything.
func (r *Repo) freeUp() (some bool, err error) {
	n, err := r.fetches.sweep(0)
	if err != nil {
		return n > 0, err
	}
	if err := r.dropLeases(0); err != nil {
		return n > 0, err
	}
	gone, err := r.collect()
	return n > 0 || len(gone) > 0, err
}

// freed is freeUp where the disk is full already: an error is not worth more
// than that one.
func (r *Repo) freed() bool {
	some, err := r.freeUp()
	return some && err == nil
}
