package blob

import (
	"errors"

	"golang.org/x/sys/unix"
)

func isFull(err error) bool {
	return !errors.Is(err, ErrNoSpace) && (errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT))
}
