// Package dump reads the kernel's lists whole. A list that changes while it is read may lack entries or have some twice
// (NLM_F_DUMP_INTR, include/uapi/linux/netlink.h), which is seen whenever containers start beside each other: the reader is to
// ask again.
package dump

import (
	"errors"

	"github.com/vishvananda/netlink"
)

const tries = 32

// List calls list until its answer is whole. After 32 that were not it returns the last with netlink.ErrDumpInterrupted.
func List[T any](list func() ([]T, error)) (all []T, err error) {
	for range tries {
		if all, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return all, err
}
