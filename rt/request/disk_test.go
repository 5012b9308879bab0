package request

import (
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/stretchr/testify/require"

	"github.com/coble-os/coble/configs"
	"github.com/coble-os/coble/rt/store"
)

func TestDiskLimit(t *testing.T) {
	for opt, want := range map[string]int64{"64MiB": 64 << 20, "1g": 1 << 30, "4096": 4096} {
		n, err := DiskLimit(container.HostConfig{StorageOpt: map[string]string{"size": opt}})
		require.NoError(t, err)
		require.Equal(t, want, n)
	}
	for _, opts := range []map[string]string{{"size": ""}, {"size": "0"}, {"size": "-1"}, {"size": "much"}, {"sice": "1g"}, {"size": "1g", "other": "1"}} {
		_, err := DiskLimit(container.HostConfig{StorageOpt: opts})
		require.Error(t, err, "%v", opts)
	}
	n, err := DiskLimit(container.HostConfig{})
	require.NoError(t, err)
	require.Zero(t, n)

	in, err := FromSection("web", configs.Container{Image: "x", Disk: 64 << 20})
	require.NoError(t, err)
	n, err = DiskLimit(in.Host)
	require.NoError(t, err)
	require.EqualValues(t, 64<<20, n)
	in, err = FromSection("web", configs.Container{Image: "x"})
	require.NoError(t, err)
	require.Empty(t, in.Host.StorageOpt)
}

func TestBandwidth(t *testing.T) {
	in, err := FromSection("web", configs.Container{Image: "x", BandwidthIn: 1e7, BandwidthOut: 2e6})
	require.NoError(t, err)
	require.Equal(t, store.Bandwidth{In: 1e7, Out: 2e6}, in.Bandwidth)
	require.NoError(t, Check(in, Machine{CPUs: 1}))
	require.NoError(t, CheckBandwidth(store.Bandwidth{}, "host"))
	require.ErrorContains(t, CheckBandwidth(store.Bandwidth{Out: 7999}, "bridge"), "the least is 8kbit")
	for _, mode := range []container.NetworkMode{"host", "container:x"} {
		require.ErrorContains(t, CheckBandwidth(store.Bandwidth{Out: 1e6}, mode), "no link of its own")
	}
}
