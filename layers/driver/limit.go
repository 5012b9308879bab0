package driver

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/coble-os/coble/layers/archive"
	"github.com/coble-os/coble/layers/driver/quota"
)

// Limit bounds, by a project quota, what can be written below a folder that
// Temp made for the top id, which is still empty. Zero is no limit.
// ErrUnsupported with the reason where the file system can't.
func (s Store) Limit(temp, id string, bytes int64) error {
	if bytes <= 0 {
		return nil
	}
	s.limiting.Lock()
	defer s.limiting.Unlock()
	err := quota.Set(temp, id, bytes)
	if errors.Is(err, quota.ErrUnsupported) {
		err = fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	if err != nil {
		return fmt.Errorf("limit writable layer to %d bytes: %w", bytes, err)
	}
	return nil
}

// dropFolder removes a folder and all in it, and lifts its limit, whose
// number is free again then. A number that can't be given back is lost, no
// more: it does not keep the folder.
func dropFolder(dir int, name string) error {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err == nil {
		f := os.NewFile(uintptr(fd), name)
		err = quota.Clear(f)
		f.Close()
		return errors.Join(archive.RemoveAll(dir, name), err)
	}
	return archive.RemoveAll(dir, name)
}
