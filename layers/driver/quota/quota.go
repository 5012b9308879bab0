// Package quota bounds what can be written below a folder, by the project
// quotas of ext4 and xfs (quotactl(2), linux/quota.h, linux/fs.h): the folder
// gets a project number that everything made in it inherits, and the number
// a limit.
//
// Numbers are First to Last. One is taken if the file system counts nothing
// for it and has no limit for it, so two stores on one file system keep out
// of each other's way, and nothing has to be remembered: the folder bears its
// number.
//
// It bounds programs that write too much. The owner of a file may give it
// another number (FS_IOC_FSSETXATTR), from the machine's own user namespace.
package quota

import (
	"errors"
	"fmt"
	"hash/crc32"
	"os"

	"golang.org/x/sys/unix"
)

// The project numbers that are used: others are their administrator's.
const (
	First = 0xc0b10000
	Last  = 0xc0b1ffff
)

// ErrUnsupported says that the file system counts no projects; the reason
// and what to do follow.
var ErrUnsupported = errors.New("no project quotas")

// Set makes everything that will be in the empty folder path count against
// bytes, rounded up to KiB. name makes it likely that a free number is found
// at once. Calls must not overlap on one file system. On an error the folder
// may bear a number without a limit.
func Set(path, name string, bytes int64) error {
	f, err := os.OpenFile(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return fmt.Errorf("open folder to limit: %w", err)
	}
	defer f.Close()
	if err := enforced(f); err != nil {
		return err
	}
	attr, err := getAttr(f)
	if err != nil {
		return err
	}
	if attr.projid != 0 {
		return fmt.Errorf("%w: folder %s belongs to project %d already: a limit within a limit can't be had", ErrUnsupported, path, attr.projid)
	}
	if attr.projid, err = free(f, name); err != nil {
		return err
	}
	// The limit first: nothing is ever written below without it.
	if err := setLimit(f, attr.projid, bytes); err != nil {
		return err
	}
	attr.xflags |= projInherit
	return setAttr(f, attr)
}

// free finds a number that nothing is counted for.
func free(f *os.File, name string) (uint32, error) {
	const many = Last - First + 1
	start := crc32.ChecksumIEEE([]byte(name)) % many
	for i := range uint32(many) {
		id := First + (start+i)%many
		q, err := get(f, id)
		if err != nil {
			return 0, err
		}
		if q.unused() {
			return id, nil
		}
	}
	return 0, fmt.Errorf("%w: all %d numbers are taken", ErrUnsupported, many)
}

// Clear gives back the number of a folder that is to be removed. One that
// bears none of ours is left alone, as is one on a file system without
// projects.
func Clear(f *os.File) error {
	attr, err := getAttr(f)
	if errors.Is(err, ErrUnsupported) || err == nil && (attr.projid < First || attr.projid > Last) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := enforced(f); err != nil {
		return nil // switched off meanwhile: there is no limit to lift
	}
	return setLimit(f, attr.projid, 0)
}

// Limit is the limit of a folder in bytes, 0 if it has none of ours.
func Limit(path string) (int64, error) {
	f, err := os.OpenFile(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return 0, fmt.Errorf("open limited folder: %w", err)
	}
	defer f.Close()
	attr, err := getAttr(f)
	if err != nil || attr.projid < First || attr.projid > Last {
		return 0, err
	}
	q, err := get(f, attr.projid)
	return int64(q.bhardlimit) * blockSize, err
}
