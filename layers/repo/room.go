package repo

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/coble-os/coble/layers/blob"
)

// room refuses what is larger than the free space, in bytes; what no image
// has goes before.
func (r *Repo) room(need int64) error { return r.roomIn(r.fits, need) }

// layerRoom is room for what the driver unpacks, which may have a disk of its
// own.
func (r *Repo) layerRoom(need int64) error {
	if d, ok := r.drv.(interface{ Room(need int64) error }); ok {
		return r.roomIn(d.Room, need)
	}
	return r.room(need)
}

func (r *Repo) roomIn(fits func(need int64) error, need int64) error {
	err := fits(need)
	if !errors.Is(err, blob.ErrNoSpace) {
		return err
	}
	if _, ferr := r.freeUp(0); ferr != nil {
		return errors.Join(err, ferr)
	}
	return fits(need)
}

func (r *Repo) fits(need int64) error {
	d, err := os.Open(r.o.Root)
	if err != nil {
		return fmt.Errorf("open repository folder: %w", err)
	}
	defer d.Close()
	return blob.CheckSpace(d, need)
}

// ForgetPulls removes what pulls have left that ended longer than age ago
// without an image: layers, and parts of blobs, by which the next pull would go
// on. What is under way stays.
func (r *Repo) ForgetPulls(age time.Duration) error {
	_, err := r.freeUp(age)
	return err
}

// freeUp removes what no image has, and has not had for so long: downloads
// that nobody is at, and layers of pulls that were cut short. What is being
// made stays. It tells whether there was anything.
func (r *Repo) freeUp(age time.Duration) (some bool, err error) {
	n, err := r.downloads.Sweep(age)
	if err != nil {
		return n > 0, err
	}
	if err := r.dropLeases(age); err != nil {
		return n > 0, err
	}
	gone, err := r.collect()
	return n > 0 || len(gone) > 0, err
}

// freed is freeUp where the disk is full already: an error is not worth more
// than that one.
func (r *Repo) freed() bool {
	some, err := r.freeUp(0)
	return some && err == nil
}
