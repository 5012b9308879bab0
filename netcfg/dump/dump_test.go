package dump

import (
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
)

func TestList(t *testing.T) {
	calls := 0
	all, err := List(func() ([]int, error) {
		if calls++; calls < 3 {
			return []int{0}, fmt.Errorf("list: %w", netlink.ErrDumpInterrupted)
		}
		return []int{1, 2}, nil
	})
	require.NoError(t, err)
	require.Equal(t, []int{1, 2}, all)
	_, err = List(func() ([]int, error) { return nil, netlink.ErrDumpInterrupted })
	require.ErrorIs(t, err, netlink.ErrDumpInterrupted)
	calls = 0
	_, err = List(func() ([]int, error) { calls++; return nil, errors.New("other") })
	require.Error(t, err)
	require.Equal(t, 1, calls)
}
